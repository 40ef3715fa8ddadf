"""The belt without LIBERO's simulator: which way it goes and why, and along which axis friction pulls."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from heisd.sim.splits import FRESH_SEEDS, SHIPPED_STATES, Condition, EpisodeStart, Split, parse_condition
from heisd.sim.targets import first_to_grasp, stands_on_table, targets, with_carriers

MOVING = [condition for condition in Condition if condition.belt_m_s]


def test_conditions_say_what_they_move() -> None:
    assert [c.belt_m_s for c in MOVING] == [0.02, 0.04, 0.06, 0.08, 0.12]
    assert all(c.jitter_m == 0 for c in MOVING)
    assert [parse_condition(name).belt_m_s for name in ("shipped", "jitter", "jitter4")] == [0, 0, 0]


def test_directions_of_evaluation_are_never_those_of_training() -> None:
    def seeds(split: Split) -> set[int]:
        shipped = [EpisodeStart("s", task, state, None) for state in SHIPPED_STATES[split] for task in range(10)]
        fresh = [EpisodeStart("s", task, None, seed) for seed in FRESH_SEEDS[split][:300] for task in range(10)]
        return {start.belt_seed for start in (*shipped, *fresh)}

    by_split = {split: seeds(split) for split in Split}
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values()))
    jittered = {EpisodeStart("s", t, n, None).jitter_seed for n in range(50) for t in range(10)}
    assert not jittered & set().union(*by_split.values())


PROBLEM = {
    "objects": {"bowl": ["bowl_1"], "box": ["box_1"], "plate": ["plate_1"]},
    "fixtures": {"kitchen_table": ["kitchen_table"], "stove": ["stove_1"]},
    "obj_of_interest": ["bowl_1", "plate_1", "stove_1"],
    "goal_state": [["turnon", "stove_1"], ["on", "bowl_1", "plate_1"]],
    "regions": {"middle": {"target": "kitchen_table"}, "burner": {"target": "stove_1"}},
    "initial_state": [["on", "bowl_1", "box_1"], ["on", "box_1", "middle"], ["on", "plate_1", "middle"]],
}


def test_a_task_file_tells_what_is_grasped_and_what_carries_it() -> None:
    assert targets(PROBLEM) == ["bowl_1", "plate_1"]
    assert first_to_grasp(PROBLEM) == "bowl_1"
    assert with_carriers(PROBLEM, "bowl_1") == ("bowl_1", "box_1")
    assert stands_on_table(PROBLEM, "bowl_1")
    on_plate = {**PROBLEM, "initial_state": [["on", "bowl_1", "plate_1"], ["on", "plate_1", "middle"]]}
    assert with_carriers(on_plate, "bowl_1") == ("bowl_1",)  # the plate is a target itself


@pytest.mark.parametrize("state", [["on", "bowl_1", "burner"], ["in", "bowl_1", "drawer"]])
def test_what_stands_on_or_in_a_fixture_is_not_on_the_table(state: list[str]) -> None:
    assert not stands_on_table({**PROBLEM, "initial_state": [state]}, "bowl_1")
    assert first_to_grasp({**PROBLEM, "goal_state": [["open", "drawer"]]}) is None


# --- geometry; no simulator, but its package ----------------------------------------------------------------------

pytest.importorskip("libero", reason='needs pip install "heisd[libero]"')

import mujoco  # noqa: E402

from heisd.sim.belt import HALF_WAY_M, WANTED_WAY_M, Belt, draw_way, free_m, in_the_way  # noqa: E402

EAST, NORTH = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def test_a_way_ends_where_the_air_would_get_too_thin() -> None:
    post = np.array([[0.06, 0.0]])
    assert free_m(post, EAST, 0.01) == pytest.approx(0.05)
    assert free_m(post, -EAST, 0.01) == HALF_WAY_M
    assert free_m(post, NORTH, 0.01) == HALF_WAY_M
    assert free_m(np.array([[0.06, 0.009]]), EAST, 0.01) == pytest.approx(0.06 - np.sqrt(0.01**2 - 0.009**2))
    assert free_m(np.array([[0.06, 0.011]]), EAST, 0.01) == HALF_WAY_M
    assert free_m(np.empty((0, 2)), EAST, 0.01) == HALF_WAY_M
    assert free_m(np.array([[0.005, 0.0]]), EAST, 0.01) == 0.0


def disc(x_m: float, radius_m: float) -> Any:
    """(N, 2) places on a grid of 5 mm that a disc stands for."""
    grid = np.arange(-0.3, 0.3, 0.001)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    return np.unique(np.round(points[np.linalg.norm(points - (x_m, 0), axis=1) <= radius_m] / 0.005), axis=0) * 0.005


@pytest.mark.parametrize(("gap_m", "air_m"), [(0.03, 0.015), (0.01, 0.008), (0.0005, 0.004)])
def test_a_neighbour_bars_the_way_into_it_and_none_off_it_however_near(gap_m: float, air_m: float) -> None:
    bowl, plate = disc(0.0, 0.05), disc(0.05 + gap_m + 0.07, 0.07)
    offsets, air = in_the_way((plate[None] - bowl[:, None]).reshape(-1, 2))
    assert air == pytest.approx(air_m, abs=0.005)
    assert free_m(offsets, EAST, air) <= gap_m + 0.01
    assert free_m(offsets, -EAST, air) == HALF_WAY_M
    assert free_m(offsets, np.array([-0.8, 0.6, 0]), air) == HALF_WAY_M
    assert free_m(offsets, np.array([0.8, 0.6, 0]), air) < gap_m + 0.03
    assert in_the_way(np.empty((0, 2)))[1] == 0.015


def test_the_first_long_enough_direction_is_taken_else_the_longest() -> None:
    def way_m(direction: Any) -> float:
        return 0.1 if direction[1] > 0.9 else 0.03  # long to the north alone

    rng = np.random.default_rng
    found = [draw_way(way_m, rng(seed)) for seed in range(40)]
    lengths = [ends[1] - ends[0] for _, ends in found]
    assert max(lengths) == pytest.approx(0.13)
    assert max(lengths) < WANTED_WAY_M
    assert all(ends[0] <= 0 <= ends[1] for _, ends in found)
    for seed, (direction, ends) in enumerate(found):
        angles = rng(seed).uniform(0, 2 * np.pi, 16)
        ways = [way_m(np.array([np.cos(a), np.sin(a)])) + way_m(-np.array([np.cos(a), np.sin(a)])) for a in angles]
        assert ends[1] - ends[0] == max(ways)
        angle = angles[int(np.argmax(ways))]  # the first of the longest
        np.testing.assert_allclose(direction, [np.cos(angle), np.sin(angle), 0])
    everywhere = [draw_way(lambda _: 0.1, rng(seed))[0] for seed in range(200)]
    angles = np.array([np.arctan2(d[1], d[0]) for d in everywhere])
    assert np.histogram(angles, bins=4, range=(-np.pi, np.pi))[0].min() > 30  # every direction occurs
    assert draw_way(lambda _: 0.0, rng(0))[1] == (0.0, 0.0)


class StillBelt(Belt):
    """A belt without a simulator, its target where the test says."""

    def __init__(self, along_m: float, sign: float) -> None:
        self._group, self._speed_m_s, self._sign = ("bowl_1",), 0.04, sign
        self._ends_m, self._direction, self.at = (-0.05, 0.1), EAST, along_m

    def _along_m(self) -> float:
        return self.at


@pytest.mark.parametrize(
    ("along_m", "sign", "after_s", "ahead_m"),
    [
        (0.0, 1, 1.0, 0.04), (0.0, -1, 1.0, -0.04), (0.08, 1, 1.0, 0.0), (0.1, -1, 0.5, -0.02),
        (-0.04, -1, 0.5, 0.0), (0.0, 1, 7.5, 0.0), (0.02, -1, 7.5, 0.0), (0.0, 1, 0.0, 0.0),
    ],
)  # fmt: skip
def test_what_is_carried_is_met_where_it_will_be_turning_round_included(
    along_m: float, sign: float, after_s: float, ahead_m: float
) -> None:
    belt = StillBelt(along_m, sign)
    np.testing.assert_allclose(belt.ahead_m("bowl_1", after_s), ahead_m * EAST, atol=1e-12)
    np.testing.assert_array_equal(belt.ahead_m("plate_1", after_s), np.zeros(3))


@pytest.mark.parametrize("kind", ["cylinder", "box"])  # beside a box MuJoCo names the one first, the other second
def test_friction_pulls_along_the_belt_whichever_body_a_contact_names_first(kind: str) -> None:
    model = mujoco.MjModel.from_xml_string(
        f"""<mujoco><option cone="elliptic" timestep="0.002"/><worldbody>
        <geom name="table" type="box" size="1 1 .1" pos="0 0 -.1"/>
        <body name="target" pos="0 0 .05"><freejoint/><geom name="target" type="{kind}" size=".04 .05 .05"/></body>
        </worldbody></mujoco>"""
    )
    data = mujoco.MjData(model)
    table, target = (model.geom(name).id for name in ("table", "target"))
    belt = StillBelt(0.0, 1)
    belt._env = SimpleNamespace(sim=SimpleNamespace(data=SimpleNamespace(_data=data)))
    belt._geoms, belt._support = np.array([target]), np.array([table])
    for _ in range(500):
        mujoco.mj_step1(model, data)
        belt._drag(0.04 * NORTH)
        mujoco.mj_step2(model, data)
    assert (data.contact.geom[:, 0 if kind == "cylinder" else 1] == target).all()
    np.testing.assert_allclose(data.qvel[:3], 0.04 * NORTH, atol=1e-3)
