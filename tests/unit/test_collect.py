"""Collecting: what is kept, what is tried again, what a second run does."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from demo_fakes import SPEC, SUITE, make_episode

from heisd.errors import BadInput, DatasetError, UnknownName
from heisd.sim import collect as collecting
from heisd.sim.collect import CollectSummary, collect
from heisd.sim.dataset import read_entries
from heisd.sim.demonstrate import (
    FAILED,
    NOISE_HOLD_STEPS,
    RETRIED,
    Attempt,
    AttemptResult,
    _drive,
    _Driver,
    _play,
    draw_start,
    is_stalled,
)
from heisd.sim.demos import check
from heisd.sim.splits import Split
from heisd.sim.task_queue import UNUSUAL_LENGTH, TaskQueue
from heisd.types import Proprioception


@pytest.fixture(autouse=True)
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of two tasks, so that no simulator is needed."""
    tasks = tuple(SimpleNamespace(instruction=sentence) for sentence in SPEC.instructions)
    monkeypatch.setattr(collecting, "suite_info", lambda _: SimpleNamespace(n_tasks=2, tasks=tasks))


def outcome(attempt: Attempt) -> AttemptResult:
    """Every fourth attempt fails, number 6 needs a retry, numbers 9 and 10 are far too long."""
    if attempt.number % 4 == 3:
        return AttemptResult(None, FAILED, 280)
    if attempt.number == 6:
        return AttemptResult(None, RETRIED, 90)
    length = 30 if attempt.number in (9, 10) else 8 + attempt.number % 3
    return AttemptResult(make_episode(attempt.task_index, attempt.number, length), "", length)


def serial(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, AttemptResult]]:
    """An obedient pool."""
    for attempt in attempts:
        yield attempt, outcome(attempt)


def shuffled(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, AttemptResult]]:
    """A pool whose workers finish in any order."""
    order = np.random.default_rng(1).permutation(len(attempts))
    return serial([attempts[i] for i in order])


def run(out: Path, n: int = 20, execute: collecting.Execute = serial) -> CollectSummary:
    return collect(SUITE, n, out, execute=execute, image_size=16)


def kept(out: Path) -> list[tuple[int, int]]:
    return sorted((e.provenance.start.task_index, e.provenance.attempt) for e in read_entries(out))


def test_every_task_gets_its_share_and_bad_attempts_are_replaced(tmp_path: Path) -> None:
    summary = run(tmp_path, 20)
    numbers = [0, 1, 2, 4, 5, 8, 12, 13, 14, 16]
    assert kept(tmp_path) == [(task, number) for task in (0, 1) for number in numbers]
    assert summary.dropped == {FAILED: 8, RETRIED: 2, UNUSUAL_LENGTH: 4}
    assert (summary.n_tries, summary.n_kept, summary.total_episodes) == (34, 20, 20)
    assert summary.total_frames == sum(entry.length for entry in read_entries(tmp_path))
    assert check(tmp_path).is_ok
    assert "kept 20 of 34 attempts" in str(summary)


def test_what_is_kept_does_not_depend_on_which_worker_is_faster(tmp_path: Path) -> None:
    run(tmp_path / "a", 14, serial)
    run(tmp_path / "b", 14, shuffled)
    assert kept(tmp_path / "a") == kept(tmp_path / "b")


def test_second_run_adds_only_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path, 20)
    again = run(tmp_path, 20)
    assert (again.n_tries, again.n_kept, again.total_episodes) == (0, 0, 20)
    more = run(tmp_path, 24)
    assert (more.n_kept, more.total_episodes) == (4, 24)


@pytest.mark.parametrize("stops_after", [1, 5, 11])
def test_interrupted_run_goes_on(tmp_path: Path, stops_after: int) -> None:
    def interrupted(attempts: Sequence[Attempt]) -> Iterable[tuple[Attempt, AttemptResult]]:
        for i, item in enumerate(serial(attempts)):
            if i == stops_after:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 20, interrupted)
    n_saved = len(read_entries(tmp_path)) if (tmp_path / "meta/info.json").exists() else 0
    summary = run(tmp_path, 20)
    assert (summary.n_kept, summary.total_episodes) == (20 - n_saved, 20)
    assert len(set(kept(tmp_path))) == 20
    assert check(tmp_path).is_ok


