"""Several proposers asked as one. A faulty one costs speed, never an action."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from heisd.codec import ActionCodec
from heisd.policies.protocol import Context
from heisd.propose.base import History, Proposer, check_draft
from heisd.types import Draft, Verdict

log = logging.getLogger(__name__)

MAX_FAULTS = 3  # in one episode; then a proposer is benched until the next one


class Panel:
    """Asks every proposer in turn, checks what it says, and benches those that keep failing."""

    def __init__(self, proposers: Mapping[str, Proposer], codec: ActionCodec, *, max_faults: int = MAX_FAULTS) -> None:
        self._proposers, self._codec, self._max_faults = dict(proposers), codec, max_faults
        self.faults: Counter[str] = Counter()  # of this episode, by name
        self.asked: Counter[str] = Counter()  # of this control step, by name

    def __len__(self) -> int:
        """How many proposers there are."""
        return len(self._proposers)

    def reset(self) -> None:
        """Begin an episode: everyone is heard again."""
        self.faults.clear()
        for name, proposer in self._heard():
            with self._tolerating(name):
                proposer.reset()

    def propose(self, context: Context, history: History, names: Sequence[str] | None = None) -> tuple[Draft, ...]:
        """Every usable draft for the tokens behind ``history.settled``, from these proposers (None: from all)."""
        drafts = []
        for name, proposer in self._heard():
            if names is not None and name not in names:
                continue
            self.asked[name] += 1
            with self._tolerating(name):
                draft = proposer.propose(context, history)
                if draft is not None:
                    drafts.append(check_draft(draft, self._codec, len(history.settled)))
        return tuple(drafts)

    def observe(self, verdict: Verdict) -> None:
        """Tell everyone what was kept."""
        for name, proposer in self._heard():
            with self._tolerating(name):
                proposer.observe(verdict)

    def _heard(self) -> list[tuple[str, Proposer]]:
        return [(n, p) for n, p in self._proposers.items() if self.faults[n] < self._max_faults]

    @contextlib.contextmanager
    def _tolerating(self, name: str) -> Iterator[None]:
        """Count what goes wrong in a proposer; whatever it is, the target can do without a guess."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (somebody else's code)
            self.faults[name] += 1
            log.warning("proposer %s failed (%d of %d): %s", name, self.faults[name], self._max_faults, error)
            if self.faults[name] == self._max_faults:
                log.warning("proposer %s is benched for the rest of the episode", name)
