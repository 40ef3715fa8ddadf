"""Speculation that does not pay switches itself off, and says so.

What a step's guesses were worth follows from counts (forwards saved, rows added, proposers asked) and a table of costs
that was measured beforehand. No clock is read: a run repeats exactly on any machine and under any load.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from heisd.errors import BadInput
from heisd.kinematics import PhaseSignal
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.route.base import Ledger, Memory, Outcome, Plan, Reason, Route, RouteKind, Router
from heisd.route.costs import Costs
from heisd.types import Draft, Observation


@dataclass(frozen=True, slots=True)
class Paying:
    """``router``, except while the guesses it has checked lose time: then plain decoding takes the checks' place.

    The last ``window`` speculated steps are summed. Below zero, speculation pauses; then the next ``window`` steps are
    a trial, and every trial that fails doubles the pause. A new episode begins with a trial. What the router executes
    unverified, its audits, and whom it asks before it decides are as ever in a pause.

    Args:
        router: what decides otherwise.
        costs: of the proposers it asks (:meth:`Costs.asking`).
        window: speculated control steps that are judged together.
        pause_steps: the first pause; ``max_pause_steps`` bounds its doubling.

    Raises BadInput for a window or a pause below one step, or a longest pause below the first.
    """

    router: Router
    costs: Costs
    window: int = 20
    pause_steps: int = 40
    max_pause_steps: int = 320

    def __post_init__(self) -> None:
        if self.window < 1 or not 1 <= self.pause_steps <= self.max_pause_steps:
            raise BadInput(
                f"window and pause_steps are 1 or more, max_pause_steps not below pause_steps; got {self.window}, "
                f"{self.pause_steps} and {self.max_pause_steps}"
            )

    def begin(self) -> Memory:
        """What the router begins with, and an empty ledger."""
        return replace(self.router.begin(), ledger=Ledger())

    def see(self, observation: Observation, memory: Memory) -> Memory:
        """What the router sees."""
        return self.router.see(observation, memory)

    def read(self, history: History) -> PhaseSignal | None:
        """The router's reading."""
        return self.router.read(history)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:
        """The router's plan; in a pause its scouts alone, who are asked for the decision and not for a check."""
        plan = self.router.plan(phase, memory)
        return Plan(plan.scouts, looks=plan.looks) if memory.ledger.n_paused else plan

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:
        """The router's decision; in a pause a speculation becomes plain decoding. Audits stay: others rely on them."""
        route = self.router.decide(context, phase, drafts, memory)
        if not memory.ledger.n_paused or route.kind is not RouteKind.SPECULATE or route.reason is Reason.AUDIT:
            return route
        return Route(RouteKind.FULL, Reason.NOT_PAYING, score=route.score, overruled=route.reason)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """The router's memory, and the ledger after this step. The router is told its own reason, not this rule's."""
        ledger, overruled = self._after(memory.ledger, outcome), outcome.route.overruled
        if overruled is not None:
            outcome = replace(outcome, route=replace(outcome.route, reason=overruled))
        return replace(self.router.remember(memory, outcome), ledger=ledger)

    def _after(self, ledger: Ledger, outcome: Outcome) -> Ledger:
        if ledger.n_paused:
            return replace(ledger, n_paused=ledger.n_paused - 1)
        if outcome.route.kind is not RouteKind.SPECULATE:
            return ledger
        gains_ms = (*ledger.gains_ms, gain_ms(self.costs, outcome))[-self.window :]
        if len(gains_ms) < self.window:
            return replace(ledger, gains_ms=gains_ms)
        if sum(gains_ms) >= 0:
            return Ledger(gains_ms)
        pause = min(max(2 * ledger.last_pause, self.pause_steps), self.max_pause_steps)
        return Ledger(n_paused=pause, last_pause=pause)


def gain_ms(costs: Costs, outcome: Outcome) -> float:
    """Milliseconds that a step's guesses saved against plain decoding by the table; negative when they cost more.

    Saved are the forwards that did not run. Paid are every guessed row, every check, each later one with the asking
    before it, what was asked for the first check alone, and the second prefill of a step that was decoded again.
    What the rule asks before it decides is not: it would be asked without speculation, too.
    """
    first = costs.asking(outcome.drafters)
    return (
        (len(outcome.tokens) - outcome.n_forwards) * costs.decode_ms
        - outcome.is_redone * (costs.prefill_ms - costs.decode_ms)
        - sum(outcome.n_rows) * costs.row_ms
        - len(outcome.n_rows) * costs.check_ms
        - outcome.n_later_checks * (costs.tree_ms + costs.redraft_ms)
        - (first.lookup_ms + first.drafter_ms)
    )
