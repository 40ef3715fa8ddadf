"""The worker pool: grouping, crashes, errors and clean endings."""

import atexit
import contextlib
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heisd.errors import BadInput, HeisdError, WorkerFailed
from heisd.sim.pool import run_pool
from heisd.sim.work import GroupedQueue

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


_locked_files: list[object] = []  # open, hence locked, for as long as this process lives


def _lock_and_work(path: Path) -> None:
    """Locks ``path`` until its process is gone. Named busy it works on, else its process would end badly."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    _locked_files.append(file)
    file.write("locked")
    file.flush()
    if path.name == "busy":
        time.sleep(120)
    atexit.register(time.sleep, 120)


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not so after {timeout_s:g} s"
        time.sleep(0.05)


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


PARENT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from heisd.sim.pool import run_pool
from test_sim_pool import _lock_and_work
for _ in run_pool(_lock_and_work, [Path({folder!r}) / name for name in ("idle", "busy")], 2):
    if {forks} and os.fork() == 0:  # a process that knows nothing of the pool inherits its pipes
        time.sleep(120)
        os._exit(0)
"""


@pytest.mark.parametrize(
    ("deadly", "forks", "code"),
    [(signal.SIGTERM, False, -signal.SIGINT), (signal.SIGKILL, False, -signal.SIGKILL),
     (signal.SIGKILL, True, -signal.SIGKILL)],
    ids=["SIGTERM", "SIGKILL", "SIGKILL-pipes-held"],
)  # fmt: skip
def test_workers_busy_and_idle_end_with_their_parent(tmp_path: Path, deadly: int, forks: bool, code: int) -> None:
    files = [tmp_path / name for name in ("idle", "busy")]
    script = PARENT.format(here=str(Path(__file__).parent), folder=str(tmp_path), forks=forks)
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(lambda: all(file.exists() and file.read_text() for file in files), 60)
        time.sleep(0.5)  # the idle one hands its answer in, the fork happens
        parent.send_signal(deadly)
        assert parent.wait(timeout=30) == code
        _wait(lambda: not any(_is_locked(file) for file in files), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_programs_own_sigterm_handler_stays() -> None:
    def own(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        results = run_pool(_square, range(2), 1)
        next(results)
        assert signal.getsignal(signal.SIGTERM) is own
        list(results)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_default_sigterm_comes_back() -> None:
    assert list(run_pool(_square, [3], 1)) == [(3, 9)]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_pool_works_outside_the_main_thread() -> None:
    results: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: results.extend(run_pool(_square, [3], 1)))
    thread.start()
    thread.join()
    assert results == [(3, 9)]


def test_a_worker_stays_with_its_group_and_shares_one_only_when_none_is_left_without() -> None:
    queue = GroupedQueue("aaab", lambda item: item)
    takers = ["-", "-", "a", "b", "a"]
    entries = [queue.take(current) for current in takers]
    assert [entry.item if entry else None for entry in entries] == ["a", "b", "a", "a", None]


def test_zero_workers_are_refused_at_once() -> None:
    with pytest.raises(BadInput, match="at least 1"):
        run_pool(_square, [1], 0)
