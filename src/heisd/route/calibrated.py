"""Calibrated skip: a step goes unverified only where held-out episodes, played with skipping on, say that it may.

The score is a logistic regression on what exists before the language model runs: how well memory knows the picture,
how far the candidates are from one another and from the last action, how sure the drafter is, how the arm moves. It
estimates the probability that the skipped action is within 15 bins of the target's own, with the same gripper.

What was calibrated holds for scenes like those of the calibration. So skips are withdrawn, for a stated number of steps
behind the last alarm, when a camera goes dark, freezes or turns noisy, when a picture jumps, and when memory knows
nothing like it (:mod:`heisd.watch`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from heisd.accept import Rule
from heisd.errors import BadInput
from heisd.kinematics import MotionRanges, PhaseSignal
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.route.base import MOTION_TOKENS, Memory, Outcome, Plan, Reason, Route, RouteKind, counted
from heisd.route.motion import read_motion
from heisd.route.watching import Watching, withdrawal
from heisd.types import Draft
from heisd.watch import DEFAULT, Watch

GRIPPER_MARGIN_STEPS = 3  # before and after a gripper event
# What a score may weigh, of :func:`skip_features`.
FEATURES = (
    "similarity", "spread_bins", "agreement_bins", "change_bins", "confidence", "fused", "speed_mm", "n_skips",
    "age_steps",  # of chunk policies (heisd.route.chunk_skips)
)  # fmt: skip
AUDITED_SHARE = 0.05  # of the eligible steps are verified all the same
_AUDIT_PERIOD, _AUDIT_FACTOR = 1009, 613  # primes: a fixed permutation spreads the audits over an episode


@dataclass(frozen=True, slots=True)
class SkipScore:
    """Logistic regression over named features, each standardised first."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.mean), len(self.scale), len(self.weight)}
        if len(sizes) != 1 or not all(s > 0 for s in self.scale):
            raise BadInput(f"a skip score has one mean, weight and scale above 0 per feature; got {self}")

    def __call__(self, features: Mapping[str, float]) -> float:
        """Probability in [0, 1] that a skip is good; 0 when a feature is missing or not finite."""
        total = self.bias
        for name, mean, scale, weight in zip(self.names, self.mean, self.scale, self.weight, strict=True):
            total += weight * (features.get(name, math.nan) - mean) / scale
        if not math.isfinite(total):
            return 0.0
        return 1.0 / (1.0 + math.exp(-min(max(total, -60.0), 60.0)))


