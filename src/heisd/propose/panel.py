"""Several proposers asked as one. A faulty one costs speed, never an action."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from heisd.errors import BrokenContract
from heisd.policies.protocol import Context
from heisd.propose.base import History

log = logging.getLogger(__name__)

MAX_FAULTS = 3  # in one episode; then a proposer is benched until the next one


DraftT = TypeVar("DraftT")


class AnyProposer(Protocol):
    """A proposer of tokens or of chunks; which of the two, its panel's check decides."""

    def reset(self) -> None: ...

    def propose(self, context: Context, history: History) -> Any: ...

    def observe(self, came: Any, /) -> None: ...


class Panel(Generic[DraftT]):
    """Asks every proposer in turn, checks what it says, and benches those that keep failing.

    ``check`` returns a draft that may be used, and raises for anything else.
    """

    def __init__(
        self,
        proposers: Mapping[str, AnyProposer],
        check: Callable[[object, History], DraftT],
        *,
        max_faults: int = MAX_FAULTS,
    ) -> None:
        self._proposers, self._check, self._max_faults = dict(proposers), check, max_faults
        self.faults: Counter[str] = Counter()  # of this episode, by name
        self.asked: Counter[str] = Counter()  # of this control step, by name
        self._untold: dict[str, Counter[str]] = {}  # faults that no record has yet: name -> kind -> how often

    def __len__(self) -> int:
        """How many proposers there are."""
        return len(self._proposers)

    def reset(self) -> None:
        """Begin an episode: everyone is heard again."""
        self.faults.clear()
        self._untold.clear()
        for name, proposer in self._heard():
            with self._tolerating(name):
                proposer.reset()

    def propose(self, context: Context, history: History, names: Sequence[str] | None = None) -> tuple[DraftT, ...]:
        """Every usable draft of these proposers (None: of all)."""
        drafts = []
        for name, proposer in self._heard():
            if names is not None and name not in names:
                continue
            self.asked[name] += 1
            with self._tolerating(name):
                draft = proposer.propose(context, history)
                if draft is not None:
                    drafts.append(self._check(draft, history))
        return tuple(drafts)

    def observe(self, came: object) -> None:
        """Tell everyone what came of the drafts."""
        for name, proposer in self._heard():
            with self._tolerating(name):
                proposer.observe(came)

    def take_faults(self) -> dict[str, dict[str, int]]:
        """What went wrong since this was last asked: proposer -> kind (the clause it broke, or what it raised) -> n."""
        taken = {name: dict(kinds) for name, kinds in self._untold.items()}
        self._untold.clear()
        return taken

    def _heard(self) -> list[tuple[str, AnyProposer]]:
        return [(n, p) for n, p in self._proposers.items() if self.faults[n] < self._max_faults]

    @contextlib.contextmanager
    def _tolerating(self, name: str) -> Iterator[None]:
        """Count what goes wrong in a proposer; whatever it is, the target can do without a guess."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (somebody else's code)
            self.faults[name] += 1
            kind = error.clause if isinstance(error, BrokenContract) else type(error).__name__
            self._untold.setdefault(name, Counter())[kind] += 1
            log.warning("proposer %s failed (%d of %d): %s", name, self.faults[name], self._max_faults, error)
            if self.faults[name] == self._max_faults:
                log.warning("proposer %s is benched for the rest of the episode", name)
