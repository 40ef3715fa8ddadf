"""From observed episodes to a suite's calibration: kinematic ranges, filter noise, similarity and skip scores."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heisd.accept import SPEC_VLA_TOLERANCE_BINS
from heisd.bench.ladder import LADDER
from heisd.bench.observed import GOOD_BINS, ObservedEpisode, ObservedStep
from heisd.bench.rollout import DEG_PER_UNIT, MM_PER_UNIT
from heisd.bench.skip_fit import adaptive_similarity, fit_score, quality
from heisd.bench.watch_fit import fit_watch, watch_evidence
from heisd.errors import BadInput
from heisd.kinematics import Distance, MotionRanges, bin_sizes, fit_ranges, fit_variability_high
from heisd.presets.calibration import Calibration, SkipSetting
from heisd.presets.skippers import ALL_SKIPPERS, MEMORY
from heisd.propose.kalman import fit_noise
from heisd.route.base import MOTION_TOKENS
from heisd.route.calibrated import FEATURES
from heisd.types import FloatArray, IntArray

# Features that a preset has no proposer for never change and drop out, and so does ``n_skips`` of those that look:
# plain decoding, which the scores are fitted to, never skips.
MIN_KNOWN_SHARE = 0.9  # of eligible steps that must have a feature: a step without one is never skipped
SIMILARITY_PERCENTILE = 1.0  # below it a scene is not what memory knows
VARIABILITY_SOURCES = ("parallel", "persistence")  # whose deviations stand for KERV's, the first that was observed


@dataclass(frozen=True, slots=True)
class Target:
    """What a fit must know of the policy."""

    sha256: str
    q01: tuple[float, ...]  # (T,) of its action statistics
    q99: tuple[float, ...]

    @property
    def bin_sizes(self) -> FloatArray:
        """(T,) action units per bin."""
        return bin_sizes(self.q01, self.q99)


def fit_suite(suite: str, target: Target, episodes: Sequence[ObservedEpisode]) -> Calibration:
    """Everything that can be fitted without skipping; the settings it holds never skip.

    Ranges, filter noise and the limits of the watch come from solved episodes, which is what demonstrations are; from
    all episodes if none was.
    Raises BadInput when there is no episode to fit to.
    """
    usual = [episode for episode in episodes if episode.success] or list(episodes)
    notes = [] if any(episode.success for episode in episodes) else ["no episode was solved: ranges are of failures"]
    motions = [episode.motion() for episode in usual]
    paper = fit_ranges(motions, suite=suite, window=15, distance=Distance.PATH)
    code = fit_ranges(motions, suite=suite, window=5, distance=Distance.LAST_POINT)
    variability, note = _variability_high(usual, target, paper)
    noise = fit_noise([episode.actions for episode in usual])
    similarity, tried = _adaptive_similarity(episodes)
    if not any(rung["passes"] for rung in tried):
        reason = "no similarity vouches for an unverified retrieved action" if tried else "no memory was observed"
        notes.append(f"{reason}: adaptive_similarity is 1")
    return Calibration(
        suite=suite,
        policy_hash=target.sha256,
        motion_paper=replace(paper, variability_high=variability).as_dict(),
        motion_code=replace(code, variability_high=variability).as_dict(),
        kalman_process=noise.process,
        kalman_measurement=noise.measurement,
        adaptive_similarity=similarity,
        skips=fit_settings(episodes, code),
        watch=fit_watch(usual),
        evidence={
            "good": good_action(target.bin_sizes),
            "adaptive_similarity": tried,
            "variability_high": note,
            "watch": watch_evidence(usual),
            "notes": notes,
        },
    )


def good_action(sizes: FloatArray) -> dict[str, Any]:
    """What "good" means: bins, and what as many bins are in millimetres and degrees per axis."""
    return {
        "bins": GOOD_BINS,
        "mm": [round(float(size) * GOOD_BINS * MM_PER_UNIT, 3) for size in sizes[:3]],
        "deg": [round(float(size) * GOOD_BINS * DEG_PER_UNIT, 3) for size in sizes[3:MOTION_TOKENS]],
        "definition": "every motion token at most so many bins from the target's own, and the gripper equal; of a "
        "chunk, so many bins an action between where it leads and where the chunk denoised from zero noise does, at "
        "every action that would be executed",
    }


def fit_settings(episodes: Sequence[ObservedEpisode], ranges: MotionRanges) -> dict[str, SkipSetting]:
    """A score for every preset that was observed, fitted to half of the episodes and judged on the other half."""
    presets = dict.fromkeys(name for episode in episodes for step in episode.steps for name in step.cases)
    fused = {episode.key: episode.fused(ranges) for episode in episodes}
    fitted_to, held_out = halves(episodes)
    return {preset: _setting(preset, fitted_to, held_out, fused) for preset in presets}


def halves(episodes: Sequence[ObservedEpisode]) -> tuple[list[ObservedEpisode], list[ObservedEpisode]]:
    """Two halves, by a hash of the episodes' keys: of any order, and of no task or condition in particular."""
    shuffled = sorted(episodes, key=lambda episode: (zlib.crc32(episode.key.encode()), episode.key))
    return shuffled[::2], shuffled[1::2]


