"""``--shift``: what can be said, how it is echoed, what every start draws, and what each camera fault shows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heisd.config import EvalConfig, content_hash
from heisd.errors import BadInput, UnknownName
from heisd.sim.faults import FAULTS
from heisd.sim.shifts import DRAWN_ONSETS, SHIFTS, Shift, canonical, describe, parse_shifts
from heisd.sim.splits import EpisodeStart

START = EpisodeStart("libero_object", 3, 31, None)
N, SIDE = 12, 32
RNG = np.random.default_rng(7)
WORLD = [
    {camera: RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for camera in ("agentview", "wrist")}
    for _ in range(N)
]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("black", "black:camera=both,every=1,onset=0"),
        ("black:wrist", "black:camera=wrist,every=1,onset=0"),
        ("black:wrist,4", "black:camera=wrist,every=4,onset=0"),
        (" black : wrist , onset = 40 ".replace(" ", ""), "black:camera=wrist,every=1,onset=40"),
        ("noisy:std=10", "noisy:camera=both,std=10.0,onset=0"),
        ("nudged", "nudged:cm=3.0,onset=drawn"),
        ("lighting:0.5,-0.2", "lighting:level=0.5,warmth=-0.2,onset=0"),
        ("frozen:agentview+nudged:2", "frozen:camera=agentview,onset=drawn+nudged:cm=2.0,onset=drawn"),
    ],
)
def test_whatever_is_left_out_is_stated(text: str, stated: str) -> None:
    assert canonical(text) == stated
    assert canonical(stated) == stated


@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_has_its_defaults_and_stands_in_the_list(name: str) -> None:
    assert name in {row[0] for row in describe()}
    assert canonical(canonical(name)) == canonical(name)
    for parameter in SHIFTS[name].parameters:  # a default is one of the values that may be given
        assert parameter.parse(str(parameter.default), name) == parameter.default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown shift ''; known: black, delayed, frozen, lighting, noisy, nudged, shifted"),
        ("dark", "unknown shift 'dark'"),
        ("black+", "unknown shift ''"),
        ("black:left", "camera=left is not agentview or wrist or both"),
        ("black:wrist,0", "every=0 is not a whole number from 1 on"),
        ("black:wrist,1.5", "every=1.5 is not a whole number"),
        ("black:onset=-1", "onset=-1 is not a whole number from 0 to 10000, or drawn"),
        ("black:onset=soon", "onset=soon is not"),
        ("noisy:std=nan", "std=nan is not a number from 0 to 255"),
        ("noisy:std=inf", "std=inf is not"),
        ("noisy:wrist,camera=both", "cannot use 'camera=both'"),
        ("noisy:level=3", "cannot use 'level=3'; its parameters, each at most once: camera, std, onset"),
        ("nudged:1,2,3", "cannot use '3'"),
        ("black:", None),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, message: str | None) -> None:
    if message is None:
        assert canonical(text) == canonical("black")
        return
    with pytest.raises((BadInput, UnknownName)) as caught:
        parse_shifts(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shift_is_part_of_a_run_s_identity_and_none_leaves_old_hashes_alone() -> None:
    def fields(**changes: object) -> dict[str, object]:
        return EvalConfig(suite="s", methods=("ar",), **changes).outcome_fields()  # type: ignore[arg-type]

    assert not {"shift", "shard", "ray"} & set(fields())
    assert fields(shift="black")["shift"] == "black:camera=both,every=1,onset=0"
    assert content_hash(fields(shift="black")) == content_hash(fields(shift="black:both,1,0"))
    different = [None, "black", "black:wrist", "black+nudged", "nudged+black"]
    assert len({content_hash(fields(shift=shift)) for shift in different}) == len(different)
    with pytest.raises(UnknownName):
        EvalConfig(suite="s", methods=("ar",), shift="dark")


@given(st.integers(0, 9), st.integers(0, 49), st.sampled_from(["nudged", "frozen"]))
def test_what_is_drawn_follows_from_the_start_and_the_shift(task: int, state: int, name: str) -> None:
    start, (shift,) = EpisodeStart("libero_object", task, state, None), parse_shifts(name)
    onset = shift.onset_step(shift.generator(start, 0))
    assert onset in DRAWN_ONSETS
    assert onset == shift.onset_step(shift.generator(replace(start), 0))


def test_starts_and_shifts_draw_apart() -> None:
    starts = [EpisodeStart("libero_object", task, state, None) for task in range(10) for state in range(30, 50)]
    (shift,) = parse_shifts("frozen")
    onsets = [shift.onset_step(shift.generator(start, 0)) for start in starts]
    assert min(onsets) == 10
    assert max(onsets) == 40
    assert np.mean(onsets) == pytest.approx(25, abs=2)
    first, second = (shift.generator(START, position).random() for position in (0, 1))
    assert first != second
    (other,) = parse_shifts("frozen:wrist")
    assert shift.generator(START, 0).random() != other.generator(START, 0).random()


def shown(text: str, start: EpisodeStart = START) -> list[dict[str, np.ndarray]]:
    """What the cameras show of the world under one fault; the world itself must stay what it is."""
    (shift,) = parse_shifts(text)
    before = [{camera: picture.copy() for camera, picture in images.items()} for images in WORLD]
    fault = FAULTS[shift.name](shift, shift.generator(start, 0))
    found = [dict(fault.show(images, step)) for step, images in enumerate(WORLD)]
    for images, kept in zip(WORLD, before, strict=True):
        for camera in images:
            np.testing.assert_array_equal(images[camera], kept[camera])
    return found


def is_world(picture: np.ndarray, step: int, camera: str = "wrist") -> bool:
    return np.array_equal(picture, WORLD[step][camera])


@pytest.mark.parametrize("name", FAULTS)
def test_before_the_onset_and_in_other_cameras_nothing_changes(name: str) -> None:
    found = shown(f"{name}:wrist,onset=5")
    assert all(is_world(found[step]["agentview"], step, "agentview") for step in range(N))
    assert all(is_world(found[step]["wrist"], step) for step in range(5))
    assert not any(is_world(found[step]["wrist"], step) for step in range(5, N))
    assert {picture["wrist"].dtype for picture in found} == {np.dtype(np.uint8)}
    assert {picture["wrist"].shape for picture in found} == {(SIDE, SIDE, 3)}


@pytest.mark.parametrize("name", FAULTS)
def test_the_same_start_shows_the_same_and_both_cameras_are_meant_by_both(name: str) -> None:
    text = f"{name}:both,onset=3"
    for one, other in zip(shown(text), shown(text), strict=True):
        for camera in ("agentview", "wrist"):
            np.testing.assert_array_equal(one[camera], other[camera])
    assert not is_world(shown(text)[6]["agentview"], 6, "agentview")


def test_black_is_black_and_every_fourth_is_every_fourth() -> None:
    found = shown("black:wrist,4,2")
    assert [not picture["wrist"].any() for picture in found] == [step >= 2 and (step - 2) % 4 == 0 for step in range(N)]


def test_frozen_shows_the_last_good_picture() -> None:
    assert all(is_world(picture["wrist"], 4) for picture in shown("frozen:wrist,5")[5:])
    assert all(is_world(picture["wrist"], 0) for picture in shown("frozen:wrist,0"))


def test_delayed_shows_what_was_there() -> None:
    found = shown("delayed:wrist,3,5")
    assert all(is_world(found[step]["wrist"], step - 3) for step in range(5, N))
    from_the_start = shown("delayed:wrist,3,0")
    assert [next(i for i in range(N) if is_world(p["wrist"], i)) for p in from_the_start] == [0, 0, 0, *range(N - 3)]


def test_noise_has_the_stated_strength_and_is_new_in_every_picture() -> None:
    (shift,) = parse_shifts("noisy:wrist,10")
    fault = FAULTS["noisy"](shift, shift.generator(START, 0))
    grey = np.full((64, 64, 3), 128, np.uint8)
    first, second = (fault.show({"wrist": grey}, step)["wrist"].astype(float) - 128 for step in (0, 1))
    assert first.std() == pytest.approx(10, rel=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_a_displacement_is_as_far_as_stated_for_any_size() -> None:
    starts = [EpisodeStart("libero_object", task, 31, None) for task in range(10)]
    angles = set()
    for start in starts:
        (shift,) = parse_shifts("shifted:wrist,16")
        for side in (128, 256):
            marked = np.zeros((side, side, 3), np.uint8)
            marked[side // 2, side // 2] = 255
            moved = FAULTS["shifted"](shift, shift.generator(start, 0)).show({"wrist": marked}, 0)["wrist"]
            ((row, column),) = np.argwhere(moved[:, :, 0])
            far = math.hypot(row - side // 2, column - side // 2)
            assert far == pytest.approx(16 * side / 128, abs=1.0)
            angles.add(round(math.atan2(row - side // 2, column - side // 2), 1))
    assert len(angles) >= 8


def test_a_number_is_asked_for_by_name() -> None:
    (shift,) = parse_shifts("nudged:cm=4")
    assert isinstance(shift, Shift)
    assert (shift.number("cm"), shift["onset"]) == (4.0, "drawn")
