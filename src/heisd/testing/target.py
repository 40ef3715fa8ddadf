"""Does a target policy keep its contract? See :func:`check_target`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from heisd.acceleration import check_members
from heisd.errors import BadInput, BrokenContract
from heisd.policies.protocol import Cache, Context, Refreshing, TargetPolicy
from heisd.testing.watched import Path, Reading, Watched
from heisd.types import Observation, Scores, TokenTree

N_NODES = 8  # of a random tree


def check_target(
    policy: TargetPolicy[Any, Any],
    observations: Sequence[Observation],
    *,
    n_trees: int = 3,
    margin_atol: float = 1e-2,
    seed: int = 0,
) -> None:
    """Hold everything that ``policy`` says against what it says when it reads token by token.

    Checked: its members and its codec; ``encode`` is deterministic, changes nothing and describes the images by a
    finite key of one size; tokens are ids of the vocabulary, one per node of a tree; a second ``prefill`` starts
    fresh; a greedy chain checked inside the prefill gives the tokens of one-node extends; every node of a random
    tree (branches, shared prefixes, wrong tokens), in the prefill and behind committed tokens, is read as if its
    path stood alone; ``keep(path)`` commits exactly that path, ``keep(())`` nothing, and without ``keep`` nothing
    is committed; ``refreshed``, where a policy has it, gives back what ``encode`` gave. It takes some 400 forwards an
    observation.

    Tokens have to be equal, so use float32: in half precision a forward of another number of rows rounds otherwise,
    and where the best two tokens are close another one wins. That is a finding, not a false alarm: there, the
    rule ``exact`` cannot promise plain decoding's actions.

    Args:
        policy: what to check.
        observations: at least one; a few different ones find more.
        n_trees: random trees for every observation.
        margin_atol: how far two readings of the same logit margin may be apart. Margins show a wrong mask or
            position long before it changes a token.
        seed: of the trees.

    Raises:
        BrokenContract: names the clause that is broken and what was found.
        BadInput: there is no observation.
    """
    check_members(policy)
    if not len(observations):
        raise BadInput("check_target got no observation; give at least one, as the robot delivers them")
    watched = Watched(policy)
    rng = np.random.default_rng(seed)
    sizes = []
    for observation in observations:
        context = watched.encode(observation)
        sizes.append(len(context.vision_key))
        check = _Check(watched, context, margin_atol, rng)
        check.second_prefill_starts_fresh()
        check.encode_is_deterministic(watched.encode(observation))
        if isinstance(policy, Refreshing):
            check.refreshed_by_itself(policy.refreshed(context, observation))
        check.chain_in_the_prefill()
        check.nothing_is_committed_without_keep()
        for _ in range(n_trees):
            check.random_tree(in_prefill=True)
            check.random_tree(in_prefill=False)
    if len(set(sizes)) > 1:
        raise BrokenContract(watched.who, "vision_key has one size", f"sizes {sorted(set(sizes))}")


class _Check:
    """The clauses for one observation. The yardstick is reading token by token: prefill, then one-node extends."""

    def __init__(self, watched: Watched, context: Context, margin_atol: float, rng: np.random.Generator) -> None:
        self._watched, self._context, self._atol, self._rng = watched, context, margin_atol, rng
        self._known: dict[Path, Reading] = {}
        self._length = watched.codec.length
        self._greedy = self._decode(context)

    def second_prefill_starts_fresh(self) -> None:
        cache, _ = self._watched.prefill(self._context, self._wrong_chain())
        self._watched.keep(cache, (0,))
        self._watched.extend(cache, self._wrong_chain())  # and left there
        self._equal("a second prefill starts fresh", self._decode(self._context), self._greedy)

    def encode_is_deterministic(self, again: Context) -> None:
        same_key = np.array_equal(self._context.vision_key, again.vision_key)
        self._watched.require(same_key, "encode is deterministic", "another vision_key for the same observation")
        self._equal("encode is deterministic", self._decode(again), self._greedy)

    def refreshed_by_itself(self, again: Context) -> None:
        """Nothing is older in it than in the context itself."""
        self._equal("refreshed(encode(o), o) is encode(o)", self._decode(again), self._greedy)

    def chain_in_the_prefill(self) -> None:
        """The greedy chain as a tree in the prefill; every part of it kept once, and decoding goes on behind it."""
        tokens = tuple(reading.token for reading in self._greedy)
        chain = TokenTree.chain(np.asarray(tokens[:-1], dtype=np.int64))
        for n_kept in range(len(tokens)):
            cache, scores = self._watched.prefill(self._context, chain)
            clause = "a chain checked inside the prefill gives the tokens that one-node extends give"
            said = (scores.next_token, *scores.node_next.tolist())
            self._watched.require(said == tokens, clause, f"{said} instead of {tokens}")
            readings = [self._watched.keep(cache, tuple(range(n_kept)))]
            for token in tokens[n_kept:-1]:
                self._watched.extend(cache, _single(token))
                readings.append(self._watched.keep(cache, (0,)))
            clause = "cache.keep(path) commits exactly that path" if n_kept else "cache.keep(()) forgets the tree"
            self._equal(clause, readings, self._greedy[n_kept:])

    def nothing_is_committed_without_keep(self) -> None:
        first = self._greedy[0].token
        expected = self._behind((first,)).token
        wrong = self._wrong_chain()
        cache, _ = self._watched.prefill(self._context, wrong)
        for _ in range(2):
            found = int(self._watched.extend(cache, _single(first)).node_next[0])
            what = f"{found} instead of {expected} after a tree that nobody kept"
            self._watched.require(found == expected, "nothing is committed without keep", what)
            self._watched.extend(cache, wrong)

    def random_tree(self, *, in_prefill: bool) -> None:
        """A tree behind nothing, or behind some committed tokens; then each of its paths is kept once."""
        n_before = 0 if in_prefill else int(self._rng.integers(0, self._length // 2 + 1))
        before = tuple(reading.token for reading in self._greedy[:n_before])
        tree, paths = self._grow(before)
        # Read one by one beforehand: a policy may have one cache for all prefills.
        leaves = [path for path in paths if not any(len(nodes) > 1 and path[1][-1] == nodes[-2] for _, nodes in paths)]
        ends = [self._behind(before + tokens) for tokens, _ in leaves]
        after = [self._behind((*before, *leaf[0], end.token)) for leaf, end in zip(leaves, ends, strict=True)]
        alone = [self._behind(before + tokens).token for tokens, _ in paths]
        _, scores = self._score(before, tree, in_prefill=in_prefill)
        where = "prefill" if in_prefill else "extend"
        clause = f"every node of a tree in {where} sees the prefix, its ancestors and itself, at its own depth"
        for (tokens, _), found, expected in zip(paths, scores.node_next.tolist(), alone, strict=True):
            what = f"{found} instead of {expected} behind {before + tokens}"
            self._watched.require(found == expected, clause, what)
        for (_, nodes), end, next_one in zip(leaves, ends, after, strict=True):
            cache, _ = self._score(before, tree, in_prefill=in_prefill)
            readings = [self._watched.keep(cache, nodes)]
            self._watched.extend(cache, _single(end.token))
            readings.append(self._watched.keep(cache, (0,)))
            self._equal("cache.keep(path) commits exactly that path", readings, [end, next_one])

    def _score(self, before: Path, tree: TokenTree, *, in_prefill: bool) -> tuple[Cache, Scores]:
        if in_prefill:
            return self._watched.prefill(self._context, tree)
        cache = self._read(before)
        return cache, self._watched.extend(cache, tree)

    def _grow(self, before: Path) -> tuple[TokenTree, list[tuple[Path, Path]]]:
        """A random tree, and for every node its path in tokens and in nodes. A wrong root comes first, so that the
        greedy path is never simply the first rows."""
        paths: list[tuple[Path, Path]] = []
        while len(paths) < N_NODES:
            at = int(self._rng.integers(-1, len(paths))) if len(paths) > 1 else -1
            tokens, nodes = paths[at] if at >= 0 else ((), ())
            is_wrong = not paths or (len(paths) > 1 and self._rng.random() < 0.5)
            token = self._wrong() if is_wrong else self._behind(before + tokens).token
            deepest = max(1, self._length - 1 - len(before))
            if len(tokens) < deepest and all((*tokens, token) != known for known, _ in paths):
                paths.append(((*tokens, token), (*nodes, len(paths))))
        tokens_of_nodes = np.asarray([tokens[-1] for tokens, _ in paths], dtype=np.int64)
        parents = np.asarray([nodes[-2] if len(nodes) > 1 else -1 for _, nodes in paths], dtype=np.int64)
        return TokenTree(tokens_of_nodes, parents), paths

    def _wrong(self) -> int:
        """An action id that the target did not choose first."""
        codec = self._watched.codec
        drawn = int(self._rng.integers(codec.first_token, codec.vocab_size - 1))
        return drawn if drawn != self._greedy[0].token else drawn + 1

    def _wrong_chain(self) -> TokenTree:
        return TokenTree.chain(np.asarray([self._wrong(), self._wrong()], dtype=np.int64))

    def _decode(self, context: Context) -> list[Reading]:
        cache, _ = self._watched.prefill(context)
        readings = [Reading(cache.next_token, cache.margin)]
        while len(readings) < self._length:
            self._watched.extend(cache, _single(readings[-1].token))
            readings.append(self._watched.keep(cache, (0,)))
        return readings

    def _read(self, tokens: Path) -> Cache:
        """Read one by one, and remember what the target said on the way."""
        cache, _ = self._watched.prefill(self._context)
        self._known[()] = Reading(cache.next_token, cache.margin)
        for n, token in enumerate(tokens, start=1):
            self._watched.extend(cache, _single(token))
            self._known[tokens[:n]] = self._watched.keep(cache, (0,))
        return cache

    def _behind(self, tokens: Path) -> Reading:
        if tokens not in self._known:
            self._read(tokens)
        return self._known[tokens]

    def _equal(self, clause: str, found: Sequence[Reading], expected: Sequence[Reading]) -> None:
        tokens, wanted = [reading.token for reading in found], [reading.token for reading in expected]
        self._watched.require(tokens == wanted, clause, f"tokens {tokens} instead of {wanted}")
        margins, right = [reading.margin for reading in found], [reading.margin for reading in expected]
        message = f"equal tokens, but logit margins {margins} instead of {right} (margin_atol {self._atol})"
        self._watched.require(np.allclose(margins, right, rtol=0.0, atol=self._atol), clause, message)


def _single(token: int) -> TokenTree:
    return TokenTree.chain(np.asarray([token], dtype=np.int64))
