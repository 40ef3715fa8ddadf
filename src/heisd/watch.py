"""Whether the cameras can be believed and the scene is still the one it was; if not, nothing may go unverified.

    sight = watch.see(sight, observation)      once for every picture that may be used; pure: no clock, no randomness
    sight.alarm                                why nothing may be skipped now; None: nothing speaks against it

A picture is looked at in two ways: by itself (contrast, pixel noise) and beside the one before it (phase correlation,
change of brightness, whether it stands still while the arm moves). What is usual is fitted to plain episodes; without
a fit the limits below catch only what is unmistakable. Larger pictures are sampled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from heisd.errors import BadInput
from heisd.scene import GREY_SIDE, MIN_PEAK, Scene, scene_peak
from heisd.types import FloatArray, ImageArray, Observation

HOLD_STEPS = 20  # a second of LIBERO's control
MOVED_M = 1e-3  # of the hand from one look to the next: its cameras must see something else then
MIN_FROZEN_STEPS = 1  # one repeated picture is a camera slower than the control, two are a fault
SAMPLED_SIDE = 128  # pixels: of larger pictures every second, third … row and column is looked at
STILL_CHANGE = 0.01  # of the blocks' brightness: less is no jump, a shift by two pixels of 128 changes more
NOISE_BANDS = 16  # bands of three rows that noise is estimated in
# Mean of |x| for a unit Gaussian is sqrt(2 / pi), and Immerkaer's mask has a norm of 6.
_NOISE_SCALE = math.sqrt(math.pi / 2) / 6


class Alarm(StrEnum):
    """What happened, the most certain first. The values are the reasons that telemetry gives."""

    DARK = "camera dark"  # or covered, or dazzled: nothing to see in it
    FROZEN = "camera frozen"
    NOISY = "camera noisy"
    JUMP = "picture jumped"
    NOVEL = "scene unlike experience"  # said by whoever asks memory, see :meth:`Watch.alarmed`


@dataclass(frozen=True, slots=True)
class View:
    """What one picture says. Brightness is 0 to 1."""

    contrast: float  # standard deviation of the brightness of 32 x 32 blocks
    noise: float  # standard deviation of pixel noise [u8 levels]; texture counts a little
    peak: float = 1.0  # of the phase correlation with the picture before; 1 where next to nothing changed
    change: float = 0.0  # mean absolute change of the blocks' brightness
    n_frozen: int = 0  # control steps in a row for which no pixel has changed while the hand moved


@dataclass(frozen=True, slots=True)
class ViewLimits:
    """What is usual of one camera; a view beyond any of them raises an alarm, and so does one that is not a number."""

    min_contrast: float = 0.02
    max_noise: float = 12.0
    min_peak: float = MIN_PEAK / GREY_SIDE  # below it two pictures have nothing in common
    max_change: float = 0.15
    max_frozen: int = MIN_FROZEN_STEPS

    def __post_init__(self) -> None:
        numbers = (self.min_contrast, self.max_noise, self.min_peak, self.max_change, self.max_frozen)
        if not all(math.isfinite(number) for number in numbers):
            raise BadInput(f"the limits of a camera are finite numbers; got {self}")

    def alarm(self, view: View) -> Alarm | None:
        """The first thing that is wrong with a view."""
        if not view.contrast >= self.min_contrast:
            return Alarm.DARK
        if view.n_frozen > self.max_frozen:
            return Alarm.FROZEN
        if not view.noise <= self.max_noise:
            return Alarm.NOISY
        if not (view.peak >= self.min_peak and view.change <= self.max_change):
            return Alarm.JUMP
        return None


@dataclass(frozen=True, slots=True)
class Look:
    """A camera's last picture, whole and reduced, and what it said."""

    picture: ImageArray  # a copy: a driver may write the next one into the same memory
    scene: Scene
    view: View


@dataclass(frozen=True, slots=True)
class Sight:
    """What is remembered of the pictures of an episode; replaced, never changed."""

    looks: Mapping[str, Look] = field(default_factory=dict, compare=False)  # camera -> its last picture
    eef_pos_m: FloatArray | None = field(default=None, compare=False)  # (3,) of the hand, when it was taken
    alarm: Alarm | None = None  # the latest, as long as it holds
    n_left: int = 0  # control steps for which it goes on holding


NOTHING_SEEN = Sight()
USUAL = ViewLimits()
# Several control steps apart two pictures may have nothing in common: no change between them is unmistakable.
APART = ViewLimits(min_peak=0.0, max_change=1.0)


