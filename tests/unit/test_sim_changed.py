"""An environment under shifts: deterministic, composable; in LIBERO, a push and other lamps that leave physics be."""

import numpy as np
import pytest
import toy_world

from heisd.sim.changed import ChangedEnv
from heisd.sim.shifts import parse_shifts
from heisd.sim.splits import EpisodeStart
from heisd.types import Observation

START = EpisodeStart("toy", 0, 30, None)
STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


def play(text: str, n_steps: int = 8, start: EpisodeStart = START) -> tuple[list[Observation], dict]:
    env = ChangedEnv(toy_world.ToyEnv(0), parse_shifts(text))
    first, info = env.reset(start)
    return [first, *(env.step(0.3 * np.ones(7))[0] for _ in range(n_steps))], info


def pictures(seen: list[Observation]) -> list[np.ndarray]:
    return [o.images["wrist"] for o in seen]


def test_shifts_apply_in_their_order_and_the_first_onset_counts() -> None:
    seen, info = play("black:wrist,onset=2+noisy:wrist,10,onset=4")
    assert info["onset_step"] == 2
    assert [not p.any() for p in pictures(seen)] == [False, False, True, True] + [False] * 5  # noise on black
    seen, _ = play("noisy:wrist,10,onset=4+black:wrist,onset=2")
    assert [not p.any() for p in pictures(seen)] == [False, False] + [True] * 7
    plain = toy_world.ToyEnv(0)
    plain.reset(START)
    for observation in seen[1:]:
        world, *_ = plain.step(0.3 * np.ones(7))
        np.testing.assert_array_equal(observation.images["agentview"], world.images["agentview"])


def test_the_same_start_is_the_same_episode_and_another_one_is_not() -> None:
    text = "noisy:both,10,onset=drawn+frozen:wrist"
    (one, info), (again, same) = play(text, 45), play(text, 45)
    assert info == same
    assert all(np.array_equal(a, b) for a, b in zip(pictures(one), pictures(again), strict=True))
    other, _ = play(text, 45, EpisodeStart("toy", 0, 32, None))
    assert not all(np.array_equal(a, b) for a, b in zip(pictures(one), pictures(other), strict=True))


def test_an_episode_begins_anew() -> None:
    env = ChangedEnv(toy_world.ToyEnv(0), parse_shifts("frozen:wrist,0"))
    for state in (30, 39):
        first, _ = env.reset(EpisodeStart("toy", 0, state, None))
        assert np.array_equal(first.images["wrist"], env.step(np.ones(7))[0].images["wrist"])
        assert first.images["wrist"].mean() == toy_world.observation(0.001 * state, 0).images["wrist"].mean()


def test_an_onset_is_counted_from_the_episode_s_own_beginning() -> None:
    env = ChangedEnv(toy_world.ToyEnv(0), parse_shifts("black:wrist,onset=2"))
    for _ in range(2):
        seen = [env.reset(START)[0], *(env.step(STILL)[0] for _ in range(3))]
        assert [not p.any() for p in pictures(seen)] == [False, False, True, True]


def test_time_goes_on_while_a_policy_is_late() -> None:
    """Waiting steps count for onsets, and their pictures are changed like any other."""
    env = ChangedEnv(toy_world.ToyEnv(0), parse_shifts("black:wrist,onset=2"))
    seen = [env.reset(START)[0], env.wait()[0], env.wait()[0], env.step(STILL)[0]]
    assert [not p.any() for p in pictures(seen)] == [False, False, True, True]


def test_everything_but_the_pictures_passes_through() -> None:
    env, plain = ChangedEnv(toy_world.ToyEnv(0), parse_shifts("black")), toy_world.ToyEnv(0)
    (changed, _), (seen, _) = env.reset(START), plain.reset(START)
    assert env.instruction == plain.instruction
    for _ in range(12):
        assert changed.proprio.eef_pos_m == pytest.approx(seen.proprio.eef_pos_m)
        assert (changed.instruction, changed.time_s) == (seen.instruction, seen.time_s)
        (changed, *ours), (seen, *theirs) = env.step(np.ones(7)), plain.step(np.ones(7))
        assert ours == theirs


