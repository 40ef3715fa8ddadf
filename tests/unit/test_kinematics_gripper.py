"""Gripper events, contact and phase, from finger widths as the simulator's Panda shows them."""

import math

import kinematics_fakes as kf
import numpy as np
import pytest

from heisd.kinematics import Motion, Phase, phase_signal, read_gripper

RANGES = kf.ranges()
FAST_M, SLOW_M = RANGES.speed_gate_mm * 2e-3, RANGES.speed_gate_mm * 0.2e-3
SHUT = [0.7, 2.4, 4.0, 8.6, 8.8, 10.8]  # mm a step, fingers closing on nothing yet
OFF, ON = kf.OPEN, kf.CLOSED


def motion_of(commands: list[float], widths_mm: list[float], step_m: float = 0.0) -> Motion:
    n = len(widths_mm)
    actions = np.zeros((len(commands), 7))
    actions[:, 6] = commands
    positions = np.arange(n)[:, None] * np.array([step_m, 0.0, 0.0])
    return kf.motion_of(positions, actions=actions, widths_m=np.array(widths_mm) * 1e-3)


def grasp(stop_mm: float, n_after: int, n_before: int = 4, step_m: float = 0.0) -> Motion:
    """Open for a while, then closing until the fingers meet ``stop_mm``, then ``n_after`` steps at that width."""
    widths = [79.0] * (n_before + 1)
    for change in [*SHUT, *[10.0] * 10]:
        if widths[-1] <= stop_mm:
            break
        widths.append(max(widths[-1] - change, stop_mm))
    widths += [stop_mm] * n_after
    return motion_of([OFF] * n_before + [ON] * (len(widths) - 1 - n_before), widths, step_m)


def test_the_newest_command_and_how_long_it_has_held() -> None:
    state = read_gripper(motion_of([OFF, OFF, ON, ON, ON], [79] * 6))
    assert (state.is_commanded_closed, state.steps_since_change) == (True, 3)
    assert state.changed_within(3)
    assert not state.changed_within(2)
    assert read_gripper(motion_of([OFF, OFF, ON], [79] * 4)).steps_since_change == 1
    assert read_gripper(motion_of([ON, ON], [40] * 3)).steps_since_change is None
    assert read_gripper(motion_of([], [79])).is_commanded_closed is None
    assert not read_gripper(motion_of([], [79])).changed_within(99)


def test_nan_ends_what_is_known() -> None:
    assert read_gripper(motion_of([OFF, ON, math.nan], [79] * 4)).is_commanded_closed is None
    state = read_gripper(motion_of([OFF, math.nan, ON, ON], [79] * 5))
    assert (state.is_commanded_closed, state.steps_since_change) == (True, None)


@pytest.mark.parametrize("stop_mm", [3.4, 12.0, 43.0, 63.0])
def test_fingers_that_stop_on_something_hold_it(stop_mm: float) -> None:
    assert not read_gripper(grasp(stop_mm, 0)).is_holding
    assert read_gripper(grasp(stop_mm, 3)).is_holding
    assert read_gripper(grasp(stop_mm, 30)).is_holding


def test_holding_is_known_when_the_grasp_is_older_than_the_memory() -> None:
    assert read_gripper(motion_of([ON] * 5, [43.0] * 6)).is_holding
    assert not read_gripper(motion_of([ON], [43.0] * 2)).is_holding  # one still step says nothing


def test_fingers_that_met_each_other_hold_nothing() -> None:
    assert not read_gripper(grasp(1.0, 20)).is_holding


def test_fingers_not_yet_under_way_hold_nothing() -> None:
    assert not read_gripper(motion_of([OFF, OFF, ON, ON, ON], [79.0] * 6)).is_holding


def test_slipping_a_little_is_still_holding_and_shutting_is_not() -> None:
    held = grasp(12.0, 5)
    widths = (1e3 * (held.gripper_qpos_m[:, 0] - held.gripper_qpos_m[:, 1])).tolist()
    commands = held.actions[:, 6].tolist()
    assert read_gripper(motion_of([*commands, ON], [*widths, 9.5])).is_holding
    assert not read_gripper(motion_of([*commands, ON], [*widths, 3.0])).is_holding
    assert not read_gripper(motion_of([*commands, ON, ON], [*widths, 5.0, 1.0])).is_holding


def test_an_open_command_holds_nothing_whatever_the_width() -> None:
    assert not read_gripper(motion_of([OFF] * 6, [43.0] * 7)).is_holding


def phase(motion: Motion) -> Phase:
    return phase_signal(motion, RANGES).phase


def test_the_phases_of_a_pick_and_place() -> None:
    assert phase(motion_of([OFF] * 5, [79] * 6, FAST_M)) is Phase.APPROACH
    assert phase(motion_of([OFF] * 5, [79] * 6, SLOW_M)) is Phase.APPROACH
    assert phase(motion_of([OFF, OFF, ON], [79, 79, 79, 78])) is Phase.GRASP
    assert phase(grasp(43.0, 3, step_m=SLOW_M)) is Phase.GRASP  # held, not moved yet
    assert phase(grasp(43.0, 3, step_m=FAST_M)) is Phase.TRANSPORT
    assert phase(grasp(43.0, 20, step_m=SLOW_M)) is Phase.TRANSPORT  # slow above the place
    assert phase(motion_of([ON, ON, OFF], [43, 43, 43, 43.5])) is Phase.RELEASE
    assert (
        phase(motion_of([ON, OFF, OFF, OFF, OFF], [43, 43, 48, 58, 68, 75], FAST_M)) is Phase.RELEASE
    )  # still opening
    assert phase(motion_of([ON, OFF, OFF, OFF, OFF], [43, 43, 68, 77, 77.5, 77.9], FAST_M)) is Phase.APPROACH
    assert phase(motion_of([ON, *[OFF] * 13], [43, 43, *[77.5] * 13], SLOW_M)) is Phase.APPROACH


def test_carrying_nothing_is_not_transport() -> None:
    assert phase(grasp(1.0, 20, step_m=FAST_M)) is Phase.GRASP


def test_an_episode_that_begins_with_closed_empty_fingers_is_an_approach() -> None:
    assert phase(motion_of([OFF] * 4, [1.0, 5.6, 20.3, 38.7, 58.1])) is Phase.APPROACH
    assert phase(motion_of([], [1.0])) is Phase.APPROACH
