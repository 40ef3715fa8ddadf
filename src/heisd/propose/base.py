"""What a proposer is, what it is given, and what a draft must be to be checked.

A proposer is one file with three methods and one line in ``registry.py``. Those of token policies guess tokens, those
of chunk policies whole chunks of actions. It may guess anything: whatever it returns
is checked by the target, and a proposer that raises or breaks :func:`check_draft` costs speed, never an action.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from heisd.codec import ActionCodec
from heisd.errors import BrokenContract
from heisd.kinematics import faded
from heisd.policies.protocol import Context
from heisd.types import Action, ChunkDraft, Draft, FloatArray, IntArray, Proprioception, Round, Verdict

ArrayT = TypeVar("ArrayT", bound=np.ndarray[Any, Any])
_INT = {int}
HISTORY_STEPS = 32  # control steps remembered: HeiSD's longest published window is 19, KERV's context 10


@dataclass(frozen=True, slots=True)
class History:
    """What was executed in this episode, oldest first, and how far the current action is. Arrays are read-only."""

    actions: FloatArray  # (n, T) executed actions in the environment's convention
    tokens: IntArray  # (n, T) the vocabulary ids they were decoded from
    proprioception: tuple[Proprioception, ...] = ()  # last entry: now; the ones before: when the actions were chosen
    settled: tuple[int, ...] = ()  # tokens of the current action that are decided: a draft continues them
    # (T,) how far they were from the target's own, lately: heisd.kinematics.faded [action units]; None: nobody tells
    deviation: FloatArray | None = None

    @classmethod
    def empty(cls, n_tokens: int) -> "History":
        """The beginning of an episode, for actions of ``n_tokens`` tokens."""
        nothing = _frozen(np.empty((0, n_tokens))), _frozen(np.empty((0, n_tokens), np.int64))
        return cls(*nothing, deviation=_frozen(np.zeros(n_tokens)))

    def observed(self, proprioception: Proprioception) -> "History":
        """A control step begins."""
        kept = (*self.proprioception, proprioception)[-HISTORY_STEPS - 1 :]
        return History(self.actions, self.tokens, kept, deviation=self.deviation)

    def acted(self, action: Action, deviation: FloatArray | float = 0.0) -> "History":
        """A control step ends with ``action`` (from the target or skipped to: what was executed counts).

        ``deviation`` (T,) is how far a relaxed rule let it be from the target's own [action units].
        """
        actions = np.concatenate([self.actions[1 - HISTORY_STEPS :], action.values[None]])
        tokens = np.concatenate([self.tokens[1 - HISTORY_STEPS :], action.tokens[None]])
        lately = None if self.deviation is None else _frozen(faded(self.deviation, deviation))
        return History(_frozen(actions), _frozen(tokens), self.proprioception, deviation=lately)

    def with_settled(self, tokens: tuple[int, ...]) -> "History":
        """The same past, with these tokens of the current action decided."""
        return History(self.actions, self.tokens, self.proprioception, tokens, self.deviation)


class Proposer(Protocol):
    """Guesses tokens. May remember what it likes between :meth:`reset` calls; has no randomness of its own."""

    def reset(self) -> None:
        """Forget the episode; the same calls afterwards give the same drafts."""
        ...

    def propose(self, context: Context, history: History) -> Draft | None:
        """Guess the tokens behind ``history.settled``, or None. Changes neither argument."""
        ...

    def observe(self, verdict: Verdict) -> None:
        """Learn what was kept of all proposers' drafts."""
        ...


class ChunkProposer(Protocol):
    """Guesses chunks. May remember what it likes between :meth:`reset` calls; has no randomness of its own."""

    def reset(self) -> None:
        """Forget the episode; the same calls afterwards give the same drafts."""
        ...

    def propose(self, context: Context, history: History) -> ChunkDraft | None:
        """Guess the next actions, or None. Changes neither argument."""
        ...

    def observe(self, came: Round) -> None:
        """Learn which chunk the round made, and how much of it is executed."""
        ...


class Stateless:
    """Base of proposers that derive everything from their arguments."""

    def reset(self) -> None:
        """Nothing to forget."""

    def observe(self, came: Verdict | Round) -> None:
        """Nothing to learn."""


def past_actions(history: History, n_steps: int) -> FloatArray | None:
    """(<= n_steps, T) float64 last executed actions; None if there are none or any of them is not finite."""
    actions = np.asarray(history.actions, dtype=np.float64)[-n_steps:]
    return actions if len(actions) and np.isfinite(actions).all() else None


