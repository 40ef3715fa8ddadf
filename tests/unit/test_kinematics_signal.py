"""One PhaseSignal: formulas, one direction for all, and every degenerate window."""

import math
from dataclasses import replace

import kinematics_fakes as kf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heisd.errors import BadInput
from heisd.kinematics import Distance, Motion, Phase, Reading, Solver, phase_signal, summary
from heisd.types import Proprioception

fast = settings(deadline=None, max_examples=80)
RANGES = {(solver, distance): kf.ranges(solver=solver, distance=distance) for solver in Solver for distance in Distance}
USUAL = RANGES[Solver.CENTROID, Distance.PATH]
GROWING = (Reading.FUSED, Reading.SPEED, Reading.FINENESS)


def scaled(motion: Motion, factor: float) -> Motion:
    """The same motion, larger: positions about the first one, and the translations of the actions."""
    positions = motion.eef_pos_m[:1] + factor * (motion.eef_pos_m - motion.eef_pos_m[:1])
    actions = motion.actions * np.array([factor] * 3 + [1.0] * 4)
    return Motion(positions, motion.eef_quat_xyzw, motion.gripper_qpos_m, actions)


@fast
@given(st.integers(0, 999), st.integers(3, 60), st.sampled_from(list(RANGES)))
def test_fused_is_the_formula(seed: int, n: int, kind: tuple[Solver, Distance]) -> None:
    """A direct transcription of HeiSD section 3.2 over the readings R and D."""
    r = RANGES[kind]
    signal = phase_signal(kf.last(kf.episode(seed), n), r)
    norm_r = np.clip((signal.spread_m - r.spread_min_m) / (r.spread_max_m - r.spread_min_m), 0, 1)
    norm_d = np.clip(
        (signal.displacement_m - r.displacement_min_m) / (r.displacement_max_m - r.displacement_min_m), 0, 1
    )
    assert signal.fused == pytest.approx(0.5 * norm_r + 0.5 * norm_d)
    assert 0 <= signal.fused <= 1


def test_fused_from_bare_positions() -> None:
    """The default definitions with nothing of ours in between: R about the centroid on the plane, D along the path."""
    for seed in range(20):
        motion = kf.episode(100 + seed)
        p = motion.eef_pos_m[-15:]
        centred = p - p.mean(axis=0)
        on_plane = centred @ np.linalg.svd(centred)[2][:2].T
        R = np.mean([math.hypot(*point) for point in on_plane])
        D = sum(math.dist(p[i], p[i + 1]) for i in range(14))
        u = USUAL
        norm_r = min(max((R - u.spread_min_m) / (u.spread_max_m - u.spread_min_m), 0.0), 1.0)
        norm_d = min(max((D - u.displacement_min_m) / (u.displacement_max_m - u.displacement_min_m), 0.0), 1.0)
        assert phase_signal(motion, u).fused == pytest.approx(u.alpha * norm_r + (1 - u.alpha) * norm_d)


@fast
@given(st.integers(0, 999), st.integers(2, 60), st.floats(1.0, 20.0), st.sampled_from(list(RANGES)))
def test_a_larger_motion_is_never_less_tolerant(
    seed: int, n: int, factor: float, kind: tuple[Solver, Distance]
) -> None:
    motion, r = kf.last(kf.episode(seed), n), RANGES[kind]
    small, large = phase_signal(motion, r), phase_signal(scaled(motion, factor), r)
    for reading in GROWING:
        assert large.tolerance(reading) >= small.tolerance(reading) - 1e-7
    assert large.speed_mm >= small.speed_mm * (1 - 1e-9)  # a factor of 1 moves the positions by rounding
    assert not large.fused < small.fused - 1e-7  # NaN below three poses
    assert large.fineness <= small.fineness + 1e-9


@fast
@given(st.integers(0, 999), st.floats(1.0, 20.0))
def test_jerkier_rotation_is_never_more_tolerant(seed: int, factor: float) -> None:
    motion = kf.episode(seed)
    jerky = motion.actions * np.array([1.0] * 3 + [factor] * 3 + [1.0])
    calm, wild = (
        phase_signal(Motion(motion.eef_pos_m, motion.eef_quat_xyzw, motion.gripper_qpos_m, actions), USUAL)
        for actions in (motion.actions, jerky)
    )
    assert wild.angular_jerk >= calm.angular_jerk
    assert wild.sensitivity >= calm.sensitivity
    assert wild.tolerance(Reading.SENSITIVITY) <= calm.tolerance(Reading.SENSITIVITY)


