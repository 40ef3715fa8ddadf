"""What a control step may do, and the interface of the rules that decide it. Every rule is pure.

    memory = router.see(observation, memory)                 what the cameras say, if the rule looks at all
    plan  = router.plan(phase, memory)                       who is asked before and after the decision
    route = router.decide(context, phase, drafts, memory)    skip, speculate or full, and why
    memory = router.remember(memory, outcome)                what the next decisions need of this one

A rule sees counts, kinematics and drafts, never a clock: a lossy run repeats exactly on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from heisd.accept import Rule
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.types import ChunkDraft, Draft, Observation, RoundRecord, TokenOrigin, Verdict
from heisd.watch import NOTHING_SEEN, Alarm, Sight

if TYPE_CHECKING:
    from heisd.kinematics import PhaseSignal


class RouteKind(StrEnum):
    """How the action of a control step comes about."""

    SKIP = "skip"  # executed unverified; the language model does not run
    SPECULATE = "speculate"  # guesses are checked by the language model
    FULL = "full"  # plain decoding, or denoising from noise
    CHUNK = "chunk"  # the next action of the chunk in hand; nothing is asked and nothing is decided


class Reason(StrEnum):
    """Why a step took its route."""

    ALWAYS = "always"  # the rule knows nothing else
    NO_GUESS = "no guess"  # nobody asked had anything to say
    TOLERANT = "tolerant motion"  # large and smooth: an error is forgiven
    FINE = "fine motion"  # slow or curved: every token counts
    UNKNOWN_MOTION = "unknown motion"  # too few steps to tell
    ENOUGH_SKIPS = "enough skips in a row"
    GRIPPER = "gripper event near"
    UNSURE = "score below threshold"
    SCENE = "scene changed"
    WORDING = "memory knows the task by other words"
    REJECTED = "rejected before"  # the last verification did not like the drafts
    DARK = Alarm.DARK.value  # the right to skip is withdrawn for a while: see heisd.watch
    FROZEN = Alarm.FROZEN.value
    NOISY = Alarm.NOISY.value
    JUMP = Alarm.JUMP.value
    NOVEL = Alarm.NOVEL.value
    AUDIT = "audit"  # could have been skipped and is verified all the same
    COMPENSATION = "compensation"  # KERV: the filter completes what one verification leaves open
    COOLDOWN = "cooldown"  # KERV: plain speculation after a compensation
    TOO_CLOSE = "too close to call"  # among many rows rounding might decide a token: decoded again, plainly
    IN_HAND = "action in hand"  # the only reason of the route CHUNK
    NO_PREFIX = "no prefix yet"  # no full round in this episode, so nothing to check a chunk against
    DUE = "full round due"  # so many rounds without one, or the last one asked for it
    STALE = "prefix too old"
    NOT_PAYING = "does not pay"  # guesses have cost more than they saved; tried again after a while


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is asked, by registry name."""

    scouts: tuple[str, ...] | None  # before the decision, which may execute or weigh what they say; None: everybody
    drafters: tuple[str, ...] = ()  # also, when guesses will be checked in the first forward
    later: tuple[str, ...] | None = ()  # for the tokens that a forward has left open; None: everybody
    looks: bool = True  # False: the scouts make do with the last pictures encoded, and only what is not skipped looks


@dataclass(frozen=True, slots=True)
class Route:
    """The decision of one control step."""

    kind: RouteKind
    reason: Reason
    tokens: tuple[int, ...] = ()  # (T,) what a skip executes
    chunk: ChunkDraft | None = None  # whose best guess a skip of a chunk policy executes
    only: Draft | None = None  # of a speculation: what is checked, nothing beside it; None: everybody's guesses
    rule: Rule | None = None  # of a speculation; None: the engine's own
    completed_by: str = ""  # proposer that fills, unchecked, what the first verification leaves open (KERV)
    completes_from: int = 0  # … if it settled at least so many tokens
    score: float = float("nan")  # what a threshold was compared with, for telemetry
    overruled: Reason | None = None  # of a rule whose guesses were switched off: the reason that it had itself


@dataclass(frozen=True, slots=True)
class Ledger:
    """What speculation was worth lately; kept by :class:`heisd.route.paying.Paying`."""

    gains_ms: tuple[float, ...] = ()  # of the last speculated steps, by a table of costs
    n_paused: int = 0  # steps that speculation stays off
    last_pause: int = 0  # steps of the latest pause; 0: speculation has paid since


@dataclass(frozen=True, slots=True)
class RoundMemory:
    """What a chunk policy's rounds have left behind."""

    has_prefix: bool = False  # keys and values of this episode are cached
    n_since_full: int = 0  # rounds without a full one
    age_steps: int = 0  # control steps since the observation behind the cached prefix
    n_unseen: int = 0  # rounds in a row, up to now, whose pictures nobody encoded
    unseen_steps: int = 0  # control steps since the last pictures encoded
    is_due: bool = False  # the last round asked for a full one
    n_actions: int = 1  # control steps that the last round's actions took
    rest_moves_gripper: bool = False  # what is left of the last chunk does


