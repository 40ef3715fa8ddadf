"""Phases, drafts and outcomes for the tests of routes: a phase is what its reader would have said, no motion behind."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import kinematics_fakes as kin
from fake_target import CODEC

from heisd.kinematics import MotionRanges, PhaseSignal, Reading
from heisd.kinematics.gripper import GripperState
from heisd.policies.protocol import Context
from heisd.route.base import Memory, Outcome, Reason, Route, RouteKind, Router
from heisd.testing import SyntheticContext
from heisd.types import Draft, FloatArray, StopReason, TokenOrigin, Verdict
from heisd.watch import ViewLimits, Watch

FIRST = CODEC.first_token
GUESS = tuple(range(FIRST + 20, FIRST + 27))
CONTEXT = cast(Context, SyntheticContext(cast(FloatArray, [])))
FREE = GripperState(False, None, 0.08, 0.0, False)


@dataclass(frozen=True)
class FakePhase:
    """The readings that routes look at."""

    fused: float = 0.9
    speed_mm: float = 10.0
    gripper: GripperState = field(default=FREE)

    def value(self, reading: Reading) -> float:
        return self.speed_mm if reading is Reading.SPEED else self.fused

    def is_tolerant(self, reading: Reading) -> bool:
        gate = ranges().speed_gate_mm if reading is Reading.SPEED else ranges().fused_threshold
        return self.value(reading) > gate


def phase(**readings: Any) -> PhaseSignal:
    return cast(PhaseSignal, FakePhase(**readings))


@lru_cache(maxsize=1)
def ranges() -> MotionRanges:
    return kin.ranges(window=5)


def draft(source: str = "retrieval", tokens: tuple[int, ...] = GUESS, **evidence: float) -> Draft:
    return Draft((tokens,), source, (0.0,), evidence=evidence)


def verdict(n_accepted: int, *, origin: TokenOrigin = TokenOrigin.ACCEPTED, deviation_bins: int = 0) -> Verdict:
    """So many guesses kept, and the target's own token behind them while the action has room."""
    own = 0 if n_accepted == 7 else 1
    origins = (origin,) * n_accepted + (TokenOrigin.DECODED,) * own
    bins = (deviation_bins,) * n_accepted + (0,) * own
    return Verdict(GUESS[: n_accepted + own], origins, bins, (), n_accepted, StopReason.MISMATCH, "retrieval")


def outcome(
    route: Route, *n_accepted: int, at: int = 0, rows: int = 6, forwards: int | None = None,
    drafters: tuple[str, ...] = (),
) -> Outcome:  # fmt: skip
    """What came of a route: each number is one verification that kept so many; the first begins at token ``at``."""
    verdicts, positions, place = [], [], at
    for n in n_accepted:
        verdicts.append(verdict(n))
        positions.append(place)
        place += n + 1
    n_forwards = 7 - sum(n_accepted) if forwards is None else forwards
    n_rows, n_later = (rows,) * len(n_accepted), sum(1 for position in positions if position > 0)
    return Outcome(
        route, tuple(verdicts), tuple(positions), GUESS, max(n_forwards, 0), n_rows, n_later, drafters=drafters
    )


def skipped(route: Route) -> Outcome:
    return Outcome(route, (), (), route.tokens)


def act(
    router: Router, memory: Memory, now: PhaseSignal | None, drafts: list[Draft], n_kept: int = 7
) -> tuple[Route, Memory]:
    """One control step without an engine: what was decided, and the memory after it."""
    route = router.decide(CONTEXT, now, drafts, memory)
    if route.kind is RouteKind.SKIP:
        return route, router.remember(memory, skipped(route))
    checks = (n_kept,) if route.kind is RouteKind.SPECULATE and drafts else ()
    return route, router.remember(memory, outcome(route, *checks))


def kinds(router: Router, steps: list[tuple[PhaseSignal | None, list[Draft], int]]) -> str:
    """S, P, F per step: skip, speculate, full."""
    memory, letters = router.begin(), ""
    for now, drafts, n_kept in steps:
        route, memory = act(router, memory, now, drafts, n_kept)
        letters += {RouteKind.SKIP: "S", RouteKind.SPECULATE: "P", RouteKind.FULL: "F"}[route.kind]
    return letters


def checked(reason: Reason = Reason.ENOUGH_SKIPS) -> Route:
    return Route(RouteKind.SPECULATE, reason)


NAN = math.nan
ANYTHING = ViewLimits(min_contrast=0.0, max_noise=1e3, min_peak=-1.0, max_change=1.0, max_frozen=10**6)
TRUSTING = Watch({"agentview": ANYTHING, "wrist": ANYTHING})  # for pictures that are noise
