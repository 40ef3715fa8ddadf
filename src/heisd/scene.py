"""What a picture says before any network runs: how much there is to see, and whether the scene is still the same.

A :class:`Scene` is a small grey picture with its spectrum, which is computed once however often it is asked for:
complexity and shift together cost about a tenth of a millisecond a step. FreqCache uses the same two quantities but
publishes neither formulas nor thresholds; these are this project's definitions.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from heisd.errors import BadInput

Grey = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complexfloating]
GREY_SIDE = 32
MIN_RATIO = 1.5  # of the highest peak to the second: below, no single shift explains the second picture
# Peaks in units of 1 / sqrt(pixels), which is how unrelated frequencies scatter. Measured on unrelated pictures of 32
# to 128 pixels a side, the highest of 600 peaks was 8.5 and 1 in 100 passed the ratio alone.
MIN_PEAK, SURE_PEAK = 7.5, 9.0
MIN_SIDE = 4
_FLAT = 1e-5  # brightness: less contrast is rounding
_TINY = 1e-6  # of the largest spectral magnitude: less is rounding and says nothing about phase


@dataclass(frozen=True, slots=True)
class SceneShift:
    """How the second picture sits over the first."""

    rows_px: int  # the content moved this far down, in pixels of the grey picture; signed
    columns_px: int  # … and to the right
    peak: float  # height of the correlation peak: 1 for the same picture, about 0 for unrelated ones
    ratio: float  # to the highest one that is no neighbour of it
    n_pixels: int

    @property
    def is_same_scene(self) -> bool:
        """Whether one shift explains the picture. False for pictures without texture: nothing confirms them."""
        height = self.peak * math.sqrt(self.n_pixels)
        return height >= SURE_PEAK or (height >= MIN_PEAK and self.ratio >= MIN_RATIO)


@dataclass(frozen=True)
class Scene:
    """A square grey picture. Raises BadInput for another shape."""

    grey: Grey  # (S, S) brightness, S >= 4

    def __post_init__(self) -> None:
        if self.grey.ndim != 2 or self.grey.shape[0] != self.grey.shape[1] or len(self.grey) < MIN_SIDE:
            raise BadInput(f"a scene is a square grey picture of {MIN_SIDE} pixels or more; got {self.grey.shape}")

    @classmethod
    def of(cls, picture: npt.NDArray[Any], side: int = GREY_SIDE) -> "Scene":
        """(H, W, 3) or (H, W) numbers, reduced to the mean brightness of side x side equal blocks (u8: 0 to 1).

        What is left over at the lower and right edge is cut off. Raises BadInput for another shape or fewer pixels.
        """
        values = np.asarray(picture)
        is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
        if not is_picture or min(values.shape[:2]) < side:
            raise BadInput(f"a picture is (H, W) or (H, W, 3) with sides of {side} or more; got {values.shape}")
        rows, columns = values.shape[0] // side, values.shape[1] // side
        blocks = values[: rows * side, : columns * side].reshape(side, rows, side, -1)
        n, highest = blocks.size // side**2, 255.0 if values.dtype == np.uint8 else 1.0
        # Whole numbers are summed faster than they are converted; the kinds are wide enough to be exact.
        kind: npt.DTypeLike = np.uint16 if n * 255 < 2**16 else np.uint32
        wide: npt.DTypeLike = np.float32 if n * 255 < 2**16 else np.float64
        if values.dtype != np.uint8:
            kind = wide = np.float64
        rows_summed = blocks.sum(axis=1, dtype=kind).reshape(side * side, -1).astype(wide)
        sums = (rows_summed @ np.ones(rows_summed.shape[1], wide)).reshape(side, side)
        return cls(np.asarray(sums / (n * highest), dtype=np.float32))

    @cached_property
    def centred(self) -> Grey:
        """(S, S) brightness without its mean."""
        return np.asarray(self.grey - self.grey.sum() / self.grey.size)

    @cached_property
    def spectrum(self) -> Spectrum:
        """(S, S // 2 + 1) of the picture without its mean, behind a Hann window; zeros where there is no texture."""
        centred = self.centred
        if max(float(centred.max()), -float(centred.min())) < _FLAT:
            centred = np.zeros_like(centred)
        rows, columns = _fourier(len(centred))
        return np.asarray(rows @ ((centred * _hann(len(centred))) @ columns))

    @cached_property
    def complexity(self) -> float:
        """Spectral entropy in [0, 1]: small for a few waves and 0 without texture, 1 for white noise.

        Shannon entropy of the power over all frequencies but zero, by its largest possible value. NaN where a
        pixel is not finite.
        """
        power = np.abs(self.spectrum) ** 2
        power[0, 0] = 0.0
        times = _times_in_full(len(power))
        total = float((times * power).sum())
        if not total > 0:
            return 0.0 if total == 0 else math.nan
        shares = power / total
        entropy = -float((times * shares * np.log(shares + 1e-30)).sum())
        return min(max(entropy / math.log(self.grey.size - 1), 0.0), 1.0)


def scene_shift(previous: Scene, now: Scene) -> SceneShift:
    """Phase correlation of two pictures of one size behind a Hann window, to whole pixels.

    The peak is the share of frequencies that agree on the shift. A picture without texture, or with a pixel that is
    not finite, gives a peak of 0. Raises BadInput for two sizes.
    """
    correlation = _correlation(previous, now)
    if correlation is None:
        return SceneShift(0, 0, 0.0, 1.0, now.grey.size)
    side = len(correlation)
    row, column = divmod(int(correlation.argmax()), side)
    peak = float(correlation[row, column])
    around = np.arange(-1, 2)
    correlation[((row + around) % side)[:, None], (column + around) % side] = 0.0
    second = max(float(correlation.max()), _TINY)
    return SceneShift(_signed(row, side), _signed(column, side), peak, peak / second, now.grey.size)


def scene_peak(previous: Scene, now: Scene) -> float:
    """``scene_shift(previous, now).peak``, without looking for the second one."""
    correlation = _correlation(previous, now)
    return 0.0 if correlation is None else float(correlation.max())


def _correlation(previous: Scene, now: Scene) -> Grey | None:
    """(S, S) phase correlation by circular shift; None where the two spectra have nothing in common."""
    if previous.grey.shape != now.grey.shape:
        raise BadInput(f"two pictures of one size are compared; got {previous.grey.shape} and {now.grey.shape}")
    cross = now.spectrum * previous.spectrum.conj()
    magnitude = np.abs(cross)
    largest = float(magnitude.max())
    if not 0 < largest < math.inf:
        return None
    rows, columns = _fourier_back(len(now.grey))
    return np.ascontiguousarray((rows @ ((cross / np.maximum(magnitude, _TINY * largest)) @ columns)).real)


@lru_cache(maxsize=8)
def _hann(side: int) -> Grey:
    window = np.hanning(side + 2)[1:-1]  # without its two zeros: they would only throw pixels away
    return np.outer(window, window).astype(np.float32)


@lru_cache(maxsize=8)
def _fourier(side: int) -> tuple[Spectrum, Spectrum]:
    """(S, S) and (S, S // 2 + 1): the Fourier transform of a real picture is ``rows @ picture @ columns``.

    At 32 pixels a side two matrix products take less than half the time of a fast transform, which is all overhead.
    """
    index = np.arange(side)
    rows = np.exp(-2j * math.pi / side * (np.outer(index, index) % side)).astype(np.complex64)
    return rows, np.ascontiguousarray(rows[:, : side // 2 + 1])


@lru_cache(maxsize=8)
def _fourier_back(side: int) -> tuple[Spectrum, Spectrum]:
    """(S, S) and (S // 2 + 1, S): the picture of a half spectrum is the real part of ``rows @ spectrum @ columns``."""
    rows, columns = _fourier(side)
    return rows.conj() / side, _times_in_full(side)[:, None] * columns.conj().T / side


@lru_cache(maxsize=8)
def _times_in_full(side: int) -> Grey:
    """(S // 2 + 1,) how often a column of the half spectrum stands in the full one."""
    times = np.full(side // 2 + 1, 2.0, np.float32)
    times[0] = 1.0
    if side % 2 == 0:
        times[-1] = 1.0
    return times


def _signed(shift: int, side: int) -> int:
    """A circular shift as the nearer way round."""
    return shift - side if shift > side // 2 else shift
