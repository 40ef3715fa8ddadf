"""Pictures and observations with known properties."""

from collections.abc import Iterator, Sequence

import numpy as np

from heisd.testing import synthetic_observations
from heisd.types import ImageArray, Observation


def texture(seed: int, side: int = 64) -> np.ndarray:
    """Smooth random brightness in [0, 1]: like a picture, most power at low frequencies."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / (1.0 + frequency) ** 1.5, s=(side, side))
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


def picture(grey: np.ndarray) -> ImageArray:
    """(S, S) brightness in [0, 1] -> (S, S, 3) u8."""
    return np.repeat(np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)[:, :, None], 3, axis=2)


def table_top(step: int, *, seed: int = 3, side: int = 128) -> ImageArray:
    """A scene in which a small bright thing moves by a 128th of it a step, by a pixel at least."""
    grey, n = 0.2 + 0.5 * texture(seed, side), side // 8
    left = n + step * max(side // 128, 1) % (side // 2)
    grey[2 * n : 3 * n, left : left + n] = 0.95
    return picture(grey)


def observed(images: Sequence[ImageArray], *, step_mm: float = 5.0) -> Iterator[Observation]:
    """One observation a picture, the same for both cameras; the hand moves by ``step_mm`` between them."""
    template = synthetic_observations(1)[0]
    for i, each in enumerate(images):
        position_m = np.array([1e-3 * step_mm * i, 0.0, 1.0])
        state = {name: getattr(template.proprio, name) for name in template.proprio.__dataclass_fields__}
        proprio = type(template.proprio)(**{**state, "eef_pos_m": position_m})
        yield Observation({"agentview": each, "wrist": each}, proprio, template.instruction, i / 20)