@pytest.fixture(scope="module")
def libero():  # type: ignore[no-untyped-def]
    from heisd.errors import HeisdError
    from heisd.sim.libero import LiberoEnv

    try:
        env = LiberoEnv("libero_object", 0, image_size=64)
    except HeisdError as error:
        pytest.skip(str(error))
    yield env
    env.close()


IN_LIBERO = EpisodeStart("libero_object", 0, 31, None)


def positions(env, text: str, n_steps: int = 30) -> tuple[np.ndarray, list[Observation]]:  # type: ignore[no-untyped-def]
    """(n + 1, bodies, 3) of all objects, and what was seen, with a still arm."""
    changed = ChangedEnv(env, parse_shifts(text)) if text else env
    inner = env.robosuite_env
    bodies = [inner.obj_body_id[name] for name in inner.objects_dict]
    seen = [changed.reset(IN_LIBERO)[0]]
    where = [inner.sim.data.body_xpos[bodies].copy()]
    for _ in range(n_steps):
        seen.append(changed.step(STILL)[0])
        where.append(inner.sim.data.body_xpos[bodies].copy())
    if text:
        changed.undo()
    return np.asarray(where), seen


@pytest.mark.libero
def test_a_nudge_pushes_one_target_slowly_along_the_table_and_nothing_else(libero) -> None:  # type: ignore[no-untyped-def]
    plain, _ = positions(libero, "")
    nudged, seen = positions(libero, "nudged:3,onset=5")
    moved_m = np.linalg.norm((nudged - plain)[-1, :, :2], axis=1)
    target = int(moved_m.argmax())
    assert 0.02 < moved_m[target] < 0.035
    assert np.delete(moved_m, target).max() < 1e-3
    names = list(libero.robosuite_env.objects_dict)
    assert names[target] in libero.robosuite_env.obj_of_interest
    np.testing.assert_array_equal(nudged[:5], plain[:5])  # the push begins behind the fifth observation
    assert np.linalg.norm((nudged - plain)[5, target, :2]) > 1e-3
    speed_m = np.linalg.norm(np.diff(nudged[:, target, :2], axis=0), axis=1)
    assert speed_m.max() < 0.004  # 2.5 mm a step, and what friction makes of it
    assert np.abs(np.diff(nudged[:, target, 2])).max() < 0.005  # it neither jumps nor falls over
    again, seen_again = positions(libero, "nudged:3,onset=5")
    np.testing.assert_array_equal(again, nudged)
    assert all(np.array_equal(a.images["wrist"], b.images["wrist"]) for a, b in zip(seen, seen_again, strict=True))


@pytest.mark.libero
def test_other_lamps_change_pictures_from_the_onset_on_and_physics_never(libero) -> None:  # type: ignore[no-untyped-def]
    plain, seen = positions(libero, "", 6)
    dark, shown = positions(libero, "lighting:0.3,onset=3", 6)
    np.testing.assert_array_equal(dark, plain)
    for step, (a, b) in enumerate(zip(seen, shown, strict=True)):
        same = np.array_equal(a.images["agentview"], b.images["agentview"])
        assert same == (step < 3)
    assert shown[4].images["agentview"].mean() < 0.7 * seen[4].images["agentview"].mean()
    _, warm = positions(libero, "lighting:1,0.3,0", 1)
    colour = [o.images["agentview"].reshape(-1, 3).mean(axis=0) for o in (warm[0], seen[0])]
    assert colour[0][0] > colour[1][0]
    assert colour[0][2] < colour[1][2]
    _, restored = positions(libero, "lighting:1,0,0", 1)
    np.testing.assert_array_equal(restored[0].images["agentview"], seen[0].images["agentview"])
