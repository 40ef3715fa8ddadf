"""Retrieval: what was done in the moments that looked most like this one (HeiSD section 3.2, RT-Cache).

One look-up per control step, top-k. Every neighbour's action is a chain of tokens in the policy's own conventions, so
the target can check all of them in one forward; unlike in HeiSD's released code the gripper's sign is the policy's.
"""

import math
from itertools import pairwise

import numpy as np

from heisd.codec import GRIPPER, ActionCodec
from heisd.errors import BadArtifact, BadInput
from heisd.index.lookup import Lookup, Neighbours
from heisd.index.manifest import ActionStats
from heisd.index.record import N_ACTION
from heisd.index.store import Store
from heisd.policies.proprio import flatten
from heisd.policies.protocol import Context
from heisd.propose.base import History
from heisd.types import Draft, FloatArray, IntArray, Proprioception, Verdict

GRIPPER_LOOKAHEAD_STEPS = 8  # control steps of the nearest episode that are searched for a gripper event
TOP_K = 5  # HeiSD's main experiment
TEMPERATURE = 0.1  # of the scores: a cosine lower by this much makes a chain e times less likely


class Retrieval:
    """Proposes the actions of the ``k`` most similar remembered frames.

    A chain's score is ``(similarity - 1) / temperature``: 0 for the same picture and falling with the cosine, on the
    scale of a log-probability (a von Mises-Fisher kernel without its constant); it is not calibrated. Behind settled
    tokens the chains whose own first tokens are nearest to them, in bins, come first, and none scores higher than the
    one before it. Equal chains are merged.

    Args:
        codec: of the policy that the store was built for.
        store: an open store or index.
        k: neighbours per look-up, at least 1.
        temperature: of the scores, above 0; matters only where several proposers compete for room in a tree.

    Raises BadInput for bad options and BadArtifact for a store of another policy's action statistics.
    """

    def __init__(self, codec: ActionCodec, *, store: Lookup, k: int = TOP_K, temperature: float = TEMPERATURE) -> None:
        if k < 1 or not 0.0 < temperature < np.inf:
            raise BadInput(f"retrieval takes k of at least 1 and a temperature above 0; got {k} and {temperature}")
        if codec.length != N_ACTION:
            raise BadInput(f"a store remembers actions of {N_ACTION} tokens; this policy's have {codec.length}")
        if isinstance(store, Store) and store.manifest.action_stats != ActionStats.of(codec):
            raise BadArtifact(
                f"{store.root} holds bins of other action statistics than this codec's: they would be other motions; "
                "open it with the codec of the policy that is accelerated"
            )
        self._codec, self._store = codec, store
        self._k, self._temperature = k, temperature
        self.reset()

    def reset(self) -> None:
        """Forget the last look-up."""
        self._neighbours: Neighbours | None = None
        self._moment: Proprioception | None = None  # what the last look-up was made for

    def observe(self, verdict: Verdict) -> None:
        """Nothing to learn."""

    @property
    def last_lookup(self) -> Neighbours | None:
        """What the latest look-up found; None before the first of an episode and where nothing is known.

        Of the current control step once :meth:`propose` was called in it. A ``text_similarity`` below 1 means that
        the instruction was worded differently; whoever acts on memory alone should not then.
        """
        return self._neighbours

    def propose(self, context: Context, history: History) -> Draft | None:
        """At most ``k`` chains; None for an unseen instruction, an empty store or a state that is not finite.

        The first call of a control step looks up, later ones (behind settled tokens) reuse what it found.
        Raises BadInput for a vision key of another width than the store's.
        """
        n_settled = len(history.settled)
        if not history.proprioception or n_settled >= self._codec.length:
            return None
        if n_settled == 0 or history.proprioception[-1] is not self._moment:
            self._look_up(context, history.proprioception[-1])
        if self._neighbours is None:
            return None
        chains, scores = self._ranked(self._neighbours, history.settled)
        return Draft(chains, "retrieval", scores, evidence=self._evidence(self._neighbours))

    def following(self, i: int, horizon: int) -> IntArray:
        """(h, T) tokens of the actions that came after the one of the i-th neighbour of :attr:`last_lookup`.

        What a rule executes that skips several control steps: row 0 is for the next step. h <= ``horizon``, and 0 at
        the end of the remembered episode: nothing is made up.
        Raises BadInput without a look-up, for an ``i`` it does not have and for ``horizon`` < 1.
        """
        n = 0 if self._neighbours is None else len(self._neighbours)
        if self._neighbours is None or not 0 <= i < n or horizon < 1:
            raise BadInput(f"asked what follows neighbour {i} for {horizon} steps; the last look-up found {n}")
        return self._codec.tokens_of_bins(self._neighbours.chain(i, horizon + 1)[1:])

    def _evidence(self, found: Neighbours) -> dict[str, float]:
        """What a router may weigh: similarity of the key and of the wording, disagreement, the next gripper event."""
        following = found.chain(0, GRIPPER_LOOKAHEAD_STEPS + 1)[:, GRIPPER].tolist()
        events = (step for step, (now, then) in enumerate(pairwise(following), start=1) if abs(then - now) > 1)
        return {
            "similarity": float(found.similarity[0]),
            "text_similarity": float(found.text_similarity),
            "spread_bins": float(found.spread_bins[:GRIPPER].max()),
            "gripper_event_in": float(next(events, math.inf)),
        }

    def _look_up(self, context: Context, now: Proprioception) -> None:
        self._neighbours, self._moment = None, now
        key, proprio = np.asarray(context.vision_key), flatten(now)
        if np.isfinite(key).all() and np.isfinite(proprio).all():
            self._neighbours = self._store.lookup(context.instruction, key, proprio, self._k)

    def _ranked(
        self, found: Neighbours, settled: tuple[int, ...]
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]:
        """Different chains behind the settled tokens, best first, with their scores."""
        tokens = self._codec.tokens_of_bins(found.bins)
        similarity = found.similarity
        if settled:  # before anything is, neighbours stand in the right order
            gap_bins = _gap_bins(self._codec, tokens[:, : len(settled)], np.asarray(settled, dtype=np.int64))
            order = np.lexsort((-similarity, gap_bins))  # stable: kinematic cells have ordered equal neighbours
            tokens, similarity = tokens[order, len(settled) :], np.minimum.accumulate(similarity[order])
        scores: FloatArray = (similarity - 1.0) / self._temperature
        best: dict[tuple[int, ...], float] = {}
        for chain, score in zip(tokens.tolist(), scores.tolist(), strict=True):
            best.setdefault(tuple(chain), score)
        return tuple(best), tuple(best.values())


def _gap_bins(codec: ActionCodec, tokens: IntArray, settled: IntArray) -> IntArray:
    """(K, n) and (n,) tokens -> (K,) bins between them, summed; ids that decode alike are equal."""
    return np.asarray(np.abs(codec.bins_of_tokens(tokens) - codec.bins_of_tokens(settled)).sum(axis=1))