@dataclass(frozen=True, slots=True)
class _Table:
    """The steps at which nothing but the score could forbid a skip."""

    rows: list[dict[str, float]]
    is_good: np.ndarray[Any, np.dtype[np.bool_]]  # (n,)

    def columns(self, names: Sequence[str]) -> FloatArray:
        return np.asarray([[row.get(name, math.nan) for name in names] for row in self.rows]).reshape(-1, len(names))


def _setting(
    preset: str, fitted_to: Sequence[ObservedEpisode], held_out: Sequence[ObservedEpisode],
    fused: Mapping[str, FloatArray],
) -> SkipSetting:  # fmt: skip
    ours, theirs = _table(preset, fitted_to, fused), _table(preset, held_out, fused)
    if not ours.rows:
        raise BadInput(f"{preset}: no observed step could have been skipped; observe more episodes into another --out")
    features = ours.columns(FEATURES)
    names = [name for name, column in zip(FEATURES, features.T, strict=True) if _is_known(column)]
    features = ours.columns(names)
    whole = np.isfinite(features).all(axis=1)
    score = fit_score(names, features[whole], ours.is_good[whole])
    promised = np.asarray([score(row) for row in theirs.rows])
    found = quality(promised, theirs.is_good)
    return SkipSetting(
        score=score,
        threshold=LADDER[0].threshold,
        n_skips=0,
        min_similarity=_least_similarity([*fitted_to, *held_out]) if "similarity" in names else None,
        evidence={
            "auc": found["auc"],
            "curve": found["curve"],
            "n_held_out": found["n"],
            "n_held_out_good": found["n_good"],
            "n_fitted": int(whole.sum()),
            "n_fitted_good": int(ours.is_good[whole].sum()),
        },
    )


def _table(preset: str, episodes: Sequence[ObservedEpisode], fused: Mapping[str, FloatArray]) -> _Table:
    rows, labels = [], []
    for episode in episodes:
        for step, f in zip(episode.steps, fused[episode.key].tolist(), strict=True):
            case = step.cases.get(preset)
            if case is not None and not case.is_gripper_near:
                rows.append({**case.features, "fused": f})
                labels.append((case.guess or step.guesses[ALL_SKIPPERS[preset].source]).is_good)
    return _Table(rows, np.asarray(labels, dtype=np.bool_))


def _is_known(column: FloatArray) -> bool:
    return bool(np.isfinite(column).mean() >= MIN_KNOWN_SHARE)


def _similarities(episodes: Sequence[ObservedEpisode]) -> FloatArray:
    values = np.asarray([step.similarity for episode in episodes for step in episode.steps])
    return np.asarray(values[np.isfinite(values)])


def _least_similarity(episodes: Sequence[ObservedEpisode]) -> float | None:
    values = _similarities(episodes)
    return float(np.percentile(values, SIMILARITY_PERCENTILE)) if len(values) else None


def _adaptive_similarity(episodes: Sequence[ObservedEpisode]) -> tuple[float, list[dict[str, Any]]]:
    """S_min for executing memory's best guess, whatever a preset executes: HeiSD executes that one."""
    steps = [
        step
        for episode in episodes
        for step in episode.steps
        if MEMORY in step.guesses and math.isfinite(step.similarity)
    ]
    is_good = np.asarray([step.guesses[MEMORY].is_good for step in steps], dtype=np.bool_)
    return adaptive_similarity(np.asarray([step.similarity for step in steps]), is_good)


def _variability_high(
    episodes: Sequence[ObservedEpisode], target: Target, ranges: MotionRanges
) -> tuple[float | None, dict[str, Any]]:
    """KERV's K_hi without episodes under a relaxed rule: from what the rule would have kept of a draft at each step.

    KERV samples it in episodes played with tolerance 9. Here plain decoding played, and at each step the draft's
    leading tokens within 9 bins of the target's count as kept: the states are those of plain decoding, and behind a
    kept token the target's own opinion is not asked again.
    """
    seen = [name for name in VARIABILITY_SOURCES if any(name in s.guesses for e in episodes for s in e.steps)]
    if not seen:
        return None, {"value": None, "how": "nobody's drafts were observed"}
    rows = [np.asarray([kept_deviation_bins(step, seen[0]) for step in episode.steps]) for episode in episodes]
    how = f"leading tokens of {seen[0]}'s draft within {SPEC_VLA_TOLERANCE_BINS} bins, along plain decoding"
    try:
        value = fit_variability_high(rows, target.bin_sizes, ranges.action_change_sigma)
    except BadInput as error:
        return None, {"value": None, "how": f"{how}: {error}"}
    return value, {"value": value, "how": how}


def kept_deviation_bins(step: ObservedStep, source: str) -> IntArray:
    """(T,) bins between the target's tokens and what tolerance 9 keeps of a draft; 0 from the first miss on."""
    bins = np.zeros(len(step.tokens), dtype=np.int64)
    if (guess := step.guesses.get(source)) is None:
        return bins
    apart = np.abs(np.asarray(guess.tokens) - np.asarray(step.tokens))[:MOTION_TOKENS]
    bins[:MOTION_TOKENS] = np.where(np.logical_and.accumulate(apart <= SPEC_VLA_TOLERANCE_BINS), apart, 0)
    return bins
