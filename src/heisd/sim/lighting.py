"""Other lamps, from one control step on. Physics knows nothing of light."""

from typing import Any

import numpy as np

from heisd.sim.faults import Disturbance
from heisd.sim.shifts import Shift
from heisd.types import FloatArray

_OF_LIGHTS = ("light_ambient", "light_diffuse", "light_specular")
_OF_HEADLIGHT = ("ambient", "diffuse", "specular")


class Lighting(Disturbance):
    """All lamps of one simulation, the one at the camera included, brighter or darker and warmer or colder."""

    def __init__(self, shift: Shift, rng: np.random.Generator, lamps: "Lamps") -> None:
        super().__init__(shift, rng)
        warmth = shift.number("warmth")
        self._gain = shift.number("level") * np.array([1.0 + warmth, 1.0, 1.0 - warmth])
        self._lamps = lamps

    def prepare(self, step: int) -> None:
        """Switch, so that the next picture is taken in the right light."""
        self._lamps.set(self._gain if step >= self.onset_step else np.ones(3))


class Lamps:
    """The lamps of a robosuite simulation, and how bright they were when this was made."""

    def __init__(self, robosuite_env: Any) -> None:
        model = robosuite_env.sim.model._model
        headlight = model.vis.headlight
        self._colours = [getattr(model, name) for name in _OF_LIGHTS]  # (n_lights, 3) views into the model
        self._colours += [getattr(headlight, name) for name in _OF_HEADLIGHT]  # (3,) views
        self._pristine = [colour.copy() for colour in self._colours]

    def reset(self) -> None:
        """As bright as they were."""
        self.set(np.ones(3))

    def set(self, gain: FloatArray) -> None:
        """Multiply red, green and blue of every lamp, as it was, by (3,) ``gain``."""
        for colour, pristine in zip(self._colours, self._pristine, strict=True):
            colour[:] = pristine * gain
