"""The contract checker finds deliberately broken policies and names what they broke."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import fake_target as fake
import numpy as np
import pytest
from fake_target import FakeCache, FakeContext, FakePolicy

from heisd.codec import ActionCodec
from heisd.errors import BadInput, BrokenContract
from heisd.testing import check_target
from heisd.types import FloatArray, Observation, Scores, TokenTree

# ---- members and codec


class NoExtend(FakePolicy):
    extend = None  # type: ignore[assignment]


class NoCodec(FakePolicy):
    codec = None  # type: ignore[assignment]


class SmallVocabulary(FakePolicy):
    codec = replace(fake.CODEC, vocab_size=255)


class EndlessCodec(FakePolicy):
    codec = replace(fake.CODEC, q99=(np.inf, *fake.CODEC.q99[1:]))


# ---- encode


class RaisesInEncode(FakePolicy):
    def encode(self, observation: Observation) -> FakeContext:
        return FakeContext(observation.instruction, self.key(observation), int(observation.images["head"][0]))


class WritesImages(FakePolicy):
    def encode(self, observation: Observation) -> FakeContext:
        observation.images["wrist"][0, 0, 0] += 1
        return super().encode(observation)


class WritesState(FakePolicy):
    def encode(self, observation: Observation) -> FakeContext:
        observation.proprio.eef_pos_m[0] += 0.001
        return super().encode(observation)


class OwnInstruction(FakePolicy):
    def encode(self, observation: Observation) -> FakeContext:
        return replace(super().encode(observation), instruction="something else")


class DoubleKey(FakePolicy):
    def key(self, observation: Observation) -> FloatArray:
        return super().key(observation).astype(np.float64)


class MatrixKey(FakePolicy):
    def key(self, observation: Observation) -> FloatArray:
        return super().key(observation)[None]


class NoKey(FakePolicy):
    def key(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        return None  # type: ignore[return-value]


class NaNKey(FakePolicy):
    def key(self, observation: Observation) -> FloatArray:
        return super().key(observation) * np.float32(np.nan)


class GrowingKey(FakePolicy):
    def encode(self, observation: Observation) -> FakeContext:
        size = 3 if "drawer" in observation.instruction else 2
        return replace(super().encode(observation), vision_key=np.zeros(size, np.float32))


class NoisyKey(FakePolicy):
    rng = np.random.default_rng(0)

    def key(self, observation: Observation) -> FloatArray:
        return super().key(observation) + self.rng.normal(size=2).astype(np.float32)


class NoisyPrefix(FakePolicy):
    n_calls = 0

    def seed(self, observation: Observation) -> int:
        self.n_calls += 1
        return super().seed(observation) + self.n_calls


# ---- what a forward returns


class OnlyACache(FakePolicy):
    def prefill(self, context: FakeContext, tree: TokenTree | None = None) -> tuple[FakeCache, Scores]:
        return super().prefill(context, tree)[0]  # type: ignore[return-value]


class NoKeep(FakePolicy):
    def prefill(self, context: FakeContext, tree: TokenTree | None = None) -> tuple[FakeCache, Scores]:
        return [], super().prefill(context, tree)[1]  # type: ignore[return-value]


class Scored(FakePolicy):
    """Base of policies whose scores are spoiled."""

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        return self.spoil(super().score(cache, tree, is_prefill=is_prefill))

    def spoil(self, scores: Scores) -> Any:
        raise NotImplementedError


class NotScores(Scored):
    def spoil(self, scores: Scores) -> Any:
        return scores.next_token


class PaddingIds(Scored):
    def spoil(self, scores: Scores) -> Any:
        return replace(scores, node_next=scores.node_next + 256)


class TokenIsAnArray(Scored):
    def spoil(self, scores: Scores) -> Any:
        return replace(scores, next_token=np.asarray([scores.next_token]))


class FloatNodes(Scored):
    def spoil(self, scores: Scores) -> Any:
        return replace(scores, node_next=scores.node_next.astype(np.float32))


class PrefixToo(Scored):
    """The usual slip: the row before the tree is among the nodes."""

    def spoil(self, scores: Scores) -> Any:
        return replace(scores, node_next=np.append(scores.next_token, scores.node_next))


class NaNMargin(Scored):
    def spoil(self, scores: Scores) -> Any:
        return replace(scores, margin=float("nan"))


class OtherNextToken(Scored):
    def spoil(self, scores: Scores) -> Any:
        return replace(scores, next_token=self.codec.first_token)


class ExtendAdvances(FakePolicy):
    """next_token already is the token behind the tree."""

    def extend(self, cache: FakeCache, tree: TokenTree) -> Scores:
        scores = super().extend(cache, tree)
        cache.next_token = int(scores.node_next[-1])
        return replace(scores, next_token=cache.next_token)


class WritesTree(FakePolicy):
    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        if tree is not None:
            tree.tokens[:] -= self.codec.first_token
            tree = TokenTree(tree.tokens + self.codec.first_token, tree.parents)
        return super().score(cache, tree, is_prefill=is_prefill)


class RaisesOnBranches(FakePolicy):
    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        if tree is not None and (tree.parents == -1).sum() > 1:
            raise NotImplementedError("one chain at a time")
        return super().score(cache, tree, is_prefill=is_prefill)


# ---- masks and positions


class RowPositions(FakePolicy):
    """A node's position is its row."""

    def depth(self, tree: TokenTree, node: int) -> int:  # noqa: ARG002
        return node