def test_a_task_that_always_fails_ends_in_an_error(tmp_path: Path) -> None:
    def hopeless(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, AttemptResult]]:
        return ((attempt, AttemptResult(None, FAILED, 280)) for attempt in attempts)

    with pytest.raises(DatasetError, match="does not master this task"):
        run(tmp_path, 2, hopeless)


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(BadInput, match=r"tasks \[7\]"):
        collect(SUITE, 4, out, tasks=[0, 7], execute=serial)
    with pytest.raises(BadInput, match="at least 1"):
        collect(SUITE, 0, out, execute=serial)
    with pytest.raises(BadInput, match="need pictures"):
        collect(SUITE, 4, out, rendering="none", execute=serial)
    with pytest.raises(UnknownName, match="protocol"):
        collect(SUITE, 4, out, protocol="mine", execute=serial)
    assert not out.exists()


def test_only_wanted_tasks_are_attempted(tmp_path: Path) -> None:
    collect(SUITE, 3, tmp_path, tasks=[1], execute=serial, image_size=16)
    assert {task for task, _ in kept(tmp_path)} == {1}


def test_first_clean_attempts_wait_for_a_median() -> None:
    queue = TaskQueue(0, 10)
    lengths = [40, 8, 9, 8]
    for number, length in zip(queue.plan(), lengths, strict=False):
        assert list(queue.judge()) == []
        queue.add(number, AttemptResult(make_episode(0, number, length), "", length))
    reasons = [reason for _, reason in queue.judge()]
    assert reasons == [UNUSUAL_LENGTH, "", "", ""]


def test_starts_are_train_starts_in_the_wanted_mixture() -> None:
    starts = [draw_start(a, a.rngs(1)[0]) for a in (Attempt(SUITE, 3, n, 0) for n in range(400))]
    assert {start.split for start in starts} == {Split.TRAIN}
    fresh = [start.seed for start in starts if start.seed is not None]
    assert 0.6 < len(fresh) / 400 < 0.8
    assert len(set(fresh)) == len(fresh)
    shipped = {start.init_state for start in starts if start.init_state is not None}
    assert shipped <= set(range(30))
    assert len(shipped) > 25


def test_attempts_differ_by_seed_suite_task_and_number() -> None:
    base = Attempt("libero_object", 0, 0, 0)
    others = [Attempt("libero_spatial", 0, 0, 0), Attempt("libero_object", 1, 0, 0), Attempt("libero_object", 0, 1, 0),
              Attempt("libero_object", 0, 0, 1)]  # fmt: skip
    draws = [tuple(attempt.rngs(2)[1].random(3)) for attempt in (base, *others)]
    assert len(set(draws)) == 5
    assert tuple(base.rngs(2)[1].random(3)) == draws[0]


class Table:
    """Keeps what it is commanded; solved or over behind so many commands."""

    def __init__(self, seen: object = None, *, solved_at: int = 0, late_at: int = 0) -> None:
        self.commanded: list[np.ndarray] = []
        self.seen, self.solved_at, self.late_at = seen, solved_at, late_at

    def step(self, values: np.ndarray) -> tuple[object, float, bool, bool, dict[str, object]]:
        self.commanded.append(values)
        n = len(self.commanded)
        return self.seen, 0.0, n == self.solved_at, n == self.late_at, {}


class Policy:
    """Always commands the same; its bins are 0.01 in every number, and 0.02 in the third."""

    target = SimpleNamespace(codec=SimpleNamespace(q01=(0.0,) * 7, q99=(2.55, 2.55, 5.1, 2.55, 2.55, 2.55, 2.55)))
    action = SimpleNamespace(values=np.full(7, 0.5))

    def reset(self) -> None: ...

    def act(self, _: object) -> SimpleNamespace:
        return self.action


