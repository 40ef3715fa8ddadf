"""What is usual in a suite: the bounds, scales and thresholds that readings are normalised and judged with."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from heisd.errors import BadInput, UnknownName
from heisd.kinematics.circle import MIN_POINTS, Distance, Solver
from heisd.kinematics.motion import ACTION_SIZE

# HeiSD's released code, per suite: D_min, D_max, R_min, R_max [m] and theta, for windows of 5 (HeiSD section 3.2).
_HEISD_CODE = {
    "libero_goal": (9e-6, 0.139051, 1e-6, 0.016873, 0.143210),
    "libero_object": (9.8e-5, 0.116458, 1.0e-5, 0.014151, 0.188199),
    "libero_spatial": (2.7e-5, 0.128629, 1.9e-5, 0.015654, 0.217119),
    "libero_10": (8e-6, 0.102298, 1e-6, 0.012479, 0.4),
}
_HEISD_CODE_WINDOW = 5
_MAY_BE_NONE = "variability_high"


@dataclass(frozen=True, slots=True)
class MotionRanges:
    """Calibrated for one suite, one window, one solver of R and one distance D: they cannot be exchanged.

    Made by ``fit_ranges``; plain JSON by :meth:`as_dict` and back by :meth:`from_dict`.
    """

    suite: str
    window: int  # w: positions in the window of F
    alpha: float  # share of R in F
    solver: Solver
    distance: Distance
    displacement_min_m: float
    displacement_max_m: float  # 95th percentile
    spread_min_m: float
    spread_max_m: float  # 95th percentile
    fused_threshold: float  # theta: F above it is tolerant
    speed_gate_mm: float  # per control step: faster is tolerant, and moving
    speed_high_mm: float  # 95th percentile
    translation_high: float  # mu95 of fineness [action units]
    rotation_change_high: float  # nu95 of angular jerk [action units]
    action_change_sigma: tuple[float, ...]  # (7,) standard deviation of the frame-to-frame change [action units]
    variability_high: float | None = None  # K_hi, known after episodes under a relaxed rule

    def __post_init__(self) -> None:
        if self.window < MIN_POINTS:
            raise BadInput(f"a window has at least {MIN_POINTS} positions; got {self.window}")
        numbers = [getattr(self, name) for name in _NUMBERS] + list(self.action_change_sigma)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise BadInput(f"ranges are finite and not negative; got {self.as_dict()}")
        low_high = ((self.displacement_min_m, self.displacement_max_m), (self.spread_min_m, self.spread_max_m))
        if any(low > high for low, high in low_high) or max(self.alpha, self.fused_threshold) > 1:
            raise BadInput(f"minima are at most maxima, alpha and fused_threshold at most 1; got {self.as_dict()}")
        if len(self.action_change_sigma) != ACTION_SIZE:
            raise BadInput(f"action_change_sigma has {ACTION_SIZE} numbers; got {len(self.action_change_sigma)}")
        if self.variability_high is not None and not 0 < self.variability_high < math.inf:
            raise BadInput(f"variability_high is None or a positive number; got {self.variability_high}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MotionRanges":
        """What :meth:`as_dict` gave. Raises BadInput for unknown or missing keys and for values of another type."""
        known = [field.name for field in fields(cls)]
        unknown, missing = sorted(set(values) - set(known)), sorted(set(known) - set(values) - {_MAY_BE_NONE})
        if unknown or missing:
            raise BadInput(
                f"motion ranges with unknown key(s) {unknown} and without {missing}; known: {', '.join(known)}"
            )
        try:
            return cls(**{name: _parsed(name, values[name]) for name in known if name in values})
        except (TypeError, ValueError) as error:
            raise BadInput(f"motion ranges hold a value of the wrong type ({error}); fit them again") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {
            "solver": self.solver.value,
            "distance": self.distance.value,
            "action_change_sigma": list(self.action_change_sigma),
        }

    def require(
        self, *, window: int | None = None, solver: Solver | None = None, distance: Distance | None = None
    ) -> "MotionRanges":
        """These ranges, if they were fitted for what is in use; otherwise BadInput says what differs."""
        asked = {"window": window, "solver": solver, "distance": distance}
        differing = [
            f"{name} {getattr(self, name)}, not {value}"
            for name, value in asked.items()
            if value is not None and value != getattr(self, name)
        ]
        if differing:
            raise BadInput(
                f"the motion ranges of {self.suite} are for {'; '.join(differing)}: bounds and thresholds do not "
                "carry over; fit them again (fit_ranges) with the ones in use"
            )
        return self


_NUMBERS = tuple(f.name for f in fields(MotionRanges) if f.type is float or f.type == "float")


def with_heisd_code_bounds(ranges: MotionRanges, suite: str) -> MotionRanges:
    """``ranges`` with the constants that HeiSD's released scripts carry for F on a suite.

    Raises BadInput unless they are for the released window of 5, centroid and last point; UnknownName for a suite
    without published constants.
    """
    ranges.require(window=_HEISD_CODE_WINDOW, solver=Solver.CENTROID, distance=Distance.LAST_POINT)
    if suite not in _HEISD_CODE:
        raise UnknownName("suite with published constants", suite, _HEISD_CODE)
    low_d, high_d, low_r, high_r, theta = _HEISD_CODE[suite]
    return replace(
        ranges,
        suite=suite,
        displacement_min_m=low_d,
        displacement_max_m=high_d,
        spread_min_m=low_r,
        spread_max_m=high_r,
        fused_threshold=theta,
    )


def normalised(value: float, low: float, high: float) -> float:
    """Min-max, clipped to [0, 1]; never falls as ``value`` rises, also for an empty range. NaN stays NaN."""
    if math.isnan(value):
        return math.nan
    if value <= low:
        return 0.0
    return 1.0 if value >= high else (value - low) / (high - low)


def _parsed(name: str, value: Any) -> Any:
    if name == "solver" and value not in tuple(Solver):
        raise UnknownName("solver", str(value), Solver)
    if name == "distance" and value not in tuple(Distance):
        raise UnknownName("distance", str(value), Distance)
    if name == "window" and type(value) is not int:
        raise TypeError(f"window is a whole number, got {value!r}")
    if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{name} is a number, got {value!r}")
    if name == "action_change_sigma":
        return tuple(map(float, value))
    return Solver(value) if name == "solver" else Distance(value) if name == "distance" else value
