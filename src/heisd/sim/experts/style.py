"""How a demonstration is performed: the knobs that differ between two people doing the same task."""

from dataclasses import dataclass

import numpy as np

from heisd.types import FloatArray

_FAR_START_SHARE = 0.3
_FAR_START_M = ((-0.05, -0.25, -0.06), (0.25, 0.28, 0.06))  # corners of the box of far displacements, world axes
_START_PACE_M = 0.007  # how far the hand comes in one step of such a displacement, on average


@dataclass(frozen=True, slots=True)
class Style:
    """The manner of one demonstration; constant during an episode. Speeds are fractions of the action range."""

    speed: float  # cap on the norm of the translation action
    rotation_speed: float  # cap on the norm of the rotation action
    speed_variation: float  # std of the slow modulation of ``speed``
    approach_bend_rad: float  # heading error at a distance: straight lines become arcs
    carry_bend_rad: float
    hover_m: float  # height above the grasp from which the hand descends
    funnel_m: float  # horizontal distance at which the descent begins
    grasp_yaw_bias_rad: float  # preferred wrist angle where the object leaves a choice
    grasp_slide_m: float  # offset along the object's long axis
    grasp_depth_m: float  # how much lower (+) or higher (-) than the planned grasp
    carry_clearance_m: float  # air between the carried object and what it passes over
    lift_blend_m: float  # sideways motion starts this far below the carrying height
    release_height_m: float  # air under the object when the fingers open
    place_offset_m: tuple[float, float]  # xy error of the placement
    jitter_std: float  # smooth tremor on the translation label
    rotation_jitter_std: float
    pause_probability: float  # chance per control step of a short stop
    noise_std: float  # std of the disturbance on executed translations (0: none); labels stay clean
    noise_share: float  # share of the time the disturbance is on

    @classmethod
    def nominal(cls) -> "Style":
        """The most reliable manner: straight, brisk, without tremor or noise."""
        return cls(
            speed=0.9,
            rotation_speed=0.5,
            speed_variation=0.0,
            approach_bend_rad=0.0,
            carry_bend_rad=0.0,
            hover_m=0.08,
            funnel_m=0.05,
            grasp_yaw_bias_rad=0.0,
            grasp_slide_m=0.0,
            grasp_depth_m=0.0,
            carry_clearance_m=0.04,
            lift_blend_m=0.03,
            release_height_m=0.012,
            place_offset_m=(0.0, 0.0),
            jitter_std=0.0,
            rotation_jitter_std=0.0,
            pause_probability=0.0,
            noise_std=0.0,
            noise_share=0.0,
        )

    @classmethod
    def sample(cls, rng: np.random.Generator, *, noise: bool = True) -> "Style":
        """A manner drawn at random from the range in which the experts still succeed."""
        return cls(
            speed=rng.uniform(0.75, 0.95),
            rotation_speed=rng.uniform(0.25, 0.5),
            speed_variation=rng.uniform(0.05, 0.15),
            approach_bend_rad=rng.uniform(-0.35, 0.35),
            carry_bend_rad=rng.uniform(-0.3, 0.3),
            hover_m=rng.uniform(0.06, 0.10),
            funnel_m=rng.uniform(0.04, 0.08),
            grasp_yaw_bias_rad=rng.uniform(-0.15, 0.15),
            grasp_slide_m=rng.uniform(-0.004, 0.004),
            grasp_depth_m=rng.uniform(-0.004, 0.004),
            carry_clearance_m=rng.uniform(0.03, 0.06),
            lift_blend_m=rng.uniform(0.02, 0.06),
            release_height_m=rng.uniform(0.008, 0.020),
            place_offset_m=(rng.uniform(-0.006, 0.006), rng.uniform(-0.006, 0.006)),
            jitter_std=rng.uniform(0.018, 0.03),
            rotation_jitter_std=rng.uniform(0.001, 0.003),
            pause_probability=rng.choice([0.0, 0.004], p=[0.8, 0.2]),
            noise_std=rng.uniform(0.35, 0.45) if noise else 0.0,
            noise_share=0.5,
        )


class SmoothNoise:
    """Band-limited noise with unit variance: white noise through two identical one-pole filters."""

    def __init__(self, size: int, correlation_steps: float, rng: np.random.Generator) -> None:
        self._rng = rng
        self._keep = float(np.exp(-1.0 / correlation_steps))
        # Unit variance of two cascaded one-pole filters driven by white noise of this scale.
        self._scale = float(np.sqrt((1.0 - self._keep**2) ** 3 / (1.0 + self._keep**2)))
        self._inner = rng.normal(size=size) * self._scale / np.sqrt(1.0 - self._keep**2)
        self._outer = rng.normal(size=size)

    def step(self) -> FloatArray:
        """(size,) the next sample."""
        self._inner = self._keep * self._inner + self._scale * self._rng.normal(size=self._inner.shape)
        self._outer = self._keep * self._outer + self._inner
        return self._outer


class Disturbance:
    """DART-style pushes: correlated noise on the executed action, in segments, so that recovery is demonstrated."""

    _SEGMENT_STEPS = 18.0  # mean length of a segment with (or at share 0.5 without) noise

    def __init__(self, style: Style, rng: np.random.Generator) -> None:
        self._std, self._share, self._rng = style.noise_std, style.noise_share, rng
        self._noise = SmoothNoise(6, 3.0, rng)
        self._is_on = bool(rng.random() < style.noise_share)
        self._gains = np.array([1.0, 1.0, 0.7, 0.12, 0.12, 0.3])

    def step(self) -> FloatArray:
        """(6,) what to add to the translation and rotation of the executed action; zeros while off."""
        wave = self._noise.step()
        stay = self._share if self._is_on else 1.0 - self._share
        if self._rng.random() < (1.0 - stay) * 2.0 / self._SEGMENT_STEPS:
            self._is_on = not self._is_on
        return wave * self._std * self._gains if self._is_on else np.zeros(6)


def start_displacement(rng: np.random.Generator) -> list[FloatArray]:
    """Actions (7,) that move the hand smoothly away from its start pose before the demonstration begins.

    Mostly to a random place nearby (up to about 8 cm) with open fingers. In a share of the episodes far across the
    table, half of those with closed and empty fingers: where a policy finds itself after a grasp that failed, so
    that demonstrations show how to begin again without showing a failure.
    """
    if rng.random() < _FAR_START_SHARE:
        way_m = rng.uniform(*_FAR_START_M)
        n_steps = 4 + int(np.ceil(np.linalg.norm(way_m) / _START_PACE_M))
        heading = np.concatenate([0.9 * way_m / np.linalg.norm(way_m), rng.normal(size=3) * [0.02, 0.02, 0.06]])
        gripper = float(rng.choice([-1.0, 1.0]))
    else:
        n_steps = int(rng.integers(5, 11))
        heading = np.concatenate([rng.normal(size=3) * [0.4, 0.5, 0.3], rng.normal(size=3) * [0.04, 0.04, 0.12]])
        gripper = -1.0
    ramp = np.sin(np.pi * (np.arange(n_steps) + 0.5) / n_steps)
    return [np.append(np.clip(heading * r, -1.0, 1.0), gripper) for r in ramp]
