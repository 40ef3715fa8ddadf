"""Run simulator work in spawned processes that survive crashes of the simulator.

Every worker is a fresh interpreter (OpenGL and CUDA do not survive a fork), gets one item at a time, and stays with
one group of items as long as there are any, so that it can keep that group's environment. A worker that dies is
replaced and its item is done again; one that merely raises ends the run with its message. None outlives the parent:
SIGTERM ends a run as Ctrl-C does, and after a SIGKILL the workers notice by themselves, in the middle of an item too.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from heisd import interrupts
from heisd.errors import BadInput
from heisd.sim.work import NO_GROUP, Entry, GroupedQueue, Reply, answer

Item = TypeVar("Item")
Result = TypeVar("Result")

_JOIN_TIMEOUT_S = 2.0
_PARENT_CHECK_S = 1.0  # a dead parent is usually noticed at once; this often even when its pipes are held open


def run_pool(
    task_fn: Callable[[Item], Result],
    items: Sequence[Item],
    n_workers: int,
    *,
    group_key: Callable[[Item], Hashable] | None = None,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    max_retries: int = 2,
) -> Iterator[tuple[Item, Result]]:
    """Yield ``(item, task_fn(item))`` in order of completion; workers start with the first ``next()``.

    ``task_fn`` and ``initializer`` must be importable functions, items and results picklable. ``initializer`` runs
    once per worker process (set thread counts there). Items with equal ``group_key`` go to the same worker while
    others have work of their own. Raises WorkerFailed, naming the item, when ``task_fn`` raises or when its process
    died more than ``max_retries`` times; a HeisdError keeps its message. Closing the iterator ends all workers.
    While it is open, SIGTERM raises KeyboardInterrupt in the main thread, unless the program handles it itself.
    """
    if n_workers < 1:
        raise BadInput(f"{n_workers} workers asked for; at least 1 is needed")
    job = _Job(task_fn, initializer, initargs)
    queue = GroupedQueue(items, group_key or (lambda _: None))
    return _run(job, queue, min(n_workers, max(1, len(items))), max_retries)


def _run(job: "_Job", queue: "GroupedQueue[Item]", n_workers: int, max_retries: int) -> Iterator[tuple[Item, Any]]:
    with interrupts.handled(signal.SIGTERM, _interrupt, default=signal.SIG_DFL), _stopped_at_the_end() as workers:
        for _ in range(n_workers):
            workers.append(_Worker(job))
            workers[-1].take_from(queue)
        while busy := [worker for worker in workers if worker.entry is not None]:
            for worker in _ready(busy):
                entry = worker.entry
                assert entry is not None
                try:
                    reply = worker.receive()
                except EOFError:
                    entry.died(f"exit code {worker.exit_code()}", max_retries)
                    workers[workers.index(worker)] = worker = worker.replaced(job)
                    worker.give(entry)
                    continue
                worker.take_from(queue)
                yield entry.item, reply.unwrap(entry.item)


@contextlib.contextmanager
def _stopped_at_the_end() -> "Iterator[list[_Worker[Any]]]":
    """A list whose workers are all stopped, however its block is left."""
    workers: list[_Worker[Any]] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second SIGTERM ends the process even if tidying up hangs
    raise KeyboardInterrupt


def _ready(workers: "list[_Worker[Item]]") -> "list[_Worker[Item]]":
    """Workers that have answered or died; waits for at least one."""
    answered = set(wait([worker.connection for worker in workers]))
    return [worker for worker in workers if worker.connection in answered]


@dataclass(frozen=True, slots=True)
class _Job:
    task_fn: Callable[[Any], Any]
    initializer: Callable[..., None] | None
    initargs: tuple[Any, ...]


_worker_numbers = itertools.count()


class _Worker(Generic[Item]):
    """The parent's end of one worker process."""

    def __init__(self, job: _Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        name = f"heisd-worker-{next(_worker_numbers)}"
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, job), name=name, daemon=True)
        self._process.start()
        theirs.close()  # so that the child's death reads as end of file
        self.entry: Entry[Item] | None = None
        self._group: Hashable = NO_GROUP

    def take_from(self, queue: GroupedQueue[Item]) -> None:
        entry = queue.take(self._group)
        if entry is None:
            self.entry = None
        else:
            self.give(entry)

    def give(self, entry: Entry[Item]) -> None:
        self.entry, self._group = entry, entry.group
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: noticed when we wait for it
            self.connection.send(entry.item)

    def receive(self) -> Reply:
        """The reply to the current item; EOFError when the process died."""
        try:
            reply = self.connection.recv()
        except ConnectionResetError as error:
            raise EOFError from error
        assert isinstance(reply, Reply)
        return reply

    def exit_code(self) -> int | None:
        self._process.join(_JOIN_TIMEOUT_S)
        return self._process.exitcode

    def replaced(self, job: _Job) -> "_Worker[Item]":
        self.stop()
        return _Worker(job)

    def stop(self) -> None:
        """End the process, politely first; never leaves it behind."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_JOIN_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(connection: Connection, job: _Job) -> None:
    """The worker's life: answer items until the parent closes the pipe or is gone. Does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    set_up = job.initializer
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            item = connection.recv()
            reply = Reply() if set_up is None else answer(set_up, *job.initargs)
            if not reply.error:
                set_up = None
                reply = answer(job.task_fn, item)
            connection.send(reply)
    _leave()


def _end_with_parent() -> None:
    """End this worker, whatever it is doing, once its parent process is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive() and os.getppid() == parent.pid:
        parent.join(timeout=_PARENT_CHECK_S)
    _leave()


def _leave() -> None:
    """End the process as :meth:`_Worker.stop` would: a driver can hang in the interpreter's own, tidy end."""
    os._exit(0)