def past_tokens(history: History, codec: ActionCodec, n_steps: int) -> IntArray | None:
    """(<= n_steps, T) last executed tokens; None if there are none, or they or their actions are not usable."""
    tokens = history.tokens[-n_steps:]
    if past_actions(history, n_steps) is None or not len(tokens):
        return None
    is_known = (tokens >= codec.first_token) & (tokens < codec.vocab_size)
    return tokens if is_known.all() else None


def check_draft(draft: object, codec: ActionCodec, n_settled: int) -> Draft:
    """The draft itself if it may be merged into a tree; otherwise BrokenContract names the clause and the culprit.

    ``n_settled`` is the number of tokens of the action that are already decided.
    """
    if not isinstance(draft, Draft):
        raise BrokenContract("a proposer", "propose returns a Draft or None", type(draft).__name__)
    who = f"proposer {draft.source!r}"
    if not isinstance(draft.source, str) or not draft.source:
        raise BrokenContract(who, "a draft names its source", repr(draft.source))
    if not isinstance(draft.chains, tuple) or not draft.chains:
        raise BrokenContract(who, "chains is a tuple of at least one chain (None means no draft)", repr(draft.chains))
    _check_chains(who, draft.chains, codec, codec.length - n_settled)
    _check_scores(who, draft.scores, len(draft.chains))
    _check_log_probs(who, draft)
    if not all(isinstance(name, str) and _is_number(value) for name, value in draft.evidence.items()):
        raise BrokenContract(who, "evidence is a mapping from names to numbers", repr(draft.evidence))
    return draft


def check_chunk_draft(draft: object, codec: ActionCodec, horizon: int) -> ChunkDraft:
    """The draft itself if it may be verified; otherwise BrokenContract names the clause and the culprit."""
    if not isinstance(draft, ChunkDraft):
        raise BrokenContract("a proposer", "propose returns a ChunkDraft or None", type(draft).__name__)
    who = f"proposer {draft.source!r}"
    if not isinstance(draft.source, str) or not draft.source:
        raise BrokenContract(who, "a draft names its source", repr(draft.source))
    chunks, shape = draft.chunks, (horizon, codec.length)
    if not isinstance(chunks, np.ndarray) or chunks.ndim != 3 or not len(chunks) or chunks.shape[1:] != shape:
        found = str(getattr(chunks, "shape", type(chunks).__name__))
        raise BrokenContract(who, f"chunks is (C, {horizon}, {codec.length}) with C of 1 or more", found)
    if chunks.dtype != np.float32 or not np.isfinite(chunks).all():
        raise BrokenContract(who, "chunks are finite float32 numbers", f"{chunks.dtype}, or NaN or infinity in it")
    _check_scores(who, draft.scores, len(chunks))
    if not all(isinstance(name, str) and _is_number(value) for name, value in draft.evidence.items()):
        raise BrokenContract(who, "evidence is a mapping from names to numbers", repr(draft.evidence))
    return draft


def _check_chains(who: str, chains: tuple[object, ...], codec: ActionCodec, n_missing: int) -> None:
    first, end = codec.first_token, codec.vocab_size
    for chain in chains:
        if not isinstance(chain, tuple) or not 1 <= len(chain) <= n_missing:
            raise BrokenContract(who, f"a chain is a tuple of 1 to {n_missing} tokens here", repr(chain))
        if set(map(type, chain)) != _INT:
            raise BrokenContract(who, "tokens are Python ints (Draft.of converts an array)", repr(chain))
        if min(chain) < first or max(chain) >= end:
            raise BrokenContract(who, f"tokens are action ids, {first} to {end - 1}", repr(chain))


def _check_scores(who: str, scores: object, n: int) -> None:
    if not isinstance(scores, tuple) or len(scores) != n or not all(map(_is_finite, scores)):
        raise BrokenContract(who, f"scores is a tuple of {n} finite numbers", repr(scores))
    if any(later > sooner for sooner, later in pairwise(scores)):
        raise BrokenContract(who, "guesses come best first: scores never increase", repr(scores))


def _check_log_probs(who: str, draft: Draft) -> None:
    rows = draft.log_probs
    if rows is None:
        return
    if not isinstance(rows, tuple) or not all(isinstance(row, tuple) for row in rows):
        raise BrokenContract(who, "log_probs is None or a tuple of tuples", repr(rows))
    if list(map(len, rows)) != list(map(len, draft.chains)):
        raise BrokenContract(who, "log_probs has one entry a token", repr(rows))
    if not all(_is_finite(value) and value <= 0 for row in rows for value in row):
        raise BrokenContract(who, "log_probs are finite and never above 0", repr(rows))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _frozen(values: ArrayT) -> ArrayT:
    values.flags.writeable = False
    return values
