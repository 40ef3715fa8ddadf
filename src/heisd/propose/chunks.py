"""Drafts of chunks that need no training: what is left of the last chunk, the last action, remembered chunks.

All of them guess normalised actions; a chunk that ends early repeats its last action, as training's labels do.
"""

from typing import cast

import numpy as np

from heisd.codec import ActionCodec
from heisd.index.lookup import Lookup
from heisd.policies.protocol import Context
from heisd.propose.base import ArrayT, History, Stateless, past_actions
from heisd.propose.retrieval import Retrieval
from heisd.types import ChunkDraft, FloatArray, Round

TOP_K = 2  # remembered chunks: every candidate is a row of the verification


class ShiftedTail:
    """Proposes the actions of the last round's chunk that were not executed (RTC, arXiv 2506.07339, starts from them).

    Silent before the first round, and when the chunk was executed whole.
    """

    def __init__(self, codec: ActionCodec, horizon: int, *, score: float = 0.0) -> None:  # noqa: ARG002 (the registry's)
        self._horizon, self._score = horizon, score
        self.reset()

    def reset(self) -> None:
        """Forget the chunk."""
        self._rest: FloatArray | None = None

    def observe(self, came: Round) -> None:
        """Keep what the round leaves."""
        self._rest = came.chunk[came.record.n_actions :]

    def propose(self, context: Context, history: History) -> ChunkDraft | None:  # noqa: ARG002 (the protocol's)
        """The rest of the chunk."""
        if self._rest is None or not len(self._rest):
            return None
        return ChunkDraft(padded(self._rest, self._horizon)[None], "tail", (self._score,))


class ChunkPersistence(Stateless):
    """Proposes the last executed action, all along the chunk. The control that every other draft has to beat."""

    def __init__(self, codec: ActionCodec, horizon: int, *, score: float = 0.0) -> None:
        self._codec, self._horizon, self._score = codec, horizon, score

    def propose(self, context: Context, history: History) -> ChunkDraft | None:  # noqa: ARG002 (the protocol's)
        """The last action, repeated; None before the first one, and after one that is not finite."""
        past = past_actions(history, n_steps=1)
        if past is None:
            return None
        chunk = padded(self._codec.normalise_chunk(past).astype(np.float32), self._horizon)
        return ChunkDraft(chunk[None], "persistence", (self._score,))


class ChunkRetrieval:
    """Proposes what was done from the ``k`` most similar remembered frames on (HeiSD's authors' fork of FLASH).

    Look-up, scores and evidence are those of :class:`heisd.propose.retrieval.Retrieval`, whose docstring also says what
    is raised. A remembered episode that ends within the chunk goes on with its last action.
    """

    def __init__(self, codec: ActionCodec, horizon: int, *, store: Lookup, k: int = TOP_K) -> None:
        self._codec, self._horizon, self._k = codec, horizon, k
        self._memory = Retrieval(codec, store=store, k=k)

    def reset(self) -> None:
        """Forget the last look-up."""
        self._memory.reset()

    def observe(self, came: Round) -> None:
        """Nothing to learn."""

    def propose(self, context: Context, history: History) -> ChunkDraft | None:
        """At most ``k`` chunks, most similar first; None where memory is silent."""
        found = self._memory.propose(context, history)
        neighbours = self._memory.last_lookup
        if found is None or neighbours is None:
            return None
        rows = [neighbours.chain(i, self._horizon) for i in range(min(self._k, len(neighbours)))]
        bins = np.stack([padded(row, self._horizon) for row in rows])
        actions = self._codec.decode(self._codec.tokens_of_bins(bins))
        scores = tuple((np.asarray(neighbours.similarity[: len(rows)]) - 1.0).tolist())
        return ChunkDraft(
            self._codec.normalise_chunk(actions).astype(np.float32), "retrieval", scores, evidence=found.evidence
        )


def padded(rows: ArrayT, horizon: int) -> ArrayT:
    """(n, …) rows, n of 1 or more, as exactly ``horizon`` of them: cut, or the last one repeated."""
    return cast(ArrayT, rows[np.minimum(np.arange(horizon), len(rows) - 1)])