@dataclass(frozen=True, slots=True)
class CalibratedSkip(Watching):
    """Skip with the best guess of ``source`` when its score reaches ``threshold``; otherwise check everything.

    With ``source="persistence"`` this is the control ``hold_calibrated``.
    """

    score: SkipScore
    threshold: float
    ranges: MotionRanges
    rule: Rule  # of the steps that are checked
    source: str
    scouts: tuple[str, ...]  # asked before the decision, ``source`` among them
    drafters: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    n_skips: int = 2  # in a row, at most
    gripper_margin_steps: int = GRIPPER_MARGIN_STEPS
    min_similarity: float = -math.inf  # of the nearest remembered key; below it the scene is not what memory knows
    audited_share: float = AUDITED_SHARE
    watch: Watch = DEFAULT  # what withdraws skips, and for how long
    looks: bool = True  # False: a skip is decided on the last pictures encoded, and today's proprioception

    def __post_init__(self) -> None:
        if self.source not in self.scouts:
            raise BadInput(f"the source {self.source!r} of a skip must be one of the scouts {self.scouts}")

    def begin(self) -> Memory:
        """Nothing skipped yet, nothing executed yet."""
        return Memory()

    def read(self, history: History) -> PhaseSignal | None:
        """Speed, F and gripper events."""
        return read_motion(history, self.ranges)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:
        """Cheap guesses first; they are also what is checked. Witnesses are heard only where a skip is possible.

        Where it is ruled out, the source is asked for the check alone.
        """
        if self._ruled_out(phase, memory) is None:
            asked = self.scouts if self.looks else ()  # behind a look everybody is asked anew
            drafters = tuple(name for name in (self.source, *self.drafters) if name not in asked)
            return Plan(self.scouts, drafters, self.later, self.looks)
        return Plan((), (self.source, *self.drafters), self.later)

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:  # noqa: ARG002
        """Skip if nothing speaks against it."""
        assert phase is not None, "read() makes a signal at every step"
        ruled_out = self._ruled_out(phase, memory)
        if ruled_out is not None:
            return self._check(ruled_out)
        source = next((draft for draft in drafts if draft.source == self.source), None)
        if source is None or len(source.chains[0]) != len(memory.last_tokens):
            return self._check(Reason.NO_GUESS)
        features = skip_features(source, drafts, phase, memory)
        score = self.score(features)
        refusal = self._refusal(source, drafts, phase, memory, features, score)
        if refusal is Reason.AUDIT:  # checked is what a skip would have executed, nothing beside it
            return replace(self._check(refusal, score), only=source.best())
        if refusal is not None:
            return self._check(refusal, score)
        return Route(RouteKind.SKIP, Reason.TOLERANT, tokens=source.chains[0], score=score)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Count skips and keep the last action; what memory did not know withdraws skips as an alarm does."""
        return replace(counted(self.noted(memory, outcome), outcome), last_tokens=outcome.tokens)

    def _check(self, reason: Reason, score: float = math.nan) -> Route:
        return Route(RouteKind.SPECULATE, reason, rule=self.rule, score=score)

    def _ruled_out(self, phase: PhaseSignal | None, memory: Memory) -> Reason | None:
        """What forbids a skip before anybody is asked."""
        if memory.sight.alarm is not None:
            return withdrawal(memory)
        if not memory.last_tokens:
            return Reason.NO_GUESS
        if phase is not None and phase.gripper.changed_within(self.gripper_margin_steps):
            return Reason.GRIPPER
        if memory.is_rejected:
            return Reason.REJECTED
        return Reason.ENOUGH_SKIPS if memory.n_skips >= self.n_skips else None

    def _refusal(
        self, source: Draft, drafts: Sequence[Draft], phase: PhaseSignal, memory: Memory,
        features: Mapping[str, float], score: float,
    ) -> Reason | None:  # fmt: skip
        """The first thing that speaks against a skip; the audit comes last, so that it samples eligible steps."""
        if self.watch.is_novel(features.get("similarity", math.nan)):
            return Reason.NOVEL
        if is_gripper_near(source, drafts, phase, memory, self.gripper_margin_steps):
            return Reason.GRIPPER
        # Memory that is silent, or says NaN, does not know the scene.
        if self.min_similarity > -math.inf and not features.get("similarity", math.nan) >= self.min_similarity:
            return Reason.SCENE
        if not features.get("text_similarity", 1.0) >= 1.0:  # memory answered for another sentence
            return Reason.WORDING
        if score < self.threshold or score == 0.0:  # 0 is a feature that is missing, whatever the threshold
            return Reason.UNSURE
        return Reason.AUDIT if is_audited(memory.step, self.audited_share) else None


def skip_features(source: Draft, drafts: Sequence[Draft], phase: PhaseSignal, memory: Memory) -> dict[str, float]:
    """What the score may weigh. Distances are the largest over the six motion tokens, in bins.

    ``similarity`` and ``spread_bins`` are memory's evidence; ``agreement_bins`` is the distance between the source's
    guess and the furthest other proposer's best; ``change_bins`` the distance from the last action; ``confidence``
    the source's mean log-probability; the rest is kinematics and how long nobody has looked.
    """
    guess = source.chains[0]
    others = [draft.chains[0] for draft in drafts if draft is not source and len(draft.chains[0]) == len(guess)]
    evidence = {name: value for draft in drafts for name, value in draft.evidence.items()}
    log_probs = source.log_probs[0] if source.log_probs is not None else ()
    return {
        **evidence,
        "agreement_bins": float(max((motion_distance_bins(guess, other) for other in others), default=0)),
        "change_bins": float(motion_distance_bins(guess, memory.last_tokens)),
        "confidence": sum(log_probs[:MOTION_TOKENS]) / MOTION_TOKENS if log_probs else 0.0,
        "fused": 0.0 if math.isnan(phase.fused) else phase.fused,
        "speed_mm": 0.0 if math.isnan(phase.speed_mm) else phase.speed_mm,
        "n_skips": float(memory.n_skips),
    }


def motion_distance_bins(a: Sequence[int], b: Sequence[int]) -> int:
    """Largest distance of two actions' position and rotation tokens; neighbouring ids are neighbouring bins."""
    return max(abs(x - y) for x, y in zip(a[:MOTION_TOKENS], b[:MOTION_TOKENS], strict=True))


def is_gripper_near(
    source: Draft, drafts: Sequence[Draft], phase: PhaseSignal, memory: Memory, margin_steps: int
) -> bool:
    """Whether the gripper has just moved, is about to, or anybody's best guess disagrees about it."""
    now = memory.last_tokens[-1]
    guesses = [draft.chains[0][-1] for draft in drafts if len(draft.chains[0]) == len(source.chains[0])]
    if any(abs(token - now) > 1 for token in guesses):  # the two ids of a saturated gripper decode alike
        return True
    if any(not draft.evidence.get("gripper_event_in", math.inf) > margin_steps for draft in drafts):  # NaN is near
        return True
    return phase.gripper.changed_within(margin_steps)


def is_audited(number: int, share: float) -> bool:
    """Whether an eligible step is verified all the same: a fixed, spread-out ``share`` of all (step) numbers."""
    return (number * _AUDIT_FACTOR + _AUDIT_FACTOR // 2) % _AUDIT_PERIOD < share * _AUDIT_PERIOD
