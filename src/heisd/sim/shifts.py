"""What ``--shift`` can name: changes of the scene, or of what its cameras show, that no experience was made with.

    NAME[:PARAMETERS][+NAME…]      black:wrist,onset=40      noisy+delayed:steps=2      nudged:cm=4

Parameters are given in the order of the list, by name, or not at all. Several shifts apply in the order they are named.
Only names and numbers are here; what they do is in :mod:`heisd.sim.faults` (pictures), :mod:`heisd.sim.nudge` and
:mod:`heisd.sim.lighting` (the simulated world).
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from heisd.errors import BadInput, UnknownName
from heisd.sim.splits import EpisodeStart

Value = str | int | float
CAMERAS = ("agentview", "wrist", "both")
DRAWN = "drawn"  # an onset of its own for every start
DRAWN_ONSETS = range(10, 41)  # control steps; the bundled policy takes 70 to 160 and grasps in the second half
LAST_ONSET = 10_000


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number within bounds or, with ``choices``, one of some words."""

    name: str
    default: Value
    help: str
    low: float = 0.0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    is_whole: bool = False

    def parse(self, text: str, where: str) -> Value:
        """The value that ``text`` means; BadInput says what is allowed."""
        if text in self.choices:
            return text
        try:
            number = int(text) if self.is_whole else float(text)
        except ValueError:
            number = math.nan
        if not self.low <= number <= self.high or (self.choices and not self.is_whole):
            raise BadInput(f"{where}: {self.name}={text} is not {self.allowed}")
        return number

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        words = " or ".join(self.choices)
        if self.choices and not self.is_whole:
            return words
        kind = "a whole number" if self.is_whole else "a number"
        bounds = f"from {self.low:g} on" if math.isinf(self.high) else f"from {self.low:g} to {self.high:g}"
        return f"{kind} {bounds}" + (f", or {words}" if words else "")


@dataclass(frozen=True, slots=True)
class ShiftKind:
    """One thing that can happen."""

    help: str
    parameters: tuple[Parameter, ...]


def _camera() -> Parameter:
    return Parameter("camera", "both", "which camera", choices=CAMERAS)


def _onset(default: Value) -> Parameter:
    return Parameter(
        "onset", default, "first control step it shows in; drawn: one from 10 to 40 for every start",
        high=LAST_ONSET, choices=(DRAWN,), is_whole=True,
    )  # fmt: skip


SHIFTS: dict[str, ShiftKind] = {
    "black": ShiftKind(
        "a camera shows nothing",
        (_camera(), Parameter("every", 1, "of so many pictures one is black", low=1, is_whole=True), _onset(0)),
    ),
    "frozen": ShiftKind("a camera goes on showing its last picture", (_camera(), _onset(DRAWN))),
    "noisy": ShiftKind(
        "Gaussian noise on every pixel and colour",
        (_camera(), Parameter("std", 25.0, "its standard deviation, of 255 levels", high=255), _onset(0)),
    ),
    "shifted": ShiftKind(
        "the picture is moved in a drawn direction, its border repeated",
        (_camera(), Parameter("px", 8.0, "how far, in pixels of a 128-pixel picture", high=64), _onset(0)),
    ),
    "delayed": ShiftKind(
        "a camera shows what was there some control steps ago",
        (_camera(), Parameter("steps", 3, "how many", low=1, high=100, is_whole=True), _onset(0)),
    ),
    "nudged": ShiftKind(
        "a target object is pushed along the table, at 5 cm/s, in a drawn direction",
        (Parameter("cm", 3.0, "how far", high=20), _onset(DRAWN)),
    ),
    "lighting": ShiftKind(
        "other lamps",
        (
            Parameter("level", 0.4, "brightness of all lamps, 1 as it was", high=3),
            Parameter("warmth", 0.0, "red so much stronger, blue so much weaker", low=-1, high=1),
            _onset(0),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Shift:
    """One named shift with a value for every parameter."""

    name: str
    values: tuple[tuple[str, Value], ...]

    def __str__(self) -> str:
        return f"{self.name}:{','.join(f'{name}={value}' for name, value in self.values)}"

    def __getitem__(self, parameter: str) -> Value:
        return dict(self.values)[parameter]

    def number(self, parameter: str) -> float:
        """A parameter that is a number."""
        return float(self[parameter])

    def cameras(self) -> tuple[str, ...]:
        """The cameras it is about."""
        return CAMERAS[:-1] if self["camera"] == "both" else (str(self["camera"]),)

    def generator(self, start: EpisodeStart, position: int) -> np.random.Generator:
        """What it draws in the episode from ``start``: the same for every method. ``position`` among several shifts."""
        return np.random.default_rng([start.jitter_seed, zlib.crc32(str(self).encode()), position])

    def onset_step(self, rng: np.random.Generator) -> int:
        """First control step whose observation it shows in. To be drawn before anything else is."""
        drawn = int(rng.integers(DRAWN_ONSETS.start, DRAWN_ONSETS.stop))
        return drawn if self["onset"] == DRAWN else int(self["onset"])


def parse_shifts(text: str) -> tuple[Shift, ...]:
    """``"black:wrist+nudged"`` -> shifts with all their values; UnknownName or BadInput says what is known."""
    return tuple(_parse(part.strip()) for part in text.split("+"))


def canonical(text: str) -> str:
    """The same shifts with every value stated: what results echo and runs are compared by."""
    return "+".join(map(str, parse_shifts(text)))


def describe() -> list[tuple[str, str, str]]:
    """(name, what it does, its parameters with their defaults), for ``--shift help``."""
    return [
        (name, kind.help, "; ".join(f"{p.name}={p.default} ({p.help}: {p.allowed})" for p in kind.parameters))
        for name, kind in SHIFTS.items()
    ]


def _parse(text: str) -> Shift:
    name, _, rest = text.partition(":")
    if name not in SHIFTS:
        raise UnknownName("shift", name, SHIFTS)
    parameters = {parameter.name: parameter for parameter in SHIFTS[name].parameters}
    given = _assigned(name, list(parameters), [item.strip() for item in rest.split(",")] if rest else [])
    values = {
        key: parameter.parse(given[key], f"shift {name}") if key in given else parameter.default
        for key, parameter in parameters.items()
    }
    return Shift(name, tuple(values.items()))


def _assigned(shift: str, names: list[str], items: list[str]) -> Mapping[str, str]:
    """Parameter -> text, from items with and without names."""
    given: dict[str, str] = {}
    for place, item in enumerate(items):
        key, is_named, value = item.partition("=")
        if not is_named:
            key, value = names[place] if place < len(names) else "", item
        if key not in names or key in given:
            raise BadInput(f"shift {shift}: cannot use {item!r}; its parameters, each at most once: {', '.join(names)}")
        given[key] = value.strip()
    return given
