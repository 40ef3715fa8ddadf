"""When a round of a chunk policy executes a guess unverified, once no fallback asks for a full round.

:class:`TwoToOne` is the composite pattern of HeiSD's authors. :class:`CalibratedChunkSkip` is this project's rule for
tokens on chunks: the same score, margins and audits (:mod:`heisd.route.calibrated`), whose steps are rounds; what is
not skipped is a full round. A guess rests on pictures that were encoded, with the state of now: on those of the last
look for some rounds, then on new ones. What goes stale is the picture; the cached prefix is read by nobody.
Shapes: H horizon, T numbers of an action.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from heisd.accept_chunk import path_bins
from heisd.codec import GRIPPER
from heisd.kinematics import MotionRanges, PhaseSignal
from heisd.route.base import Memory, Reason, Route, RouteKind
from heisd.route.calibrated import AUDITED_SHARE, GRIPPER_MARGIN_STEPS, SkipScore, is_audited
from heisd.types import ChunkDraft

TAIL = "tail"  # the scout that guesses the rest of the last chunk


class SkipRule(Protocol):
    """What decides a round that might be skipped."""

    @property
    def scouts(self) -> tuple[str, ...]:
        """Who is asked before the decision."""
        ...

    def looks(self, phase: PhaseSignal | None, memory: Memory) -> bool:
        """Whether the pictures of now are encoded before the decision."""
        ...

    def ruled_out(self, phase: PhaseSignal | None, memory: Memory) -> Reason | None:
        """What forbids a skip before anybody is asked."""
        ...

    def judge(self, phase: PhaseSignal, drafts: Sequence[ChunkDraft], memory: Memory) -> Route:
        """Skip, verify, or a full round."""
        ...


@dataclass(frozen=True, slots=True)
class TwoToOne:
    """On tolerant motion the best guess of ``source``, so many rounds in a row at most.

    Only guesses that leave the gripper as it is (the released fork looks at no gripper there).
    """

    source: str
    n_skips: int
    ranges: MotionRanges

    @property
    def scouts(self) -> tuple[str, ...]:
        """The source alone."""
        return (self.source,)

    def looks(self, phase: PhaseSignal | None, memory: Memory) -> bool:  # noqa: ARG002 (the protocol's)
        """As published."""
        return True

    def ruled_out(self, phase: PhaseSignal | None, memory: Memory) -> Reason | None:  # noqa: ARG002 (the protocol's)
        """Nothing: as published, memory is asked in every round."""
        return None

    def judge(self, phase: PhaseSignal, drafts: Sequence[ChunkDraft], memory: Memory) -> Route:
        """Skip where the motion tolerates it."""
        fused = phase.fused
        if not fused > self.ranges.fused_threshold:  # NaN is not tolerant
            return Route(RouteKind.SPECULATE, Reason.UNKNOWN_MOTION if math.isnan(fused) else Reason.FINE, score=fused)
        if memory.n_skips >= self.n_skips:
            return Route(RouteKind.SPECULATE, Reason.ENOUGH_SKIPS, score=fused)
        guess = guess_of(self.source, drafts)
        if guess is None:
            return Route(RouteKind.SPECULATE, Reason.NO_GUESS, score=fused)
        if not leaves_gripper(guess, phase):  # it is about to move, or nobody knows
            return Route(RouteKind.SPECULATE, Reason.GRIPPER, score=fused)
        return Route(RouteKind.SKIP, Reason.TOLERANT, chunk=guess, score=fused)


@dataclass(frozen=True, slots=True)
class CalibratedChunkSkip:
    """The best guess of ``source`` when its score reaches ``threshold``; one eligible round in twenty is audited.

    ``n_actions`` of a chunk are executed, and looked at. Up to ``n_unseen`` skips in a row rest on one look, the next
    one encodes the pictures of now. Nothing is verified: a check takes most of a full round's time (docs/flow.md, "What
    the rounds were"), and is no certificate. An audit is a full round, too: the policy's own chunk is what a skip would
    have been measured by. Which rounds are audited follows from the guess's digits: an episode has too few of them for
    a choice by their number.
    """

    score: SkipScore
    threshold: float
    source: str
    scouts: tuple[str, ...]
    n_actions: int
    n_skips: int  # rounds in a row, at most
    n_unseen: int = 0  # … that rest on one look; 0: every one looks
    gripper_margin_steps: int = GRIPPER_MARGIN_STEPS
    audited_share: float = AUDITED_SHARE
    passes_gripper: bool = False  # behind a look a guess may move the gripper; False: such a round is full

    def looks(self, phase: PhaseSignal | None, memory: Memory) -> bool:
        """Once so many rounds in a row have not, and where the gripper moves if a skip may pass that."""
        if memory.rounds.n_unseen >= self.n_unseen:
            return True
        return self.passes_gripper and self._is_gripper_near(phase, memory)

    def ruled_out(self, phase: PhaseSignal | None, memory: Memory) -> Reason | None:
        """A gripper that has just moved, or soon does by the rest of the last chunk; enough skips in a row."""
        if not self.passes_gripper and self._is_gripper_near(phase, memory):
            return Reason.GRIPPER
        return Reason.ENOUGH_SKIPS if memory.n_skips >= self.n_skips else None

    def judge(self, phase: PhaseSignal, drafts: Sequence[ChunkDraft], memory: Memory) -> Route:
        """Skip if nothing speaks against it; the audit comes last, so that it samples eligible rounds."""
        guess = guess_of(self.source, drafts)
        ruled_out = self.ruled_out(phase, memory)
        if ruled_out is not None or guess is None:
            return Route(RouteKind.FULL, ruled_out or Reason.NO_GUESS)
        looks = self.looks(phase, memory)
        age_steps = 0 if looks else memory.rounds.unseen_steps
        features = chunk_features(guess, drafts, phase, age_steps, self.n_actions, memory.rounds.n_actions)
        score = self.score(features)
        heard = (draft for draft in drafts if draft.source in self.scouts)
        if not (self.passes_gripper and looks) and not all(leaves_gripper(draft, phase) for draft in heard):
            return Route(RouteKind.FULL, Reason.GRIPPER, score=score)
        if score < self.threshold or score == 0.0:  # 0 is a feature that is missing, whatever the threshold
            return Route(RouteKind.FULL, Reason.UNSURE, score=score)
        if is_audited(zlib.crc32(guess.chunks.tobytes()), self.audited_share):
            return Route(RouteKind.FULL, Reason.AUDIT, chunk=guess, score=score)
        return Route(RouteKind.SKIP, Reason.TOLERANT, chunk=guess, score=score)

    def _is_gripper_near(self, phase: PhaseSignal | None, memory: Memory) -> bool:
        """Just behind a gripper command, or before one in the rest of the last chunk.

        That rest is the tail's guess, known before anybody is asked.
        """
        if phase is not None and phase.gripper.changed_within(self.gripper_margin_steps):
            return True
        return TAIL in self.scouts and memory.rounds.rest_moves_gripper


def guess_of(source: str, drafts: Sequence[ChunkDraft]) -> ChunkDraft | None:
    """What a proposer has drafted, if it has."""
    return next((draft for draft in drafts if draft.source == source), None)


def leaves_gripper(draft: ChunkDraft, phase: PhaseSignal) -> bool:
    """Whether a proposer's best guess keeps the gripper as it was commanded last; not if nobody knows how that was.

    The whole horizon counts, not what would be executed alone: where a grasp or a release comes next, the last few
    millimetres matter.
    """
    closes = draft.chunks[0, :, GRIPPER] >= 0.0
    return bool(closes.tolist() == [phase.gripper.is_commanded_closed] * len(closes))


def chunk_features(
    guess: ChunkDraft, drafts: Sequence[ChunkDraft], phase: PhaseSignal, age_steps: int, n_actions: int, n_executed: int
) -> Mapping[str, float]:
    """What the score may weigh, as far as the first ``n_actions`` go, and the rest of the last chunk.

    Of that ``n_executed`` actions were executed. Where its rest ends, the tail's guess repeats the last action, which
    is no opinion about what comes next.
    ``agreement_bins`` is how far the guess leads from any other proposer's best, per action
    (:func:`heisd.accept_chunk.path_bins`); ``age_steps`` is that of the pictures that it rests on; the rest is
    kinematics and what proposers know (``similarity``).
    """
    n = min(n_actions, max(guess.chunks.shape[1] - n_executed, 1))
    mine = guess.chunks[0, :n]
    others = [draft.chunks[0, :n] for draft in drafts if draft is not guess]
    apart = [float(path_bins(mine, other)[-1]) for other in others]
    return {
        **{name: value for draft in drafts for name, value in draft.evidence.items()},
        "agreement_bins": max(apart, default=0.0),
        "fused": 0.0 if math.isnan(phase.fused) else phase.fused,
        "speed_mm": 0.0 if math.isnan(phase.speed_mm) else phase.speed_mm,
        "age_steps": float(age_steps),
    }
