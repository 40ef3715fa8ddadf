"""What pools of workers share: items in groups, and replies that carry a result or what was raised."""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from heisd.errors import HeisdError, WorkerFailed

log = logging.getLogger(__name__)

Item = TypeVar("Item")
NO_GROUP = object()  # of a worker that has done nothing yet


@dataclass(slots=True)
class Entry(Generic[Item]):
    """One item under way."""

    item: Item
    group: Hashable
    n_deaths: int = 0

    def died(self, why: str, max_retries: int) -> None:
        """Its worker has died; raises WorkerFailed when that has happened more than ``max_retries`` times."""
        self.n_deaths += 1
        if self.n_deaths > max_retries:
            raise WorkerFailed(f"the worker process died {self.n_deaths} times ({why}) on {self.item!r}")
        log.warning("a worker died (%s) on %r; doing it again", why, self.item)


class GroupedQueue(Generic[Item]):
    """Items by group; a worker that asks again gets its own group first, then the group with most left."""

    def __init__(self, items: Sequence[Item], key: Callable[[Item], Hashable]) -> None:
        self._groups: dict[Hashable, deque[Entry[Item]]] = {}
        for item in items:
            self._groups.setdefault(key(item), deque()).append(Entry(item, key(item)))
        self._n_holders: dict[Hashable, int] = dict.fromkeys(self._groups, 0)

    def take(self, current: Hashable) -> Entry[Item] | None:
        """The next item for a worker whose last one was of ``current`` (at first :data:`NO_GROUP`); None: no more."""
        if self._groups.get(current):
            return self._groups[current].popleft()
        if current in self._n_holders:
            self._n_holders[current] -= 1
        waiting = [group for group, entries in self._groups.items() if entries]
        if not waiting:
            return None
        # Fewest workers first: a second worker joins a group only when no group is without one.
        chosen = min(waiting, key=lambda group: (self._n_holders[group], -len(self._groups[group])))
        self._n_holders[chosen] += 1
        return self._groups[chosen].popleft()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker sends back: a result, or the description of what was raised."""

    value: Any = None
    error: str = ""
    is_ours: bool = False  # the error was a HeisdError, whose message is meant for the user
    trace: str = field(default="", repr=False)

    def unwrap(self, item: object) -> Any:
        """The result; what was raised is raised: WorkerFailed, or a HeisdError with its own message."""
        if not self.error:
            return self.value
        failure = HeisdError(self.error) if self.is_ours else WorkerFailed(f"{item!r} failed: {self.error}")
        failure.add_note(self.trace)
        raise failure


def answer(function: Callable[..., Any], *arguments: Any) -> Reply:
    """Call, and pack what comes of it."""
    try:
        return Reply(value=function(*arguments))
    except HeisdError as error:
        return Reply(error=str(error) or type(error).__name__, is_ours=True, trace=traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - a process edge: reported to the parent, which raises
        return Reply(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