@dataclass(frozen=True, slots=True)
class Watch:
    """The limits of every camera, and how long an alarm holds."""

    cameras: Mapping[str, ViewLimits] = field(default_factory=dict)
    min_similarity: float | None = None  # of the nearest remembered key; below it the scene is not in memory
    hold_steps: int = HOLD_STEPS  # control steps behind the last alarm
    others: ViewLimits = USUAL  # of cameras without limits of their own

    def __post_init__(self) -> None:
        if self.hold_steps < 0 or not math.isfinite(self.min_similarity or 0.0):
            raise BadInput(f"hold_steps is 0 or more and min_similarity None or a finite number; got {self}")

    def see(self, sight: Sight, observation: Observation, *, n_steps: int = 1) -> Sight:
        """The sight after one more observation, ``n_steps`` control steps after the one before."""
        position_m = np.array(observation.proprio.eef_pos_m, dtype=np.float64)
        has_moved = sight.eef_pos_m is not None and float(np.linalg.norm(position_m - sight.eef_pos_m)) >= MOVED_M
        looks = {
            camera: look(picture, sight.looks.get(camera), n_moved=n_steps if has_moved else 0)
            for camera, picture in observation.images.items()
        }
        alarms = {self.cameras.get(camera, self.others).alarm(seen.view) for camera, seen in looks.items()}
        alarm = next((alarm for alarm in Alarm if alarm in alarms), None)
        if alarm is not None:
            return Sight(looks, position_m, alarm, self.hold_steps)
        if sight.n_left >= n_steps:
            return Sight(looks, position_m, sight.alarm, sight.n_left - n_steps)
        return Sight(looks, position_m)

    def is_novel(self, similarity: float) -> bool:
        """Whether the nearest remembered key is further away than in any plain episode; never for NaN: not asked."""
        return self.min_similarity is not None and similarity < self.min_similarity

    def alarmed(self, sight: Sight, alarm: Alarm) -> Sight:
        """The sight after an alarm that somebody else has raised at this step."""
        return Sight(sight.looks, sight.eef_pos_m, alarm, self.hold_steps)


DEFAULT = Watch()
ROUNDS = Watch(others=APART)  # of a chunk policy, which looks where rounds begin


def look(picture: ImageArray, before: Look | None, *, n_moved: int) -> Look:
    """A camera's next picture, (H, W, 3) or (H, W) u8, beside the one before it (None: the first).

    ``n_moved`` control steps have gone by in which the hand moved; 0: it stood still.
    Raises BadInput for another shape, or less than 4 pixels a side.
    """
    sampled = picture[:: _stride(picture), :: _stride(picture)]
    scene = Scene.of(sampled, min(GREY_SIDE, *sampled.shape[:2]))
    centred = scene.centred.ravel()
    contrast, noise = math.sqrt(float(centred @ centred) / centred.size), pixel_noise(picture)
    picture = picture.copy()
    if before is None or before.scene.grey.shape != scene.grey.shape:
        return Look(picture, scene, View(contrast, noise))
    change = float(np.abs(scene.grey - before.scene.grey).sum()) / centred.size
    if change == 0.0 and np.array_equal(picture, before.picture):
        return Look(picture, before.scene, View(contrast, noise, n_frozen=before.view.n_frozen + n_moved))
    peak = 1.0 if change < STILL_CHANGE else scene_peak(before.scene, scene)
    return Look(picture, scene, View(contrast, noise, peak, change))


def pixel_noise(picture: ImageArray) -> float:
    """Standard deviation of pixel noise [u8 levels] of an (H, W) picture, or in the green of (H, W, 3).

    The mask [1 -2 1; -2 4 -2; 1 -2 1] leaves nothing of flat or sloping brightness, next to nothing of straight edges
    along the axes, and all of the noise. Source: Immerkaer, "Fast noise variance estimation", 1996; here in bands of
    three rows. 0 for less than 3 x 3 pixels.
    """
    values = picture[:, :, 1] if picture.ndim == 3 else picture
    apart = max(len(values) // NOISE_BANDS, 3)
    above, middle, below = (values[row::apart].astype(np.int16) for row in range(3))
    n = len(below)
    below += above[:n]
    below -= 2 * middle[:n]
    across = below[:, :-2] - 2 * below[:, 1:-1]
    across += below[:, 2:]
    return _NOISE_SCALE * int(np.abs(across).sum()) / across.size if across.size else 0.0


def _stride(picture: ImageArray) -> int:
    return max(int(min(picture.shape[:2])) // SAMPLED_SIDE, 1)
