"""The pool of :mod:`heisd.sim.pool` on a Ray cluster (extra ``ray``): one actor a worker, wherever there is room.

Items, groups and failures are handled as there; an actor whose process or node is lost is replaced and its item is done
again. Every node needs the same installation of heisd, and what items name by path (weights, run directory).
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

from heisd.errors import BadInput, MissingExtra
from heisd.extras import install_command
from heisd.sim.work import NO_GROUP, Entry, GroupedQueue, Reply, answer

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"  # start a cluster of this machine alone, and end it afterwards


class Performer:
    """What an actor is: answers items, one after the other, in a process of its own."""

    def perform(self, task_fn: Callable[[Any], Any], item: Any) -> Reply:
        """The reply to one item."""
        return answer(task_fn, item)


def run_ray(
    task_fn: Callable[[Item], Result],
    items: Sequence[Item],
    n_workers: int,
    *,
    address: str = LOCAL,
    group_key: Callable[[Item], Hashable] | None = None,
    max_retries: int = 2,
) -> Iterator[tuple[Item, Result]]:
    """Yield ``(item, task_fn(item))`` in order of completion, as :func:`heisd.sim.pool.run_pool` does.

    ``address`` is a cluster's (``auto``, ``host:6379``, ``ray://host:10001``) or :data:`LOCAL`. Raises MissingExtra
    without Ray, BadInput for a cluster that does not answer, WorkerFailed as the other pool. Closing the iterator ends
    the actors.
    """
    if n_workers < 1:
        raise BadInput(f"{n_workers} workers asked for; at least 1 is needed")
    ray = import_ray()
    queue = GroupedQueue(items, group_key or (lambda _: None))
    return _run(ray, task_fn, queue, min(n_workers, max(1, len(items))), address, max_retries)


def import_ray() -> Any:
    """The module; MissingExtra says how to install it."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra(f"Ray is not installed ({error.name}): {install_command('ray')}") from error
    return ray


def _run(
    ray: Any, task_fn: Callable[[Item], Any], queue: GroupedQueue[Item], n_workers: int, address: str, max_retries: int
) -> Iterator[tuple[Item, Any]]:
    with _connected(ray, address):
        actor_class = ray.remote(num_cpus=1)(Performer)
        busy: dict[Any, tuple[Any, Entry[Item]]] = {}  # reply under way -> who makes it, to what

        def give(performer: Any, entry: Entry[Item] | None) -> None:
            if entry is not None:
                busy[performer.perform.remote(task_fn, entry.item)] = (performer, entry)

        for _ in range(n_workers):
            give(actor_class.remote(), queue.take(NO_GROUP))
        while busy:
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            performer, entry = busy.pop(done)
            try:
                reply: Reply = ray.get(done)
            except ray.exceptions.RayActorError as error:
                entry.died(type(error).__name__, max_retries)
                give(actor_class.remote(), entry)
                continue
            give(performer, queue.take(entry.group))
            yield entry.item, reply.unwrap(entry.item)


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to the cluster; it ends, and with it the actors, however the block is left."""
    try:
        ray.init(None if address == LOCAL else address, include_dashboard=False if address == LOCAL else None,
                 log_to_driver=False, logging_level="warning")  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"the Ray cluster at {address!r} cannot be reached ({error}); start one, or say local") from None
    try:
        yield
    finally:
        ray.shutdown()