@dataclass(frozen=True, slots=True)
class Memory:
    """What a rule remembers of the episode so far; replaced, never changed."""

    step: int = 0
    n_skips: int = 0  # in a row, up to now
    cooldown: int = 0  # steps during which something is off
    threshold: float = float("nan")  # of a rule that adapts it
    is_rejected: bool = False  # the last verification refused the drafts' position or rotation
    last_tokens: tuple[int, ...] = ()  # (T,) of the action executed last
    ledger: Ledger = Ledger()
    sight: Sight = NOTHING_SEEN  # of a rule that looks at the pictures
    rounds: RoundMemory = RoundMemory()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a decision. At steps that take an action of a chunk in hand nothing was decided."""

    route: Route
    verdicts: tuple[Verdict, ...]  # of the step's verifications, in order
    positions: tuple[int, ...]  # of each verification's first token
    tokens: tuple[int, ...]  # (T,) of the executed action
    n_forwards: int = 0  # of the language model
    n_rows: tuple[int, ...] = ()  # guessed tokens that each verification added to its forward
    n_later_checks: int = 0  # forwards behind a first one that checked guesses
    is_redone: bool = False  # the guesses came to nothing: decoded again, plainly, with a prefill of its own
    drafters: tuple[str, ...] = ()  # asked for the first check alone, behind the decision
    round: RoundRecord | None = None  # of a chunk policy
    looked: bool = True  # its pictures were encoded
    rest_moves_gripper: bool = False  # what a round leaves of its chunk does

    @property
    def deviation_bins(self) -> list[int]:
        """(T,) bins between each kept-though-different token of the executed action and the target's; 0 elsewhere."""
        bins: list[int] = [0] * len(self.tokens)
        for position, verdict in zip(self.positions, self.verdicts, strict=True):
            for i, (origin, deviation) in enumerate(zip(verdict.origins, verdict.deviation_bins, strict=True)):
                if origin is TokenOrigin.RELAXED:
                    bins[position + i] = deviation
        return bins


class Router(Protocol):
    """Decides control steps. Holds configuration only; its state is the :class:`Memory` it is handed."""

    def begin(self) -> Memory:
        """The memory of an episode that has not begun."""
        ...

    def see(self, observation: Observation, memory: Memory) -> Memory:
        """The memory of this step, once its pictures were looked at."""
        ...

    def read(self, history: History) -> PhaseSignal | None:
        """The kinematic readings of this step, if the rule needs any."""
        ...

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:
        """Who is asked at this step."""
        ...

    def decide(self, context: Any, phase: PhaseSignal | None, drafts: Sequence[Any], memory: Memory) -> Route:
        """The route, from what the scouts drafted: of token policies ``Draft``, of chunk policies ``ChunkDraft``."""
        ...

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """The memory for the next step."""
        ...


class Sightless:
    """Base of rules that never look at a picture."""

    __slots__ = ()

    def see(self, observation: Observation, memory: Memory) -> Memory:  # noqa: ARG002 (the protocol's)
        """Nothing is seen."""
        return memory


@dataclass(frozen=True, slots=True)
class Always(Sightless):
    """Ask everybody, check everything. The router of ``exact``; without proposers that is plain decoding."""

    def begin(self) -> Memory:
        """Nothing to know."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:  # noqa: ARG002 (the protocol's)
        """No reading is needed."""
        return None

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002
        """Everybody."""
        return EVERYBODY

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Check what there is."""
        return CHECK

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:  # noqa: ARG002
        """Nothing to remember."""
        return memory


EVERYBODY = Plan(scouts=None, later=None)
CHECK = Route(RouteKind.SPECULATE, Reason.ALWAYS)


def counted(memory: Memory, outcome: Outcome, *, cooldown: int = 0) -> Memory:
    """The counters every rule shares: steps, skips in a row, whether the last verification refused something.

    A step that verified nothing leaves that refusal in force.
    """
    is_skip = outcome.route.kind is RouteKind.SKIP
    return replace(
        memory,
        step=memory.step + 1,
        n_skips=memory.n_skips + 1 if is_skip else 0,
        cooldown=cooldown or max(memory.cooldown - 1, 0),
        is_rejected=refused(outcome) if outcome.verdicts else memory.is_rejected,
    )


def refused(outcome: Outcome) -> bool:
    """Whether the first verification of a step kept less than the motion tokens of every guess."""
    return bool(outcome.verdicts) and outcome.verdicts[0].n_accepted < MOTION_TOKENS


WITHDRAWALS = frozenset(Reason(alarm.value) for alarm in Alarm)  # reasons for which no step may be skipped for a while
UNEASY = WITHDRAWALS | {Reason.GRIPPER, Reason.SCENE}  # … and for which no chunk is executed further than usual
MOTION_TOKENS = 6  # position and rotation; the gripper comes behind them
