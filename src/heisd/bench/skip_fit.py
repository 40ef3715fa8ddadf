"""The statistics behind a calibrated skip: a logistic score and its check, one-sided bounds, a similarity threshold.

Pure functions of arrays; what is an observation and what is good about it is the caller's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaincinv, expit
from scipy.stats import rankdata

from heisd.errors import BadInput
from heisd.route.calibrated import SkipScore
from heisd.types import FloatArray

BoolArray = npt.NDArray[np.bool_]

CONFIDENCE = 0.95  # of every one-sided bound
PRECISION = 0.95  # of HeiSD's unverified actions; the paper gives no number, this is the project's reading
L2 = 1e-3  # weight of the squared weights beside the mean log loss; features are standardised
N_CURVE_BINS = 10
SIMILARITY_SHARES = tuple(i / 20 for i in range(1, 21))  # of all frames, strict to loose; fixed beforehand


def clopper_pearson_low(k: int, n: int, *, confidence: float = CONFIDENCE) -> float:
    """Lower one-sided bound of a share of which ``k`` in ``n`` were seen (Clopper and Pearson 1934); 0 when n is 0."""
    _check_counts(k, n)
    return 0.0 if k == 0 else float(betaincinv(k, n - k + 1, 1.0 - confidence))


def clopper_pearson_high(k: int, n: int, *, confidence: float = CONFIDENCE) -> float:
    """Upper one-sided bound of a share of which ``k`` in ``n`` were seen; 1 when n is 0: nothing is known."""
    _check_counts(k, n)
    return 1.0 if k == n else float(betaincinv(k + 1, n - k, confidence))


def _check_counts(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise BadInput(f"a share is k of n with 0 <= k <= n; got {k} of {n}")


def fit_score(names: Sequence[str], features: FloatArray, is_good: BoolArray, *, l2: float = L2) -> SkipScore:
    """Logistic regression with L2 on standardised features; a feature that never changes is left out.

    Args:
        names: of the columns.
        features: (n, d) finite numbers.
        is_good: (n,) what the score estimates the probability of.
        l2: at least 0; the bias is not penalised.

    Raises:
        BadInput: no row, shapes that differ, or a number that is not finite.
    """
    X, y = np.asarray(features, dtype=np.float64), np.asarray(is_good, dtype=np.float64)
    if X.ndim != 2 or X.shape != (len(y), len(names)) or not len(y) or not np.isfinite(X).all():
        raise BadInput(f"a score is fitted to (n, {len(names)}) finite features and n labels; got {X.shape}, {y.shape}")
    varies = X.std(axis=0) > 1e-9 * (1.0 + np.abs(X.mean(axis=0)))  # beyond rounding
    X, kept = X[:, varies], tuple(name for name, does in zip(names, varies, strict=True) if does)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    bias = float(np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)))
    weight: FloatArray = np.zeros(len(kept))
    if 0 < y.sum() < len(y):  # one class only: the likelihood has no maximum, the share alone is the estimate
        weight, bias = _most_likely((X - mean) / scale, y, bias, l2)
    return SkipScore(kept, tuple(mean.tolist()), tuple(scale.tolist()), tuple(weight.tolist()), bias)


def _most_likely(Z: FloatArray, y: FloatArray, bias: float, l2: float) -> tuple[FloatArray, float]:
    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        weight, logit = parameters[:-1], Z @ parameters[:-1] + parameters[-1]
        error = (expit(logit) - y) / len(y)
        value = float(np.mean(np.logaddexp(0.0, logit) - y * logit) + 0.5 * l2 * weight @ weight)
        return value, np.append(Z.T @ error + l2 * weight, error.sum())

    start = np.append(np.zeros(Z.shape[1]), bias)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9})
    return np.asarray(found.x[:-1], dtype=np.float64), float(found.x[-1])


def quality(probability: FloatArray, is_good: BoolArray) -> dict[str, Any]:
    """How well a score does on rows it was not fitted to: AUC and calibration curve; None where undefined."""
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(is_good, dtype=bool)
    return {
        "n": len(y),
        "n_good": int(y.sum()),
        "auc": area_under_curve(p, y),
        "curve": calibration_curve(p, y),
    }


def area_under_curve(probability: FloatArray, is_good: BoolArray) -> float | None:
    """Probability that a good row scores above a bad one, ties half (Mann-Whitney); None without both kinds."""
    n_good = int(is_good.sum())
    n_bad = len(is_good) - n_good
    if not (n_good and n_bad):
        return None
    ranks = rankdata(probability)
    return float((ranks[is_good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad))


def calibration_curve(probability: FloatArray, is_good: BoolArray) -> list[dict[str, float]]:
    """Per tenth of the score that holds a row: its bounds, rows, mean score (score) and share of good rows (good)."""
    which = np.minimum((probability * N_CURVE_BINS).astype(np.int64), N_CURVE_BINS - 1)
    return [
        {
            "low": i / N_CURVE_BINS,
            "high": (i + 1) / N_CURVE_BINS,
            "n": int((which == i).sum()),
            "score": float(probability[which == i].mean()),
            "good": float(is_good[which == i].mean()),
        }
        for i in np.unique(which).tolist()
    ]


def adaptive_similarity(similarity: FloatArray, is_good: BoolArray) -> tuple[float, list[dict[str, Any]]]:
    """HeiSD's least acceptable similarity S_min, and the thresholds that were tried (HeiSD, Algorithm 1).

    The smallest s for which a one-sided Clopper-Pearson bound says P(good | similarity >= s) >= 0.95. Thresholds are
    tried from strict to loose in an order that was fixed beforehand, and the first failure ends the search: choosing
    the best of all would void the bound. Too few frames to pass even without an error are no test. Frames count as
    independent. 1.0 when no threshold passes.

    Args:
        similarity: (n,) finite.
        is_good: (n,).
    """
    s, y = np.asarray(similarity, dtype=np.float64), np.asarray(is_good, dtype=bool)
    minimum, tried = 1.0, []
    for threshold in _thresholds(s):
        chosen = s >= threshold
        n, k = int(chosen.sum()), int(y[chosen].sum())
        if clopper_pearson_low(n, n) < PRECISION:
            continue
        low = clopper_pearson_low(k, n)
        passes = low >= PRECISION
        tried.append({"similarity": threshold, "n": n, "n_good": k, "low95": low, "passes": passes})
        if not passes:
            break
        minimum = threshold
    return minimum, tried


def _thresholds(similarity: FloatArray) -> list[float]:
    """Different values of the similarity that a fixed series of shares of the frames reaches, strict to loose."""
    if not len(similarity):
        return []
    falling = np.sort(similarity)[::-1]
    places = [max(int(np.ceil(share * len(falling))) - 1, 0) for share in SIMILARITY_SHARES]
    return list(dict.fromkeys(falling[places].tolist()))