class CausalMask(FakePolicy):
    """A node sees every row before it."""

    def visible(self, tree: TokenTree, node: int) -> list[int]:  # noqa: ARG002
        return list(range(node))


class ParentOnly(FakePolicy):
    """A node sees its parent, but nothing beyond."""

    def visible(self, tree: TokenTree, node: int) -> list[int]:
        return [int(tree.parents[node])] if tree.parents[node] >= 0 else []


class PrefillPositions(FakePolicy):
    """The tree in the prefill starts one position late."""

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        self.shift = 1 if is_prefill else 0
        return super().score(cache, tree, is_prefill=is_prefill)

    def depth(self, tree: TokenTree, node: int) -> int:
        return super().depth(tree, node) + self.shift


class ExtendMask(FakePolicy):
    """Right in the prefill, but behind committed tokens every node sees every row before it."""

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        self.is_prefill = is_prefill
        return super().score(cache, tree, is_prefill=is_prefill)

    def visible(self, tree: TokenTree, node: int) -> list[int]:
        return super().visible(tree, node) if self.is_prefill else list(range(node))


# ---- the cache


class FirstRows(FakeCache):
    """Commits as many rows as the path has nodes, whichever they are."""

    def keep(self, path: Sequence[int]) -> None:
        super().keep(range(len(path)))