def test_readings_agree_at_the_extremes() -> None:
    motion = kf.episode(3)
    for reading in Reading:
        still, fast_motion = phase_signal(scaled(motion, 0.0), USUAL), phase_signal(scaled(motion, 50.0), USUAL)
        assert not still.is_tolerant(reading)
        if reading is not Reading.SENSITIVITY:
            assert still.tolerance(reading) == 0
            assert fast_motion.tolerance(reading) == 1
            assert fast_motion.is_tolerant(reading)


def test_dyqs_formulas() -> None:
    motion = kf.episode(5)
    a = motion.actions
    M = 1 - np.linalg.norm(a[-10:, :3], axis=1).mean() / USUAL.translation_high
    J = np.linalg.norm(np.diff(a[-6:, 3:6], axis=0), axis=1).mean() / USUAL.rotation_change_high
    signal = phase_signal(motion, USUAL)
    assert (signal.fineness, signal.angular_jerk) == pytest.approx((M, J))
    assert signal.sensitivity == pytest.approx(max(0, 0.5 * M + 0.5 * J))


def test_fine_means_not_tolerant_by_dyqs_own_threshold() -> None:
    """Full precision is asked for above 0.5; tolerant is strictly below it, so the two never coincide."""
    for seed in range(40):
        signal = phase_signal(kf.last(kf.episode(seed), 20), USUAL)
        needs_precision = signal.sensitivity > 0.5
        assert not (needs_precision and signal.is_tolerant(Reading.SENSITIVITY))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_short_motions(n: int) -> None:
    signal = phase_signal(kf.motion_of(np.arange(n)[:, None] * np.array([0.01, 0, 0])), USUAL)
    assert math.isnan(signal.speed_mm) == (n < 2)
    assert math.isnan(signal.displacement_m) == (n < 2)
    assert math.isnan(signal.fused) == (n < 3)
    assert math.isnan(signal.fineness) == (n < 2)
    assert math.isnan(signal.sensitivity) == (n < 3)
    assert signal.phase is Phase.APPROACH
    for reading in Reading:
        assert 0 <= signal.tolerance(reading) <= 1
        if n < 2:
            assert signal.tolerance(reading) == 0
            assert not signal.is_tolerant(reading)


@pytest.mark.parametrize("kind", list(RANGES))
def test_a_still_window_is_defined_and_strict(kind: tuple[Solver, Distance]) -> None:
    signal = phase_signal(kf.motion_of(np.tile([0.1, 0.2, 1.0], (20, 1))), RANGES[kind])
    assert (signal.speed_mm, signal.fused, signal.fineness) == (0, 0, 1)
    assert not any(signal.is_tolerant(reading) for reading in Reading)


@pytest.mark.parametrize("kind", list(RANGES))
def test_a_straight_fast_window_is_tolerant(kind: tuple[Solver, Distance]) -> None:
    straight = kf.motion_of(np.arange(20)[:, None] * np.array([0.02, 0, 0]))
    signal = phase_signal(straight, RANGES[kind])
    assert signal.fused == 1
    assert signal.is_tolerant(Reading.FUSED)
    assert signal.is_tolerant(Reading.SPEED)


@fast
@given(st.integers(0, 999), st.sampled_from(["eef_pos_m", "gripper_qpos_m", "actions", "joint_vel_rad_s"]),
       st.integers(1, 12), st.sampled_from([math.nan, math.inf, -math.inf, 1e200]))  # fmt: skip
def test_nothing_breaks_whatever_is_not_a_number(seed: int, where: str, back: int, bad: float) -> None:
    rng = np.random.default_rng(seed)
    source = kf.last(kf.episode(seed), 12)
    arrays = {name: getattr(source, name).copy() for name in ("eef_pos_m", "gripper_qpos_m", "actions")}
    arrays["joint_vel_rad_s"] = rng.normal(size=(12, 7))
    rows = arrays[where]
    rows[-min(back, len(rows)), rng.integers(rows.shape[1])] = bad
    with np.errstate(over="ignore"):
        signal = phase_signal(Motion(eef_quat_xyzw=source.eef_quat_xyzw, **arrays), USUAL)
        values = summary(signal)
    assert all(0 <= signal.tolerance(reading) <= 1 for reading in Reading)
    assert all(not math.isinf(values[key]) for key in ("speed_mm", "fused", "fineness", "displacement_m", "spread_m"))
    if where == "eef_pos_m":
        assert math.isnan(signal.fused) or bad == 1e200
        if bad != 1e200:
            assert not signal.is_tolerant(Reading.FUSED)


def test_nan_outside_the_window_does_not_matter() -> None:
    motion = kf.episode(2)
    motion.eef_pos_m[:-15] = math.nan
    assert math.isfinite(phase_signal(motion, USUAL).fused)
    motion.eef_pos_m[-15] = math.nan
    assert math.isnan(phase_signal(motion, USUAL).fused)
    assert phase_signal(motion, USUAL).tolerance(Reading.FUSED) == 0


