"""The worker pool: grouping, crashes, errors and clean endings."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from heisd.errors import BadInput, HeisdError, WorkerFailed
from heisd.sim.pool import _GroupedQueue, run_pool

_setting = "unset"


def _square(x: int) -> int:
    return x * x


def _process_of(_: str) -> tuple[int, str]:
    time.sleep(0.05)
    return os.getpid(), _setting


def _set(value: str) -> None:
    global _setting
    _setting = value


def _die_once(marker: str) -> str:
    """Kills its own process the first time it sees a marker file name."""
    if marker.startswith("/") and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def _die_always(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(kind: str) -> None:
    raise {"ours": HeisdError, "foreign": ZeroDivisionError}[kind](f"{kind} trouble")


def _sleep_long(_: int) -> None:
    time.sleep(60)


def _n_children() -> int:
    return len(multiprocessing.active_children())


def test_every_item_is_answered_once() -> None:
    results = dict(run_pool(_square, range(20), 2))
    assert results == {x: x * x for x in range(20)}
    assert _n_children() == 0


def test_groups_start_on_different_workers_and_the_initializer_runs_in_each() -> None:
    answers = list(run_pool(_process_of, ["a", "b"], 2, group_key=str, initializer=_set, initargs=("x",)))
    assert len({pid for _, (pid, _) in answers}) == 2
    assert {setting for _, (_, setting) in answers} == {"x"}


def test_a_worker_that_is_killed_is_replaced_and_its_item_done_again(tmp_path: Path) -> None:
    items = ["plain", str(tmp_path / "died"), "plain too"]
    assert dict(run_pool(_die_once, items, 1)) == dict.fromkeys(items, "done")
    assert (tmp_path / "died").exists()


def test_an_item_that_keeps_killing_its_worker_is_named() -> None:
    with pytest.raises(WorkerFailed, match=r"died 2 times .* on 41"):
        list(run_pool(_die_always, [41], 1, max_retries=1))
    assert _n_children() == 0


@pytest.mark.parametrize(("kind", "error"), [("ours", HeisdError), ("foreign", WorkerFailed)])
def test_an_exception_reaches_the_caller_with_its_message(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{kind} trouble") as caught:
        list(run_pool(_raise, [kind], 1))
    assert "Traceback" in "".join(caught.value.__notes__)
    assert _n_children() == 0


def test_nothing_starts_before_the_first_result_is_asked_for_and_closing_ends_everything() -> None:
    results = run_pool(_square, range(100), 2)
    assert _n_children() == 0
    next(results)
    assert _n_children() == 2
    results.close()  # type: ignore[attr-defined]
    assert _n_children() == 0


def test_an_interrupt_leaves_no_process_behind() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run_pool(_sleep_long, range(4), 2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert _n_children() == 0


def test_a_worker_stays_with_its_group_and_shares_one_only_when_none_is_left_without() -> None:
    queue = _GroupedQueue("aaab", lambda item: item)
    takers = ["-", "-", "a", "b", "a"]
    entries = [queue.take(current) for current in takers]
    assert [entry.item if entry else None for entry in entries] == ["a", "b", "a", "a", None]


def test_zero_workers_are_refused_at_once() -> None:
    with pytest.raises(BadInput, match="at least 1"):
        run_pool(_square, [1], 0)
