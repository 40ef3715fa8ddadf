"""Routes without a decision: the same proposers at every step, or memory at every step (RT-Cache)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heisd.kinematics import PhaseSignal
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.route.base import CHECK, Memory, Outcome, Plan, Reason, Route, RouteKind, Sightless, counted
from heisd.types import Draft


@dataclass(frozen=True, slots=True)
class Full(Sightless):
    """Nobody guesses: plain decoding, or a round from noise. The baseline of either family."""

    def begin(self) -> Memory:
        """Nothing to know."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002 (the protocol's)
        """No reading is needed."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """Nobody is asked."""
        return Plan(())

    def decide(self, context: Any, phase: PhaseSignal | None, drafts: Sequence[Any], memory: Memory) -> Route:  # noqa: ARG002
        """In full."""
        return Route(RouteKind.FULL, Reason.ALWAYS)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:  # noqa: ARG002
        """Nothing to remember."""
        return memory


@dataclass(frozen=True, slots=True)
class Fixed(Sightless):
    """Speculate at every step, with these proposers before and behind the first forward. No state, no readings."""

    drafters: tuple[str, ...] = ()  # checked inside the prefill
    later: tuple[str, ...] = ()  # asked for what a forward leaves open; those that need hidden states come here

    def begin(self) -> Memory:
        """Nothing to know."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002 (the protocol's)
        """No reading is needed."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """The same at every step."""
        return Plan((), self.drafters, self.later)

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Check what there is."""
        return CHECK

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:  # noqa: ARG002
        """Nothing to remember."""
        return memory


@dataclass(frozen=True, slots=True)
class Replay(Sightless):
    """Execute what memory says and ask the target only where memory is silent (RT-Cache's pure replay, N = 1)."""

    source: str = "retrieval"

    def begin(self) -> Memory:
        """Nothing skipped yet."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002
        """No reading is needed."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """Ask memory first."""
        return Plan((self.source,))

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Skip with the best candidate."""
        if not drafts:
            return Route(RouteKind.FULL, Reason.NO_GUESS)
        return Route(RouteKind.SKIP, Reason.ALWAYS, tokens=drafts[0].chains[0])

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count the skips."""
        return counted(memory, outcome)
