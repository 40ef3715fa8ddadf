"""What a preset that skips without looking would have guessed at every step of plain decoding.

Plain decoding looks at every step. So an earlier look is taken in turn, from one to ``MAX_AGE_STEPS`` control steps
old, with all else as it is now: what the engine makes of an observation that it does not encode.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from heisd.bench.ladder import LADDER
from heisd.policies.protocol import Refreshing
from heisd.propose.base import History, Proposer
from heisd.types import Draft, Observation

MAX_AGE_STEPS = max(rung.n_skips for rung in LADDER)  # so many skips in a row may rest on one look


@dataclass(frozen=True, slots=True)
class Glance:
    """A guess without a look."""

    draft: Draft
    n_skips: int  # that would have come before it since the last look


class Glances:
    """One engine's past looks, and a proposer of its own that guesses from them."""

    def __init__(self, target: Refreshing, proposer: Proposer) -> None:
        self._target, self._proposer = target, proposer
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._contexts: deque[Any] = deque(maxlen=MAX_AGE_STEPS)  # oldest first
        self._n_asked = 0
        self._proposer.reset()

    def guess(self, observation: Observation, history: History) -> Glance | None:
        """The guess from the look whose turn it is; None where the episode is too young or nobody has a guess."""
        age_steps = 1 + self._n_asked % MAX_AGE_STEPS
        self._n_asked += 1
        if age_steps > len(self._contexts):
            return None
        draft = self._proposer.propose(self._target.refreshed(self._contexts[-age_steps], observation), history)
        return None if draft is None else Glance(draft, age_steps - 1)

    def looked(self, context: Any) -> None:
        """The context of this step's observation, for later steps."""
        self._contexts.append(context)
