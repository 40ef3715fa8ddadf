"""What the machinery of speculation takes of a control step, beside a plain step: the price of having it at all.

Counted are the stages in which neither a network runs nor a proposer is asked: trie, route, accept, act and record.
``route`` includes the watch over the cameras (:mod:`heisd.watch`) where a rule looks at pictures. Look-ups and drafting
are the stage ``propose``, reported apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

OVERHEAD_STAGES = ("trie", "route", "accept", "act", "record")
PLAIN_METHODS = frozenset({"ar", "full"})  # a share of a plain step needs one of them as the baseline


def overhead_block(
    stage_ms: Mapping[str, Sequence[float]], n_steps: int, plain_ms: float | None
) -> dict[str, float | None]:
    """``overhead_ms`` per control step, and ``overhead_share_of_plain``: that over a plain step's ``plain_ms``.

    ``stage_ms`` holds times per stage; steps that never entered a stage need no entry. None without steps, the share
    also without a plain step to compare with.
    """
    if not n_steps:
        return {"overhead_ms": None, "overhead_share_of_plain": None}
    overhead_ms = sum(sum(stage_ms.get(stage, ())) for stage in OVERHEAD_STAGES) / n_steps
    share = overhead_ms / plain_ms if plain_ms else None
    return {
        "overhead_ms": round(overhead_ms, 4),
        "overhead_share_of_plain": None if share is None else round(share, 5),
    }


def overhead_text(block: Mapping[str, Any]) -> str | None:
    """One line for tables of latencies; None for a result without times, or of an older version."""
    overhead_ms, share = block.get("overhead_ms"), block.get("overhead_share_of_plain")
    if overhead_ms is None:
        return None
    of_plain = "" if share is None else f", {100 * share:.1f} % of a plain step"
    return f"{' + '.join(OVERHEAD_STAGES)}: {overhead_ms:.2f} ms a step{of_plain}"
