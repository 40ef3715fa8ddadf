"""What the engine asks of a family of policies: tokens and chunks differ in these calls and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.propose.panel import Panel
from heisd.route.base import Outcome, Plan, Route
from heisd.types import Action, Observation, StepRecord

ContextT_contra = TypeVar("ContextT_contra", bound=Context, contravariant=True)


class Encoder(Protocol):
    """The part of a target policy that the engine calls itself."""

    def encode(self, observation: Observation) -> Any:
        """Images, proprioception and prompt -> a context."""
        ...


class Answer(Protocol):
    """The action of one control step, and how it came about."""

    def action(self) -> Action:
        """What is executed."""
        ...

    def outcome(self) -> Outcome | None:
        """What came of the route, for the router's memory; None where nothing was decided."""
        ...

    def record(
        self, step: int, latency_ms: float, stage_ms: Mapping[str, float], asked: Mapping[str, int]
    ) -> StepRecord:
        """Telemetry of the finished step; ``asked`` tells how often each proposer was."""
        ...


class Inference(Protocol[ContextT_contra]):
    """One family's way from guesses to an action."""

    panel: Panel[Any]

    def reset(self) -> None:
        """Begin an episode; the panel is reset by the engine."""
        ...

    @property
    def has_in_hand(self) -> bool:
        """Whether an earlier step has settled the next one's action."""
        ...

    def in_hand(self) -> Answer | None:
        """The action of this step if an earlier one has settled it."""
        ...

    def answer(
        self, context: ContextT_contra, plan: Plan, route: Route, drafts: Sequence[Any], history: History
    ) -> Answer:
        """Skip, verify or infer in full, as the route says. ``drafts`` are what the plan's scouts guessed."""
        ...
