"""From observed rounds to the acceptance of a chunk policy: how near is near enough, and what passes all the same.

An acceptance test is self-consistency near the clean end and no certificate, so it is held against the chunk that the
same policy denoises in full, from zero noise, on the same observation (:mod:`heisd.bench.observe_chunks`): actions are
good as long as they lead nowhere else (:func:`heisd.accept_chunk.good_actions`). The rules that are judged are the
presets' own, on the drafts, endpoints and ages of prefix that they would have seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heisd.accept_chunk import EndpointTest, good_actions
from heisd.bench.observed import ObservedEpisode, ObservedRound
from heisd.bench.rollout import BINS_PER_UNIT, DEG_PER_UNIT, MM_PER_UNIT
from heisd.bench.skip_fit import PRECISION, clopper_pearson_low
from heisd.codec import GRIPPER
from heisd.errors import BadInput
from heisd.presets.calibration import Acceptance
from heisd.presets.flash import HYBRID_LEVEL, HYBRID_SOURCES, RETRIEVAL_TOLERANCE, flash_rule, hybrid_rule
from heisd.types import BoolArray, FloatArray

# Bounds on the velocity's residual, strict to loose; fixed beforehand. FLASH's pair is as strict as 1.5.
RESIDUALS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a rule made of one round."""

    n_judged: int
    n_accepted: int
    is_good: BoolArray  # (n_judged,) of the draft that it judged best
    deviation: FloatArray  # (n_accepted, T) absolute, normalised: of the accepted actions from the true ones
    age_steps: int

    @property
    def n_false(self) -> int:
        """Accepted actions that are not good."""
        return int((~self.is_good[: self.n_accepted]).sum())

    @property
    def n_leading_good(self) -> int:
        """Actions before the first that is not good: what a perfect test would have accepted."""
        return int(np.cumprod(self.is_good).sum())


def rounds_of(episodes: Sequence[ObservedEpisode]) -> list[ObservedRound]:
    """All observed rounds with something to verify."""
    return [step.round for episode in episodes for step in episode.steps if step.round is not None]


def judged(rule: EndpointTest, sources: Sequence[str], seen: ObservedRound) -> Judged | None:
    """One round under a rule, with the drafts of these proposers alone; None where they had none."""
    mine = [i for i, source in enumerate(seen.sources) if source in sources]
    if not mine:
        return None
    levels = [seen.levels.index(level) for level in rule.levels]
    drafts, endpoints = seen.drafts[mine], seen.endpoints[mine][:, levels]
    names, n = [seen.sources[i] for i in mine], len(seen.truth)
    verdict = rule.judge(drafts, names, endpoints, n, seen.last_gripper)
    k = verdict.n_accepted
    deviation = np.abs(np.clip(verdict.chunk[:k], -1, 1) - np.clip(seen.truth[:k], -1, 1))
    return Judged(n, k, good_actions(verdict.chunk, seen.truth), deviation, seen.age_steps)


def judge_all(rule: EndpointTest, sources: Sequence[str], rounds: Sequence[ObservedRound]) -> list[Judged]:
    """Every round in which these proposers had a draft."""
    found = (judged(rule, sources, seen) for seen in rounds)
    return [each for each in found if each is not None]


def fit_acceptance(rounds: Sequence[ObservedRound], sizes: FloatArray) -> Acceptance:
    """The loosest bound on the residual for which accepted actions are good with a probability of 0.95 or more.

    By a one-sided 95 % Clopper-Pearson bound, strict to loose in a fixed order up to the first failure, as HeiSD's
    least similarity (:func:`heisd.bench.skip_fit.adaptive_similarity`). Bounds that accept too few actions to pass
    even without an error are no test; 0, which accepts nothing, when none passes. Actions count as independent, which
    those of one round are not: the bound is narrower than it should be.

    Args:
        rounds: observed.
        sizes: (T,) action units per bin.

    Raises BadInput without a round of the preset's proposers.
    """
    chosen, tried = 0.0, []
    for residual in RESIDUALS:
        found = judge_all(hybrid_rule(residual), HYBRID_SOURCES, rounds)
        if not found:
            raise BadInput("no draft of flow_hybrid was observed; train a draft head and observe into another --out")
        n, n_false = sum(each.n_accepted for each in found), sum(each.n_false for each in found)
        if clopper_pearson_low(n, n) < PRECISION:
            continue
        low = clopper_pearson_low(n - n_false, n)
        passes = low >= PRECISION
        tried.append({"residual": residual, **rates(found, sizes), "good_low95": low, "passes": passes})
        if not passes:
            break
        chosen = residual
    allowed = allowed_deviation(chosen * HYBRID_LEVEL, sizes)
    return Acceptance(residual=chosen, evidence={"level": HYBRID_LEVEL, "tried": tried, "tolerance": allowed})


