"""What the parts of a control step cost on one machine: the table that predictions and :class:`Paying` work with."""

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from heisd.errors import BadInput


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean milliseconds in the loop, measured once (``heisd bench --costs``) and then taken as given: no clock is read.

    Raises BadInput for a number that is negative or not finite, and for a forward that costs nothing.
    """

    vision_ms: float  # V: encode one observation
    prefill_ms: float  # P: the first forward, without guesses
    decode_ms: float  # D: a forward of one row
    row_ms: float  # one guessed token more: in the forward, in the trie, in its acceptance
    tree_ms: float = 0.0  # what a check behind the first forward costs beside that: other kernels than one row's
    check_ms: float = 0.0  # what any check costs beside its rows: trie, mask, acceptance
    lookup_ms: float = 0.0  # retrieval, once a control step
    drafter_ms: float = 0.0  # the parallel drafter's first pass, once a control step
    redraft_ms: float = 0.0  # asking a drafter again, before a later forward
    eagle_ms: float = 0.0  # growing an EAGLE tree, before a later forward
    overhead_ms: float = 0.0  # of a plain step beside its forwards: route, accept, act, record
    judge_ms: float = 0.0  # more than that where the route looks at pictures and motion before it skips

    def __post_init__(self) -> None:
        values = asdict(self)
        if not all(math.isfinite(value) and value >= 0 for value in values.values()):
            raise BadInput(f"costs are milliseconds, finite and not negative; got {values}")
        if not self.prefill_ms * self.decode_ms > 0:
            raise BadInput(f"prefill_ms and decode_ms are above 0; got {self.prefill_ms} and {self.decode_ms}")

    def asking(self, proposers: Collection[str]) -> "Costs":
        """The same table for a method that asks only these proposers; the others cost it nothing."""
        behind = self.eagle_ms if "eagle" in proposers else self.redraft_ms if "parallel" in proposers else 0.0
        return replace(
            self,
            lookup_ms=self.lookup_ms if "retrieval" in proposers else 0.0,
            drafter_ms=self.drafter_ms if "parallel" in proposers else 0.0,
            redraft_ms=behind,
        )

    def plain_ms(self, n_tokens: int) -> float:
        """Plain decoding of an action: V + P + (T - 1) D, and what every step costs beside the forwards."""
        return self.vision_ms + self.prefill_ms + (n_tokens - 1) * self.decode_ms + self.overhead_ms


KNOWN_COSTS = tuple(each.name for each in fields(Costs))
_NEEDED = tuple(each.name for each in fields(Costs) if each.default is MISSING)


def table_of(given: Mapping[str, Any]) -> Costs:
    """A table from its numbers by name. Raises BadInput for a name that is unknown or missing, and for no number."""
    unknown, missing = sorted(set(map(str, given)) - set(KNOWN_COSTS)), [name for name in _NEEDED if name not in given]
    if unknown or missing:
        problem = f"unknown key(s) {unknown}" if unknown else f"no {', '.join(missing)}"
        raise BadInput(f"{problem} in costs; known: {', '.join(KNOWN_COSTS)}; needed: {', '.join(_NEEDED)}")
    try:
        return Costs(**given)
    except TypeError:
        raise BadInput(f"costs are milliseconds, finite and not negative; got {dict(given)}") from None
