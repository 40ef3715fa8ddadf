"""The presets whose skips are calibrated, as a table: the presets are built from it, and calibration observes by it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MEMORY = "retrieval"  # the scout whose evidence is the similarity of the nearest remembered frame


@dataclass(frozen=True, slots=True)
class Scout:
    """A proposer that is asked before a skip is decided."""

    needs: str | None = None  # key of heisd.presets.assets.PLACES; None: nothing beside the policy
    options: Mapping[str, Any] = field(default_factory=dict)  # as the presets give them


@dataclass(frozen=True, slots=True)
class Skipper:
    """A preset whose skips are calibrated: whose guess it executes, and whom it asks when."""

    source: str
    scouts: tuple[str, ...]  # before the decision
    drafters: tuple[str, ...] = ()  # for every check, beside the source
    later: tuple[str, ...] = ()  # behind what a check has settled
    looks: bool = True  # False: skips rest on the last pictures encoded, and the vision towers rest, too


SCOUTS: dict[str, Scout] = {
    "parallel": Scout("parallel", {"whole": True, "min_probability": 0.2}),
    MEMORY: Scout("store"),
    "persistence": Scout(),
}
SKIPPERS: dict[str, Skipper] = {
    "hybrid": Skipper("parallel", ("parallel", MEMORY), later=("parallel",)),
    # What the store is worth: the same without it.
    "hybrid_no_store": Skipper("parallel", ("parallel",), later=("parallel",)),
    # Without memory, whose key is a picture, and without a look: what is skipped costs no pass of the vision towers.
    "coast": Skipper("parallel", ("parallel",), later=("parallel",), looks=False),
    # The same rule for the last action; the drafter witnesses, as memory does for ``hybrid``.
    "hold_calibrated": Skipper("persistence", ("persistence", "parallel"), drafters=("parallel",), later=("parallel",)),
}
