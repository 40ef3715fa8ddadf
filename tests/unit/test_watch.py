"""The watch over the cameras: every fault has its alarm, an ordinary episode has none, and alarms hold as stated."""

import ast
import inspect
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_fakes import observed, picture, table_top, texture

import heisd.watch
from heisd.errors import BadInput
from heisd.types import ImageArray, Observation
from heisd.watch import (
    DEFAULT,
    NOTHING_SEEN,
    ROUNDS,
    STILL_CHANGE,
    Alarm,
    Sight,
    View,
    ViewLimits,
    Watch,
    look,
    pixel_noise,
)

ONSET, N_STEPS = 6, 12
BRIEF = Watch(hold_steps=2)


def alarms(images: Sequence[ImageArray], watch: Watch = BRIEF, **motion: float) -> list[Alarm | None]:
    sight, found = NOTHING_SEEN, []
    for seen in observed(images, **motion):
        sight = watch.see(sight, seen)
        found.append(sight.alarm)
    return found


def noisy(image: ImageArray, sigma: float, seed: int) -> ImageArray:
    rng = np.random.default_rng(seed)
    return np.clip(np.round(image + rng.normal(0.0, sigma, image.shape)), 0, 255).astype(np.uint8)


PLAIN = [table_top(i) for i in range(N_STEPS)]
FAULTS = {
    "black": (lambda i: np.zeros_like(PLAIN[i]), Alarm.DARK, 0),
    "dazzled": (lambda i: np.full_like(PLAIN[i], 255), Alarm.DARK, 0),
    "dim": (lambda i: PLAIN[i] // 16, Alarm.DARK, 0),
    "frozen": (lambda _: PLAIN[ONSET - 1], Alarm.FROZEN, 1),  # the second repeated picture
    "noisy": (lambda i: noisy(PLAIN[i], 25.0, i), Alarm.NOISY, 0),
    "another scene": (lambda _: picture(texture(8, 128)), Alarm.JUMP, 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_raises_its_alarm_when_it_begins(fault: str) -> None:
    broken, expected, delay = FAULTS[fault]
    images = PLAIN[:ONSET] + [broken(i) for i in range(ONSET, N_STEPS)]
    found = alarms(images)
    assert found[: ONSET + delay] == [None] * (ONSET + delay)
    assert found[ONSET + delay] is expected


@pytest.mark.parametrize("side", [32, 64, 128, 224, 300])
def test_an_ordinary_episode_raises_none(side: int) -> None:
    assert set(alarms([table_top(i, side=side) for i in range(60)], DEFAULT)) == {None}


@pytest.mark.parametrize("fault", ["black", "frozen", "noisy"])
def test_an_alarm_lasts_as_long_as_its_cause_and_the_stated_steps_behind_it(fault: str) -> None:
    broken, expected, delay = FAULTS[fault]
    images = [broken(i) if ONSET <= i < ONSET + 4 else table_top(i) for i in range(20)]
    found = alarms(images, Watch(hold_steps=3))
    # The picture jumps, or has no predecessor to be compared with, when the fault ends: that is one alarm more.
    last = max(i for i, one in enumerate(alarms(images, Watch(hold_steps=0))) if one is not None)
    assert found[ONSET + delay : ONSET + 4] == [expected] * (4 - delay)
    assert all(found[ONSET + delay : last + 4])
    assert found[last + 4 :] == [None] * (20 - last - 4)


def test_a_single_jump_holds_for_the_stated_steps_and_no_longer() -> None:
    elsewhere = [np.roll(picture(texture(8, 128)), i, axis=1) for i in range(40)]
    images = [table_top(i) if i < ONSET else elsewhere[i] for i in range(40)]
    for hold in (0, 1, 7, 20):
        found = alarms(images, Watch(hold_steps=hold))
        assert found == [None] * ONSET + [Alarm.JUMP] * (hold + 1) + [None] * (40 - ONSET - hold - 1)


def test_a_picture_may_stand_still_while_the_hand_does() -> None:
    still = [PLAIN[0]] * 10
    assert set(alarms(still, step_mm=0.5)) == {None}
    assert set(alarms(still, step_mm=math.nan)) == {None}
    assert alarms(still, step_mm=1.5)[2] is Alarm.FROZEN


def test_a_camera_half_as_fast_as_the_control_is_not_frozen() -> None:
    assert set(alarms([PLAIN[i // 2] for i in range(20)])) == {None}
    assert Alarm.FROZEN in alarms([PLAIN[i // 3] for i in range(20)])
    patient = Watch({name: ViewLimits(max_frozen=2) for name in ("agentview", "wrist")})
    assert set(alarms([PLAIN[i // 3] for i in range(20)], patient)) == {None}


def test_one_bad_camera_is_enough_and_the_surer_alarm_is_named() -> None:
    sight = NOTHING_SEEN
    for i, seen in enumerate(observed(PLAIN)):
        images = {"agentview": PLAIN[i] if i < ONSET else picture(texture(8, 128)), "wrist": PLAIN[i] * (i < ONSET)}
        sight = BRIEF.see(sight, replace(seen, images=images))
        if i == ONSET:
            assert sight.alarm is Alarm.DARK
            return
        assert sight.alarm is None


def test_seeing_is_pure_and_keeps_nothing_of_the_caller_s() -> None:
    first, second = observed(PLAIN[:2])
    before = BRIEF.see(NOTHING_SEEN, first)
    once, twice = BRIEF.see(before, second), BRIEF.see(before, second)
    views = [{name: seen.view for name, seen in sight.looks.items()} for sight in (once, twice)]
    assert views[0] == views[1]
    assert Sight() == NOTHING_SEEN  # unchanged
    # A driver that writes the next picture into the same buffer must not make the camera look frozen.
    buffer = PLAIN[0].copy()
    position_m = np.zeros(3)
    sight = NOTHING_SEEN
    for i, seen in enumerate(observed(PLAIN)):
        buffer[:] = PLAIN[i]
        position_m[:] = seen.proprio.eef_pos_m
        shared = replace(seen, images={"wrist": buffer}, proprio=replace(seen.proprio, eef_pos_m=position_m))
        sight = BRIEF.see(sight, shared)
        assert sight.looks["wrist"].view.n_frozen == 0
    sight = NOTHING_SEEN
    for seen in observed([PLAIN[0]] * 4):
        position_m[:] = seen.proprio.eef_pos_m
        sight = BRIEF.see(sight, replace(seen, proprio=replace(seen.proprio, eef_pos_m=position_m)))
    assert sight.looks["wrist"].view.n_frozen == 3  # … and a hand whose position is written in place moves all the same


@pytest.mark.parametrize("n_steps", [1, 3, 8])
def test_an_alarm_holds_for_control_steps_however_many_lie_between_two_looks(n_steps: int) -> None:
    watch, sight, last = Watch(hold_steps=12), NOTHING_SEEN, 0
    for step, seen in enumerate(observed([np.zeros_like(PLAIN[0]), *[PLAIN[0]] * 40], step_mm=0.0)):
        if step == 0 or step % n_steps == 0:
            sight = watch.see(sight, seen, n_steps=n_steps if step else 1)
            last = step if sight.n_left == watch.hold_steps else last
            assert (sight.alarm is not None) == (step <= last + 12)
    assert last == n_steps  # where the picture came back


def test_a_round_apart_another_picture_is_no_alarm_and_one_that_shows_nothing_is() -> None:
    elsewhere, dark = picture(texture(8, 128)), np.zeros_like(PLAIN[0])
    assert alarms([PLAIN[0], elsewhere], ROUNDS) == [None, None]
    assert alarms([PLAIN[0], elsewhere], DEFAULT) == [None, Alarm.JUMP]
    assert alarms([PLAIN[0], dark], ROUNDS) == [None, Alarm.DARK]


def test_a_picture_repeated_behind_several_control_steps_stood_still_for_all_of_them() -> None:
    sight = NOTHING_SEEN
    for seen in observed([PLAIN[0], PLAIN[0]]):
        sight = DEFAULT.see(sight, seen, n_steps=4)
    assert sight.looks["wrist"].view.n_frozen == 4
    assert sight.alarm is Alarm.FROZEN


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0, 25.0])
def test_the_noise_estimate_is_the_noise(sigma: float) -> None:
    ramp = np.add.outer(np.linspace(60, 120, 128), np.linspace(0, 60, 128))[:, :, None] * np.ones(3)
    found = [pixel_noise(noisy(ramp, sigma, seed)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(sigma, rel=0.05)
    assert pixel_noise(ramp.astype(np.uint8)) < 1.0
    assert pixel_noise(np.zeros((2, 9, 3), np.uint8)) == 0.0


def test_a_grey_picture_is_a_picture() -> None:
    colour = table_top(0)
    assert look(colour[:, :, 1], None, n_moved=0).view == look(colour, None, n_moved=0).view


def test_edges_along_the_axes_are_no_noise() -> None:
    grey = np.zeros((128, 128))
    grey[:, 64:] = 1.0
    assert pixel_noise(picture(grey)) == 0.0
    assert pixel_noise(picture(grey.T)) < 1.0


def test_a_picture_says_how_it_differs_from_the_last_one() -> None:
    first = look(table_top(0), None, n_moved=1)
    assert (first.view.peak, first.view.change, first.view.n_frozen) == (1.0, 0.0, 0)
    assert look(table_top(0), first, n_moved=1).view.n_frozen == 1
    slow = look(table_top(4), first, n_moved=1).view
    assert (slow.peak, slow.n_frozen) == (1.0, 0), "next to nothing changed: not looked at"
    assert 0.0 < slow.change < STILL_CHANGE
    fast = look(table_top(30), first, n_moved=1).view
    assert 0.2 < fast.peak < 1.0
    assert fast.change > STILL_CHANGE
    for axis in (0, 1):
        assert look(np.roll(table_top(0), 2, axis), first, n_moved=1).view.change > STILL_CHANGE
    dim, bright = (picture(level + 0.5 * texture(3, 128)) for level in (0.2, 0.3))
    brighter = look(bright, look(dim, None, n_moved=0), n_moved=1)
    assert brighter.view.change == pytest.approx(0.1, abs=0.01)
    assert brighter.view.peak > 0.9
    assert look(table_top(0, side=64), first, n_moved=1).view.n_frozen == 0
    other_size = look(np.zeros((16, 16, 3), np.uint8), first, n_moved=1)
    assert other_size.view.peak == 1.0  # nothing to compare it with


def test_more_pixels_than_are_looked_at_are_sampled() -> None:
    large = noisy(np.kron(table_top(0), np.ones((4, 4, 1), np.uint8)), 3.0, 0)
    sampled = look(large[::4, ::4], None, n_moved=0)
    np.testing.assert_array_equal(look(large, None, n_moved=0).scene.grey, sampled.scene.grey)
    unseen = large.copy()
    unseen[4::32] = 0  # between the bands
    first = look(large, None, n_moved=1)
    assert look(large, first, n_moved=1).view.n_frozen == 1
    unseen_by_all = large.copy()
    unseen_by_all[5, 5] += 1  # a camera that shows it is not frozen
    assert look(unseen_by_all, first, n_moved=1).view.n_frozen == 0
    assert pixel_noise(unseen) == pixel_noise(large)


@pytest.mark.parametrize("shape", [(3, 3, 3), (64, 64, 4), (2, 64, 64, 3)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"a picture is|a scene is"):
        look(np.zeros(shape, np.uint8), None, n_moved=0)


@pytest.mark.parametrize("reading", ["contrast", "noise", "peak", "change"])
def test_a_reading_that_is_not_a_number_is_an_alarm(reading: str) -> None:
    view = View(contrast=0.2, noise=1.0)
    assert ViewLimits().alarm(view) is None
    assert ViewLimits().alarm(replace(view, **{reading: math.nan})) is not None


@pytest.mark.parametrize("wrong", [{"min_peak": math.nan}, {"max_noise": math.inf}])
def test_limits_are_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="finite"):
        ViewLimits(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="0 or more"):
        Watch(hold_steps=-1)
    with pytest.raises(BadInput, match="finite"):
        Watch(min_similarity=math.nan)


VIEWS = st.builds(
    View, contrast=st.floats(0, 0.5), noise=st.floats(0, 80), peak=st.floats(-0.1, 1), change=st.floats(0, 1),
    n_frozen=st.integers(0, 5),
)  # fmt: skip
LIMITS = st.builds(
    ViewLimits, min_contrast=st.floats(0, 0.5), max_noise=st.floats(0, 80), min_peak=st.floats(-0.1, 1),
    max_change=st.floats(0, 1), max_frozen=st.integers(0, 5),
)  # fmt: skip


@settings(deadline=None)
@given(VIEWS, LIMITS, LIMITS)
def test_stricter_limits_never_see_less(view: View, a: ViewLimits, b: ViewLimits) -> None:
    strict = ViewLimits(
        max(a.min_contrast, b.min_contrast), min(a.max_noise, b.max_noise), max(a.min_peak, b.min_peak),
        min(a.max_change, b.max_change), min(a.max_frozen, b.max_frozen),
    )  # fmt: skip
    assert (strict.alarm(view) is None) <= (a.alarm(view) is None)


def test_novelty_is_below_the_limit_and_never_where_nobody_was_asked() -> None:
    watch = Watch(min_similarity=0.5)
    assert [watch.is_novel(s) for s in (0.49, 0.5, 0.9, math.nan)] == [True, False, False, False]
    assert not DEFAULT.is_novel(-1.0)
    alarmed = watch.alarmed(BRIEF.see(NOTHING_SEEN, next(iter(observed(PLAIN)))), Alarm.NOVEL)
    assert (alarmed.alarm, alarmed.n_left, set(alarmed.looks)) == (
        Alarm.NOVEL,
        watch.hold_steps,
        {"agentview", "wrist"},
    )


def test_no_cameras_no_alarms() -> None:
    blind = [Observation({}, seen.proprio, seen.instruction, seen.time_s) for seen in observed(PLAIN)]
    sight = NOTHING_SEEN
    for seen in blind:
        sight = BRIEF.see(sight, seen)
        assert sight.alarm is None


def test_the_watch_imports_neither_a_clock_nor_chance() -> None:
    tree = ast.parse(inspect.getsource(heisd.watch))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not names & {"time", "datetime", "random", "secrets", "os"}
    assert not any(isinstance(node, ast.Attribute) and node.attr == "random" for node in ast.walk(tree))