def preset_rates(rounds: Sequence[ObservedRound], suite: str, residual: float, sizes: FloatArray) -> dict[str, Any]:
    """False accepts and false rejects of every preset that verifies, where its proposers were observed."""
    rules: Mapping[str, tuple[EndpointTest, tuple[str, ...]]] = {
        "flash": (flash_rule(suite), ("draft_head",)),
        "flash_retrieval": (flash_rule(suite, RETRIEVAL_TOLERANCE), ("retrieval",)),
        "flow_hybrid": (hybrid_rule(residual), HYBRID_SOURCES),
    }
    found = {preset: judge_all(rule, sources, rounds) for preset, (rule, sources) in rules.items()}
    return {preset: {**rates(each, sizes), "by_age_steps": _by_age(each)} for preset, each in found.items() if each}


def rates(found: Sequence[Judged], sizes: FloatArray) -> dict[str, Any]:
    """Counts and shares of actions; a share of nothing is None.

    ``false_accept_share``: of the accepted actions those that are not good. ``false_reject_share``: of the leading good
    actions, which a perfect test accepts, those that were not. ``deviation``: of accepted actions from the true ones.
    """
    n_accepted, n_false = sum(each.n_accepted for each in found), sum(each.n_false for each in found)
    n_leading = sum(each.n_leading_good for each in found)
    n_missed = sum(max(each.n_leading_good - each.n_accepted, 0) for each in found)
    n_judged = sum(each.n_judged for each in found)
    return {
        "n_rounds": len(found),
        "n_judged": n_judged,
        "n_accepted": n_accepted,
        "accepted_share": n_accepted / n_judged if n_judged else None,
        "n_false_accepts": n_false,
        "false_accept_share": n_false / n_accepted if n_accepted else None,
        "n_leading_good": n_leading,
        "n_false_rejects": n_missed,
        "false_reject_share": n_missed / n_leading if n_leading else None,
        "deviation": _deviation(found, sizes),
    }


def allowed_deviation(tolerance: float, sizes: FloatArray) -> dict[str, Any]:
    """What a tolerance (root mean square over six normalised numbers) is at most in one of them, if all others agree.

    Between draft and endpoint: bins, and millimetres and degrees an axis at an action of that size.
    """
    bins = tolerance * float(np.sqrt(GRIPPER)) * BINS_PER_UNIT
    mm, deg = (np.round(bins * part, 3).tolist() for part in _scales(sizes))
    return {"rms_normalised": tolerance, "bins": round(bins, 3), "mm": mm, "deg": deg}


def _deviation(found: Sequence[Judged], sizes: FloatArray) -> dict[str, dict[str, float]] | None:
    """Largest number of an action: of 50, 95 and 100 % of the accepted actions in bins, mm and degrees."""
    rows = np.concatenate([each.deviation for each in found]) if found else np.empty((0, GRIPPER + 1))
    if not len(rows):
        return None
    mm, deg = _scales(sizes)
    bins = rows[:, :GRIPPER] * BINS_PER_UNIT
    series = {"bins": bins.max(axis=1), "mm": (bins[:, :3] * mm).max(axis=1), "deg": (bins[:, 3:] * deg).max(axis=1)}
    return {
        unit: {name: round(float(np.percentile(values, q)), 3) for name, q in (("p50", 50), ("p95", 95), ("max", 100))}
        for unit, values in series.items()
    }


def _scales(sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(3,) millimetres and (3,) degrees of one bin."""
    return np.asarray(sizes[:3]) * MM_PER_UNIT, np.asarray(sizes[3:GRIPPER]) * DEG_PER_UNIT


def _by_age(found: Sequence[Judged]) -> dict[str, dict[str, float | None]]:
    """Acceptance and false accepts by the age of the prefix."""
    made = {}
    for age in sorted({each.age_steps for each in found}):
        mine = [each for each in found if each.age_steps == age]
        n_accepted, n_judged = sum(each.n_accepted for each in mine), sum(each.n_judged for each in mine)
        n_false = sum(each.n_false for each in mine)
        made[str(age)] = {
            "n_rounds": len(mine),
            "accepted_share": n_accepted / n_judged,
            "false_accept_share": n_false / n_accepted if n_accepted else None,
        }
    return made
