"""Scene statistics: known shifts, unrelated pictures, and pictures with nothing in them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heisd.errors import BadInput
from heisd.scene import Scene, scene_peak, scene_shift


def texture(seed: int, side: int = 64) -> np.ndarray:
    """Smooth random brightness in [0, 1]: like a picture, most power at low frequencies."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / (1.0 + frequency), s=(side, side))
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (3, 4), (-5, 2)])
def test_a_whole_pixel_shift_is_found_exactly(side: int, shift: tuple[int, int]) -> None:
    wide = texture(7, 2 * side)
    a = wide[10 : 10 + side, 10 : 10 + side]
    b = wide[10 - shift[0] : 10 - shift[0] + side, 10 - shift[1] : 10 - shift[1] + side]
    found = scene_shift(Scene(a), Scene(b))
    assert (found.rows_px, found.columns_px) == shift
    assert found.is_same_scene
    assert found.ratio > 1.5  # the second peak is not the first one's shoulder, nor the first one itself


def test_the_same_picture_has_a_peak_of_one() -> None:
    scene = Scene(texture(1))
    assert scene_shift(scene, scene).peak == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_unrelated_pictures_are_another_scene(side: int) -> None:
    rng = np.random.default_rng(side)
    n_same = 0
    for seed in range(40):
        a, b = (rng.random((side, side)).astype(np.float32) for _ in range(2))
        n_same += scene_shift(Scene(a), Scene(b)).is_same_scene
        n_same += scene_shift(Scene(texture(seed, side)), Scene(texture(1000 + seed, side))).is_same_scene
    assert n_same <= 1


@pytest.mark.parametrize("side", [32, 64])
def test_a_small_moving_thing_leaves_the_scene_what_it_was(side: int) -> None:
    before, after = texture(3, side).copy(), texture(3, side).copy()
    n = side // 8
    before[n : 2 * n, n : 2 * n] = 1.0
    after[3 * n : 4 * n, 2 * n : 3 * n] = 1.0
    found = scene_shift(Scene(before), Scene(after))
    assert (found.rows_px, found.columns_px) == (0, 0)
    assert found.is_same_scene


def test_the_peak_falls_as_less_of_the_picture_stays() -> None:
    a, other = texture(4), texture(5)
    mixtures = [np.where(np.arange(64)[:, None] < rows, other, a).astype(np.float32) for rows in (0, 16, 32, 48, 64)]
    peaks = [scene_shift(Scene(a), Scene(b)).peak for b in mixtures]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_pictures_without_texture_confirm_nothing_and_are_simple(level: float) -> None:
    flat = Scene(np.full((32, 32), level, np.float32))
    for pair in ((flat, flat), (flat, Scene(texture(1, 32))), (Scene(texture(1, 32)), flat)):
        found = scene_shift(*pair)
        assert found.peak == 0
        assert not found.is_same_scene
    assert flat.complexity == 0


def test_rounding_is_not_texture(rng: np.random.Generator) -> None:
    flat = Scene((0.3 + rng.normal(0, 1e-6, (32, 32))).astype(np.float32))
    assert flat.complexity == 0
    assert scene_shift(flat, flat).peak == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_pixel_that_is_not_finite_confirms_nothing(bad: float) -> None:
    grey = texture(1, 32).copy()
    grey[3, 4] = bad
    with np.errstate(invalid="ignore"):
        assert math.isnan(Scene(grey).complexity)
        assert not scene_shift(Scene(grey), Scene(texture(1, 32))).is_same_scene


def test_complexity_grows_from_waves_to_noise(rng: np.random.Generator) -> None:
    wave = np.sin(np.arange(64) * 2 * np.pi * 4 / 64)[:, None] * np.ones(64)
    noise = rng.random((64, 64))
    order = [wave, texture(1), noise]
    values = [Scene(np.asarray(grey, np.float32)).complexity for grey in order]
    assert values == sorted(values)
    assert values[0] < 0.3
    assert values[2] > 0.8


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.floats(0.05, 3.0), st.floats(-1.0, 1.0))
def test_complexity_and_shift_ignore_brightness_and_contrast(seed: int, contrast: float, offset: float) -> None:
    a, b = texture(seed, 32), texture(seed + 1, 32)
    a2, b2 = (np.asarray(contrast * grey + offset, np.float32) for grey in (a, b))
    assert Scene(a2).complexity == pytest.approx(Scene(a).complexity, abs=1e-3)
    assert scene_shift(Scene(a2), Scene(b2)).peak == pytest.approx(scene_shift(Scene(a), Scene(b)).peak, abs=1e-2)


def test_complexity_is_the_entropy_of_the_whole_spectrum() -> None:
    grey = texture(2, 32)
    window = np.hanning(34)[1:-1]
    power = np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(window, window))) ** 2
    power[0, 0] = 0
    shares = power[power > 0] / power.sum()
    assert Scene(grey).complexity == pytest.approx(-(shares * np.log(shares)).sum() / math.log(1023), rel=1e-4)


@pytest.mark.parametrize("shape", [(64, 64, 3), (128, 128, 3), (70, 100, 3), (512, 512, 3), (64, 64), (32, 32)])
def test_grey_is_the_mean_of_blocks(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    picture = rng.integers(0, 256, shape, dtype=np.uint8)
    grey = Scene.of(picture).grey
    rows, columns = shape[0] // 32, shape[1] // 32
    expected = picture[5 * rows : 6 * rows, 9 * columns : 10 * columns].mean() / 255
    assert grey[5, 9] == pytest.approx(expected, rel=1e-5)
    assert grey.dtype == np.float32
    white = Scene.of(np.full(shape, 255, np.uint8)).grey  # the largest sums are exact, too
    assert (white == 1.0).all()
    np.testing.assert_allclose(Scene.of(picture / 255.0).grey, grey, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 64, 3), (64, 64, 4), (64,), (2, 64, 64, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="sides of 32 or more"):
        Scene.of(np.zeros(shape, np.uint8))


def test_scenes_are_square_and_of_one_size() -> None:
    with pytest.raises(BadInput, match="square"):
        Scene(np.zeros((32, 16), np.float32))
    with pytest.raises(BadInput, match="square"):
        Scene(np.zeros((2, 2), np.float32))
    with pytest.raises(BadInput, match="one size"):
        scene_shift(Scene(np.zeros((32, 32), np.float32)), Scene(np.zeros((64, 64), np.float32)))


@pytest.mark.parametrize("side", [4, 7, 32, 33])
def test_spectra_and_correlations_are_those_of_a_fourier_library(side: int) -> None:
    first, second = Scene(texture(1, side).astype(np.float32)), Scene(texture(2, side).astype(np.float32))
    window = np.hanning(side + 2)[1:-1]
    spectra = [np.fft.rfft2((one.grey - one.grey.mean()) * np.outer(window, window)) for one in (first, second)]
    for one, expected in zip((first, second), spectra, strict=True):
        np.testing.assert_allclose(one.spectrum, expected, atol=1e-5 * np.abs(expected).max())
    cross = spectra[1] * spectra[0].conj()
    correlation = np.fft.irfft2(cross / np.abs(cross), s=(side, side))
    assert scene_peak(first, second) == pytest.approx(correlation.max(), abs=1e-3)
