"""The presets whose skips are calibrated, as tables: the presets are built from them, and calibration observes by them.

One table for each family of policies; a family's plain method drives while its presets are observed and tried.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from heisd.errors import BadInput, UnknownName

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
    n_unseen: int = 0  # of chunk policies: skips in a row that rest on one look; the next one looks


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


@dataclass(frozen=True, slots=True)
class Family:
    """What is calibrated for one kind of policy."""

    baseline: str  # the method that loses nothing
    scouts: Mapping[str, Scout]
    skippers: Mapping[str, Skipper]


TOKENS = Family("ar", SCOUTS, SKIPPERS)
CHUNKS = Family(
    "full",
    {"draft_head": Scout("draft_head"), "tail": Scout(), MEMORY: Scout("store")},
    {"flow_hybrid": Skipper("draft_head", ("draft_head", "tail"), looks=False, n_unseen=2)},
)
ALL_SKIPPERS: Mapping[str, Skipper] = {**TOKENS.skippers, **CHUNKS.skippers}


def family_of(presets: Iterable[str]) -> Family:
    """The family of presets with calibrated skips; UnknownName for another one or none, BadInput for both families."""
    names = list(presets)
    unknown = [name for name in names if name not in ALL_SKIPPERS]
    if unknown or not names:
        raise UnknownName("method with calibrated skips", unknown[0] if unknown else "", ALL_SKIPPERS)
    family = next(each for each in (TOKENS, CHUNKS) if names[0] in each.skippers)
    if other := [name for name in names if name not in family.skippers]:
        raise BadInput(
            f"{names[0]} and {other[0]} are of policies of different kinds; calibrate {', '.join(other)} by itself"
        )
    return family
