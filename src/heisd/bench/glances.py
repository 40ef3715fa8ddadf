"""What a preset that skips without looking would have guessed at every step of plain decoding.

Plain decoding looks at every step. So an earlier look is taken, by turns from one to so many control steps old as may
be skipped in a row, with all else as it is now: what the engine makes of an observation that it does not encode. Of a
chunk policy a step is a round, and this round's own look is among them: there some skips look.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from heisd.bench.ladder import LADDER
from heisd.policies.protocol import Refreshing
from heisd.propose.base import History
from heisd.types import ChunkDraft, Draft, Observation

MAX_AGE_STEPS = max(rung.n_skips for rung in LADDER)  # so many skips in a row may rest on one look
_GOLDEN = 0.6180339887498949  # multiples of it are spread evenly, however many are taken


DraftT = TypeVar("DraftT", Draft, ChunkDraft)
MadeT_co = TypeVar("MadeT_co", covariant=True)


class Guesser(Protocol[MadeT_co]):
    """A proposer of either family, as far as it is asked here."""

    def reset(self) -> None:
        """Begin an episode."""
        ...

    def propose(self, context: Any, history: History) -> MadeT_co | None:
        """Its draft, if it has one."""
        ...


@dataclass(frozen=True, slots=True)
class Glance(Generic[DraftT]):
    """A guess without a look."""

    draft: DraftT
    n_skips: int  # that would have come before it since the last look


class Glances(Generic[DraftT]):
    """One engine's past looks, and a proposer of its own that guesses from them."""

    def __init__(self, target: Refreshing, proposer: Guesser[DraftT], max_age: int = MAX_AGE_STEPS) -> None:
        """``max_age`` of a look, in steps."""
        self._target, self._max_age = target, max_age
        self._proposer: Guesser[DraftT] = proposer
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._contexts: deque[Any] = deque(maxlen=self._max_age)  # oldest first
        self._n_asked = 0
        self._proposer.reset()

    def guess(self, observation: Observation, history: History) -> Glance[DraftT] | None:
        """The guess from the look whose turn it is; None at an episode's first step, and where nobody has a guess."""
        self._n_asked += 1
        if not self._contexts:
            return None
        age_steps = 1 + int(self._n_asked * _GOLDEN % 1.0 * len(self._contexts))
        draft = self._proposer.propose(self._target.refreshed(self._contexts[-age_steps], observation), history)
        return None if draft is None else Glance(draft, age_steps - 1)

    def looked(self, context: Any) -> None:
        """The context of this step's observation, for later steps."""
        self._contexts.append(context)