def test_an_unreadable_gripper_is_the_strictest_phase() -> None:
    motion = kf.episode(2).upto(20)
    assert phase_signal(motion, USUAL).phase is Phase.APPROACH
    motion.actions[-1, 6] = math.nan
    assert phase_signal(motion, USUAL).phase is Phase.GRASP
    motion = kf.episode(2).upto(20)
    motion.gripper_qpos_m[-1, 0] = math.nan
    assert phase_signal(motion, USUAL).phase is Phase.GRASP


def test_motion_from_proprioception(rng: np.random.Generator) -> None:
    poses, actions = kf.proprioception(rng, 9), rng.normal(size=(12, 7))
    motion = Motion.of(poses, actions)
    np.testing.assert_array_equal(motion.actions, actions[4:])
    np.testing.assert_array_equal(motion.eef_pos_m, np.stack([p.eef_pos_m for p in poses]).astype(float))
    np.testing.assert_array_equal(motion.gripper_qpos_m[-1], poses[-1].gripper_qpos_m.astype(float))
    np.testing.assert_array_equal(motion.joint_vel_rad_s[3], poses[3].joint_vel_rad_s.astype(float))
    short = Motion.of(poses, actions, n_poses=4)
    np.testing.assert_array_equal(short.eef_pos_m, motion.eef_pos_m[-4:])
    np.testing.assert_array_equal(short.actions, actions[-3:])
    assert len(Motion.of(poses, actions[:0]).actions) == 0
    assert len(Motion.of([], actions)) == len(Motion.of(poses, actions, n_poses=0)) == 0


def test_motion_a_step_ago(rng: np.random.Generator) -> None:
    poses, actions = kf.proprioception(rng, 9), rng.normal(size=(8, 7))
    before = Motion.of(poses, actions).upto(8)
    expected = Motion.of(poses[:-1], actions[:-1])
    for name in ("eef_pos_m", "eef_quat_xyzw", "gripper_qpos_m", "actions", "joint_vel_rad_s"):
        np.testing.assert_array_equal(getattr(before, name), getattr(expected, name))
    few = Motion.of(poses, actions[-2:])
    assert [len(few.upto(n).actions) for n in (9, 8, 7, 6, 0)] == [2, 1, 0, 0, 0]


def test_motions_of_wrong_shape_are_refused(rng: np.random.Generator) -> None:
    good = kf.episode(0)
    with pytest.raises(BadInput, match="leave out the action that is not executed yet"):
        kf.motion_of(good.eef_pos_m, actions=np.zeros((60, 7)))
    with pytest.raises(BadInput, match="shapes"):
        Motion(good.eef_pos_m, good.eef_quat_xyzw[:-1], good.gripper_qpos_m, good.actions)
    with pytest.raises(BadInput, match="of 7 numbers"):
        kf.motion_of(good.eef_pos_m, actions=np.zeros((5, 6)))
    poses = kf.proprioception(rng, 3)
    wrong = Proprioception(np.zeros(4), *(np.zeros(n) for n in (4, 2, 2, 7, 7)))
    with pytest.raises(BadInput, match="every pose has 3 numbers"):
        Motion.of([*poses, wrong], np.zeros((0, 7)))


def test_summary_is_every_reading_as_a_float() -> None:
    strayed = np.asarray([0.25, *[0.0] * 6]) * USUAL.action_change_sigma[0]
    signal = phase_signal(replace(kf.episode(1), deviation=strayed), USUAL)
    values = summary(signal)
    assert all(type(value) is float for value in values.values())
    assert values["fused"] == signal.fused
    assert values["variability"] == pytest.approx(0.25)
    assert math.isnan(values["joint_speed_rad_s"])
    assert values["gripper_closed"] == 1
    assert list(Phase)[int(values["phase"])] is signal.phase
    assert all(math.isnan(v) for k, v in summary(phase_signal(kf.motion_of(np.empty((0, 3))), USUAL)).items()
               if k not in ("holding", "phase"))  # fmt: skip


def test_joint_speed(rng: np.random.Generator) -> None:
    joints = rng.normal(size=(5, 7))
    motion = kf.motion_of(np.zeros((5, 3)), joint_vel_rad_s=joints)
    assert phase_signal(motion, USUAL).joint_speed_rad_s == pytest.approx(np.linalg.norm(joints[-1]))
    for bad in (math.nan, math.inf):
        joints[-1, 2] = bad
        assert math.isnan(phase_signal(motion, USUAL).joint_speed_rad_s)
