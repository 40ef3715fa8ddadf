"""Faults of cameras, at the border between the world and whoever looks at it: no policy knows of them.

A fault is made anew for every episode. It is handed every picture of its cameras in order and never writes into one.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np

from heisd.sim.shifts import Shift
from heisd.types import ImageArray

Images = Mapping[str, ImageArray]
PX_OF = 128  # pixels a side that a displacement is given for


class Disturbance:
    """One shift in one episode. Does nothing by itself."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        self.onset_step = shift.onset_step(rng)  # first control step whose observation it shows in

    def prepare(self, step: int) -> None:
        """Change the world, before it advances to the observation of a control step."""

    def show(self, images: Images, step: int) -> Images:  # noqa: ARG002 (subclasses')
        """What the cameras show at a control step, of what there is to see."""
        return images


class CameraFault(Disturbance):
    """A fault of some cameras, from its onset on."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        super().__init__(shift, rng)
        self._cameras = shift.cameras()

    def show(self, images: Images, step: int) -> Images:
        """See :class:`Disturbance`."""
        return {
            camera: self._shown(camera, picture, step - self.onset_step) if camera in self._cameras else picture
            for camera, picture in images.items()
        }

    def _shown(self, camera: str, picture: ImageArray, age: int) -> ImageArray:
        """One picture, ``age`` control steps behind the onset (negative before it)."""
        raise NotImplementedError


class Black(CameraFault):
    """Nothing to see, in every n-th picture (FLASH's camera drop-out)."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        super().__init__(shift, rng)
        self._every = int(shift["every"])

    def _shown(self, camera: str, picture: ImageArray, age: int) -> ImageArray:  # noqa: ARG002
        return np.zeros_like(picture) if age >= 0 and age % self._every == 0 else picture


class Frozen(CameraFault):
    """The last picture before the onset; the first one where there is none before."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        super().__init__(shift, rng)
        self._kept: dict[str, ImageArray] = {}

    def _shown(self, camera: str, picture: ImageArray, age: int) -> ImageArray:
        if age < 0 or camera not in self._kept:
            self._kept[camera] = picture
        return self._kept[camera]


class Noisy(CameraFault):
    """Independent Gaussian noise, rounded and clipped."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        super().__init__(shift, rng)
        self._std, self._rng = shift.number("std"), rng

    def _shown(self, camera: str, picture: ImageArray, age: int) -> ImageArray:  # noqa: ARG002
        if age < 0:
            return picture
        noisy = picture + self._rng.normal(0.0, self._std, picture.shape)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


class Displaced(CameraFault):
    """The content moved in one direction, by whole pixels."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        super().__init__(shift, rng)
        angle, px = rng.uniform(0.0, 2.0 * np.pi), shift.number("px")
        self._down, self._right = px * np.sin(angle) / PX_OF, px * np.cos(angle) / PX_OF  # of the picture's side

    def _shown(self, camera: str, picture: ImageArray, age: int) -> ImageArray:  # noqa: ARG002
        if age < 0:
            return picture
        rows, columns = (
            np.clip(np.arange(n) - round(part * n), 0, n - 1)
            for n, part in zip(picture.shape[:2], (self._down, self._right), strict=True)
        )
        return np.asarray(picture[rows[:, None], columns], dtype=np.uint8)


class Delayed(CameraFault):
    """What was there some control steps ago; the first picture while there is no earlier one."""

    def __init__(self, shift: Shift, rng: np.random.Generator) -> None:
        super().__init__(shift, rng)
        self._n_kept = int(shift["steps"]) + 1
        self._past: dict[str, deque[ImageArray]] = {}

    def _shown(self, camera: str, picture: ImageArray, age: int) -> ImageArray:
        past = self._past.setdefault(camera, deque(maxlen=self._n_kept))
        past.append(picture)
        return picture if age < 0 else past[0]


FAULTS: dict[str, type[CameraFault]] = {
    "black": Black,
    "frozen": Frozen,
    "noisy": Noisy,
    "shifted": Displaced,
    "delayed": Delayed,
}