class WholeTree(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        super().keep(range(len(self.pending)) if path else ())


class NothingMeansAll(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        super().keep(path or range(len(self.pending)))


class ForgetsLast(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        super().keep(path)
        if len(path) > 2:
            del self.states[-1]


class StaleMargin(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        before = self.margin
        super().keep(path)
        self.margin = before if len(path) > 1 else self.margin


class StaleToken(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        before = self.next_token
        super().keep(path)
        self.next_token = before if len(path) > 1 else self.next_token


class TextToken(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        super().keep(path)
        self.next_token = -1


class InfiniteMargin(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        super().keep(path)
        self.margin = float("inf")


class RaisesInKeep(FakeCache):
    def keep(self, path: Sequence[int]) -> None:
        raise IndexError(path)


class CommitsAtOnce(FakePolicy):
    """A tree stays in the cache until something else is kept: nobody crops it."""

    def score(self, cache: FakeCache, tree: TokenTree | None, *, is_prefill: bool) -> Scores:
        left = cache.pending
        scores = super().score(cache, tree, is_prefill=is_prefill)
        if left:
            cache.states += left
            return super().score(cache, tree, is_prefill=is_prefill)
        return scores


class OneCache(FakePolicy):
    """The cache is never emptied."""

    def __init__(self) -> None:
        self.cache = FakeCache()

    def new_cache(self) -> FakeCache:
        return self.cache


def with_cache(cache_type: type[FakeCache]) -> type[FakePolicy]:
    return type(cache_type.__name__, (FakePolicy,), {"cache_type": cache_type})


MASK = "every node of a tree in {} sees the prefix, its ancestors and itself, at its own depth"
KEEP = "cache.keep(path) commits exactly that path"
CHAIN = "a chain checked inside the prefill gives the tokens that one-node extends give"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (NoExtend, "it has the methods encode, prefill, extend; found no extend"),
        (NoCodec, "it has a heisd.codec.ActionCodec called codec"),
        (SmallVocabulary, "its codec's vocabulary holds 256 action ids; found vocab_size 255"),
        (EndlessCodec, "its codec decodes every action id to finite numbers; found others in dimensions [0]"),
        (RaisesInEncode, "encode never raises; found KeyError: 'head'"),
        (WritesImages, "encode changes nothing it is given"),
        (WritesState, "encode changes nothing it is given"),
        (OwnInstruction, "context.instruction is the observation's; found 'something else'"),
        (DoubleKey, "context.vision_key is a float32 vector of numpy; found float64 (2,)"),
        (MatrixKey, "context.vision_key is a float32 vector of numpy; found float32 (1, 2)"),
        (NoKey, "context.vision_key is a float32 vector of numpy; found NoneType"),
        (NaNKey, "context.vision_key is finite"),
        (GrowingKey, "vision_key has one size; found sizes [2, 3]"),
        (NoisyKey, "encode is deterministic; found another vision_key"),
        (NoisyPrefix, "encode is deterministic; found tokens"),
        (OnlyACache, "prefill returns a cache and Scores; found FakeCache"),
        (NoKeep, "a cache has keep(path); found list"),
        (NotScores, "a forward returns heisd.types.Scores; found int"),
        (PaddingIds, "node_next is an id of the vocabulary, 0 to 999; found 1"),
        (TokenIsAnArray, "next_token is an id of the vocabulary, 0 to 999; found array"),
        (FloatNodes, "node_next is 0 integers, one for every node; found float32 (0,)"),
        (PrefixToo, "node_next is 0 integers, one for every node; found int64 (1,)"),
        (NaNMargin, "margin is a finite number of 0 or more; found nan"),
        (OtherNextToken, "cache.next_token is the scores' next_token; found not 744"),
        (ExtendAdvances, "extend leaves next_token at the token behind the committed positions"),
        (WritesTree, "extend does not change the tree"),
        (RaisesOnBranches, "prefill never raises; found NotImplementedError: one chain at a time"),
        (RowPositions, MASK.format("prefill")),
        (CausalMask, MASK.format("prefill")),
        (ParentOnly, CHAIN),
        (PrefillPositions, CHAIN),
        (ExtendMask, MASK.format("extend")),
        (with_cache(FirstRows), KEEP),
        (with_cache(WholeTree), KEEP),
        (with_cache(NothingMeansAll), "cache.keep(()) forgets the tree"),
        (with_cache(ForgetsLast), KEEP),
        (with_cache(StaleMargin), f"{KEEP}; found equal tokens, but logit margins"),
        (with_cache(StaleToken), KEEP),
        (with_cache(TextToken), "cache.next_token is an id of the vocabulary, 0 to 999; found -1"),
        (with_cache(InfiniteMargin), "cache.margin is a finite number of 0 or more; found inf"),
        (with_cache(RaisesInKeep), "keep never raises; found IndexError: (0,)"),
        (CommitsAtOnce, "nothing is committed without keep"),
        (OneCache, "a second prefill starts fresh"),
    ],
)
def test_a_broken_clause_is_named(policy: type[FakePolicy], message: str) -> None:
    with pytest.raises(BrokenContract, match=rf"policy {policy.__name__} breaks its contract: .*{re.escape(message)}"):
        check_target(policy(), fake.observations())


class SharedCache(OneCache):
    """One cache for all prefills, emptied by each: what it held before is gone."""

    def new_cache(self) -> FakeCache:
        self.cache.__init__()  # type: ignore[misc]
        return self.cache


@pytest.mark.parametrize("seed", range(3))
def test_sound_policies_pass(seed: int) -> None:
    check_target(FakePolicy(), fake.observations(3, seed), seed=seed)
    check_target(SharedCache(), fake.observations(1, seed), seed=seed)


def test_the_projects_own_policy_passes() -> None:
    import tiny_policies as tiny  # torch

    check_target(tiny.policy(), [tiny.observation(np.random.default_rng(0))], n_trees=1)


def test_short_actions_pass() -> None:
    class OneNumber(FakePolicy):
        codec = ActionCodec.from_stats(fake.VOCAB, [-1.0], [1.0])

    class TwoNumbers(FakePolicy):
        codec = ActionCodec.from_stats(fake.VOCAB, [-1.0, -1.0], [1.0, 1.0])

    check_target(OneNumber(), fake.observations())
    check_target(TwoNumbers(), fake.observations())


def test_without_an_observation_nothing_is_checked() -> None:
    with pytest.raises(BadInput, match="give at least one"):
        check_target(FakePolicy(), [])


def test_a_slip_that_changes_no_token_shows_in_the_margins() -> None:
    class Rounds(FakeCache):
        def keep(self, path: Sequence[int]) -> None:
            super().keep(path)
            self.margin += 0.02 * (len(path) > 1)

    with pytest.raises(BrokenContract, match=r"equal tokens, but logit margins .* \(margin_atol 0.01\)"):
        check_target(with_cache(Rounds)(), fake.observations())
    check_target(with_cache(Rounds)(), fake.observations(), margin_atol=0.05)
