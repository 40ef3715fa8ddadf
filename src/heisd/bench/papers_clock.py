"""The narrower clock of published speed-ups, beside the full one and never in its place.

HeiSD's released code (arXiv 2603.17573) counts, for a step whose action the model was asked for, that generation:
vision tower, drafter, forwards, acceptance; and for a step that executes a retrieved action its search alone, without
the pass of the vision tower that made the search's key. Route, action and record are in neither. Here ``propose`` is
the search, or whatever else guessed the executed action: drafting is free on no step.
"""

from typing import Any

from heisd.bench.stats import ratio_of_sums
from heisd.types import StepRecord, TokenOrigin

DEFINITION = (
    "checked or decoded step: encode, propose and every stage of generation; skipped step: propose alone; never route, "
    "act, record (as HeiSD's released code counts)"
)
_AROUND = frozenset({"route", "act", "record"})  # stages that are no part of a generation
_SEARCH = "propose"


def papers_ms(record: StepRecord) -> float:
    """What one control step takes on the papers' clock [ms]."""
    is_thinking = record.round is not None and record.round.n_frozen > 0  # behind an action that was settled before
    if TokenOrigin.SKIPPED in record.origins and not is_thinking:
        return record.stage_ms.get(_SEARCH, 0.0)
    return sum(ms for stage, ms in record.stage_ms.items() if stage not in _AROUND)


def papers_block(sums_ms: list[float], shadow_sums_ms: list[float], n_steps: int) -> dict[str, Any] | None:
    """Of a method's timed episodes: mean and, beside the baseline on the same observations, ratio.

    ``sums_ms`` and ``shadow_sums_ms`` are one number an episode; the baseline has no shadow. None without steps.
    """
    if not n_steps or not sums_ms:
        return None
    ratio = ratio_of_sums(shadow_sums_ms, sums_ms) if len(shadow_sums_ms) == len(sums_ms) else None
    return {
        "definition": DEFINITION,
        "ms_per_action": sum(sums_ms) / n_steps,
        "speedup_vs_baseline": None if ratio is None else {"clock": "papers", "ratio": ratio.value, "ci95": ratio.ci95},
    }
