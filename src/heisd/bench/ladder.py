"""The ladder of trials: settings from strict to loose, each played against plain decoding on the same starts.

The order is fixed beforehand and the first failure ends the climb, so that no setting is chosen because it was lucky
among many. What is bounded beside it is the number of bad skips per episode, from the audits of the rung's own runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heisd.bench.results import EpisodeRecord
from heisd.bench.skip_fit import clopper_pearson_high
from heisd.bench.summary import summarise
from heisd.config import EvalConfig
from heisd.errors import BadArtifact
from heisd.route.base import RouteKind

# Of paired success, as a point estimate: half of the point that ``hybrid`` promises not to lose, because the loosest
# setting that passes is chosen for having passed, and so looked better than it is.
MAX_LOSS_POINTS = 0.5
NEAR_MISS_POINTS = 3.0  # a setting that loses more than MAX_LOSS_POINTS and no more than this is played once more
BASELINE = "ar"


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting."""

    n_skips: int  # in a row, at most
    threshold: float  # of the score
    calm: bool = False  # denoised chunks that leave the gripper alone are executed further than others


# Few and far apart: every rung costs some hundred episodes, and neighbours would differ by less than these can tell.
# Most steps that may be skipped at all score above 0.9, and there the score keeps its word best: first more of them in
# a row, only then lower scores.
LADDER: tuple[Rung, ...] = tuple(Rung(*values) for values in ((1, 0.9), (2, 0.9), (4, 0.9), (6, 0.8)))
# Of rounds: a chunk is harder to foretell than an action, so scores are lower; an episode has some fifteen of them.
CHUNK_LADDER: tuple[Rung, ...] = (Rung(2, 0.9), Rung(3, 0.8), Rung(6, 0.7), Rung(12, 0.5))

FIRST, SECOND = 1, 2  # looks at a rung, each on starts of its own
Baseline = Callable[[int], Sequence[EpisodeRecord]]  # look -> plain decoding's episodes on its starts
Trial = Callable[[int, Rung, int], Sequence[EpisodeRecord]]  # number, rung and look -> the preset's episodes


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the climb ended."""

    rung: Rung | None  # the last that passed; None: not even the first did
    rungs: list[dict[str, Any]]  # what every trial gave, strict to loose; flat, as the report prints it

    @property
    def kept(self) -> dict[str, Any] | None:
        """The figures of the rung that was kept."""
        return next((row for row in reversed(self.rungs) if row["passes"]), None)


def climb(
    preset: str, source: str, baseline: Baseline, trial: Trial,
    *, ladder: Sequence[Rung] = LADDER, plain: str = BASELINE, further: bool = False,
) -> Choice:  # fmt: skip
    """Try one rung after the other until paired success is more than half a point below plain decoding's.

    Two hundred pairs tell a small loss from none badly, so a near miss is played once more, on as many other
    starts, and both looks are judged as one.

    Args:
        preset: method of the trials' records.
        source: the proposer whose guesses its skips execute.
        baseline: plays plain decoding on the starts of a look.
        trial: plays a rung on them.
        ladder: strict to loose.
        plain: method of the baseline's records.
        further: whether the last setting that passed is tried once more, with calm chunks executed further.
    """
    kept: Rung | None = None
    rows: list[dict[str, Any]] = []

    def passes(number: int, rung: Rung) -> bool:
        theirs, mine = list(baseline(FIRST)), list(trial(number, rung, FIRST))
        row = judge(preset, source, rung, theirs, mine, plain=plain)
        if -NEAR_MISS_POINTS <= row["difference_points"] < -MAX_LOSS_POINTS:
            theirs, mine = [*theirs, *baseline(SECOND)], [*mine, *trial(number, rung, SECOND)]
            row = judge(preset, source, rung, theirs, mine, plain=plain)
        rows.append(row)
        return bool(row["passes"])

    for number, rung in enumerate(ladder, 1):
        if not passes(number, rung):
            break
        kept = rung
    if further and kept is not None and passes(len(ladder) + 1, calm := replace(kept, calm=True)):
        kept = calm
    return Choice(kept, rows)


def judge(
    preset: str, source: str, rung: Rung, baseline: Sequence[EpisodeRecord], records: Sequence[EpisodeRecord],
    *, plain: str = BASELINE,
) -> dict[str, Any]:  # fmt: skip
    """The figures of one rung. Raises BadArtifact when it shares no start with the baseline.

    An audit is a step that could have been skipped and was verified instead. It counts as bad unless the target kept
    the whole action, gripper and all, of the proposer whose guess the skip would have executed. Of a chunk policy a
    step is a round, and an audit a full one that the whole draft was good beside.
    """
    suite = baseline[0].suite if baseline else ""
    config = EvalConfig(suite=suite, methods=(plain, preset))
    methods = summarise(config, [*baseline, *records])["methods"]
    theirs, mine = methods[plain], methods[preset]
    paired, speculation = mine["paired"], mine["speculation"]
    if paired is None:
        raise BadArtifact(f"{preset} and {plain} have no start in common: calibrate again into another --out")
    n_skips = sum(count["n"] for route, count in speculation["routes"].items() if _is(RouteKind.SKIP, route))
    n_steps = sum(count["n"] for route, count in speculation["routes"].items() if not _is(RouteKind.CHUNK, route))
    n_audits = speculation["audits"]["n"]
    n_bad = n_audits - speculation["audits"]["kept_by_source"].get(source, 0)
    skips_per_episode = n_skips / mine["n_episodes"]
    bad_share_high = clopper_pearson_high(n_bad, n_audits)
    return {
        "n_skips": rung.n_skips,
        "threshold": rung.threshold,
        **({"calm": True} if rung.calm else {}),
        "passes": paired["difference_points"] >= -MAX_LOSS_POINTS,
        "n_pairs": paired["n_pairs"],
        "pc_success": mine["pc_success"],
        "pc_success_baseline": theirs["pc_success"],
        "difference_points": paired["difference_points"],
        "difference_ci95": list(paired["ci95"]),
        "mean_steps": mine["mean_steps"],
        "mean_steps_baseline": theirs["mean_steps"],
        "lm_forwards_per_action": speculation["lm_forwards_per_action"],
        "skip_share": n_skips / n_steps if n_steps else 0.0,
        "skips_per_episode": skips_per_episode,
        "n_audits": n_audits,
        "n_bad_audits": n_bad,
        "bad_share_high95": bad_share_high,
        "bad_skips_per_episode_high95": bad_share_high * skips_per_episode,
    }


def _is(kind: RouteKind, route: str) -> bool:
    return route.split("/")[0] == kind