def test_a_driver_strays_in_one_direction_for_some_steps_and_leaves_its_gripper_and_its_own_actions_alone() -> None:
    table, strays = Table(), np.random.default_rng(5).normal(0.0, 3.0, (3, 6))
    _drive(table, _Driver(Policy(), 3.0, np.random.default_rng(5)), None, 2 * NOISE_HOLD_STEPS + 3)
    away = np.array(table.commanded) - 0.5
    for step, row in enumerate(away):
        expected = strays[step // NOISE_HOLD_STEPS] * [0.01, 0.01, 0.02, 0.01, 0.01, 0.01]
        np.testing.assert_allclose(row, [*expected, 0.0], atol=1e-12)
    np.testing.assert_array_equal(Policy.action.values, np.full(7, 0.5))


def test_an_unaided_driver_is_recorded_to_the_end_with_what_it_wanted_and_what_was_done() -> None:
    for end in ({"solved_at": 11}, {"late_at": 30}):
        seen = SimpleNamespace(images={}, proprio=Proprioception(*(np.zeros(n) for n in (3, 4, 2, 2, 7, 7))))
        table, driver = Table(seen, **end), _Driver(Policy(), 3.0, np.random.default_rng(5))
        recording = _play(table, driver, seen, ())
        assert len(recording) == len(table.commanded) == next(iter(end.values()))
        np.testing.assert_allclose(recording.actions, 0.5)
        np.testing.assert_allclose(recording.executed, np.clip(table.commanded, -1, 1), atol=1e-6)
        assert recording.noise == pytest.approx(np.abs(np.array(table.commanded) - 0.5)[:, :6].mean(), rel=1e-5)


def test_unaided_episodes_need_a_driver_and_are_a_data_set_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="name it with --driver"):
        collect(SUITE, 2, tmp_path / "none", execute=serial, image_size=16, is_unaided=True)
    monkeypatch.setattr(collecting, "resolve_weights", lambda *_: tmp_path / "policy")
    monkeypatch.setattr(collecting, "describe_weights", lambda _: {"sha256": "0" * 64})
    collect(SUITE, 2, tmp_path / "data", execute=serial, image_size=16, driver="policy", is_unaided=True)
    with pytest.raises(DatasetError, match="unaided"):
        collect(SUITE, 4, tmp_path / "data", execute=serial, image_size=16, driver="policy")


def test_who_strays_and_by_how_much_is_part_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Attempt] = []

    def watched(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, AttemptResult]]:
        seen.extend(attempts)
        return serial(attempts)

    monkeypatch.setattr(collecting, "resolve_weights", lambda *_: tmp_path / "policy")
    monkeypatch.setattr(collecting, "describe_weights", lambda _: {"sha256": "0" * 64})
    out = tmp_path / "data"
    collect(SUITE, 2, out, execute=watched, image_size=16, driver="policy", driver_noise_bins=10.0)
    assert {attempt.driver_noise_bins for attempt in seen} == {10.0}
    with pytest.raises(DatasetError, match="driver_noise_bins"):
        collect(SUITE, 4, out, execute=serial, image_size=16, driver="policy")
    for wrong in ({"driver_noise_bins": 3.0}, {"driver": "policy", "driver_noise_bins": -1.0}):
        with pytest.raises(BadInput, match="a driver strays by --driver-noise, 0 or more bins"):
            collect(SUITE, 2, tmp_path / "other", execute=serial, image_size=16, **wrong)


def test_stall_is_a_long_rest_of_hand_and_fingers() -> None:
    moving = np.zeros((100, 25))
    moving[:, 0] = 0.002 * np.arange(100)
    assert not is_stalled(moving)
    resting = moving.copy()
    resting[20:50, 0] = resting[20, 0]
    assert is_stalled(resting)
    closing = resting.copy()
    closing[20:50, 7] = 0.001 * np.arange(30)
    assert not is_stalled(closing)
