"""Draft chains <-> one token tree: several proposers' guesses, checked by the target in a single forward.

A node of the tree is an input row of that forward, so equal prefixes are merged and the last token of an action
never becomes a node: the target's opinion of it is read one node earlier, and nothing comes behind it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import NamedTuple

import numpy as np

from heisd.errors import BadInput
from heisd.types import Draft, Scores, TokenTree

ROTATION = 3  # position of the first rotation token: where HeiSD recombines candidates


def is_close(scores: Scores, path: Sequence[int], *, reads_prompt: bool) -> bool:
    """Whether rounding may have decided a token along a committed path, or behind it.

    Args: ``scores`` of a forward; ``path`` nodes of its tree that are kept; ``reads_prompt`` whether it was the first.
    """
    return (reads_prompt and scores.next_is_close) or not scores.close_nodes.isdisjoint(path)


@dataclass(frozen=True, slots=True)
class DraftChain:
    """One guess and where it lies in the tree. ``len(tokens)`` is ``len(path)``, or one more at the action's end."""

    tokens: tuple[int, ...]  # (L,) vocabulary ids that the forward can judge; empty if no room was left
    path: tuple[int, ...]  # node of each token, from the root down
    source: str  # registry name of the proposer
    weight: float  # score plus log-probabilities of the whole proposed chain


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Every proposer's chains merged into one tree."""

    tree: TokenTree
    chains: tuple[DraftChain, ...]  # in the order given: draft by draft
    position: int  # place in the action of a chain's first token
    length: int  # tokens of an action
    known: int | None = None  # the target's own, not yet cached token at ``position - 1``; then it is node 0

    def targets(self, scores: Scores) -> tuple[tuple[int, ...], ...]:
        """For every chain the target's tokens at ``position``, ``position + 1``, … ``position + len(path)``.

        Each is conditioned on the chain's own tokens before it, also on those the target would not have chosen.
        Raises BadInput when ``scores`` were not computed for this tree.
        """
        behind, first = self.behind(scores), self.first_target(scores)
        return tuple((first, *(behind[node] for node in chain.path)) for chain in self.chains)

    def behind(self, scores: Scores) -> list[int]:
        """The target's token behind every node. Raises BadInput when ``scores`` were not computed for this tree."""
        behind: list[int] = np.asarray(scores.node_next).tolist()
        if len(behind) != len(self.tree.tokens):
            raise BadInput(f"scores of {len(behind)} nodes were given for a tree of {len(self.tree.tokens)}")
        if self.known is not None and scores.next_token != self.known:
            raise BadInput(
                f"the tree starts with token {self.known}, but the target's next token is {scores.next_token}; "
                "merge with known=cache.next_token"
            )
        return behind

    def first_target(self, scores: Scores) -> int:
        """The target's own token at ``position``."""
        return scores.next_token if self.known is None else int(scores.node_next[0])

    def committed(self, path: Sequence[int]) -> tuple[int, ...]:
        """A chain's nodes as a path of the tree: the known token's node comes first."""
        return tuple(path) if self.known is None else (0, *path)


def merge(
    drafts: Sequence[Draft], *, position: int, length: int, max_nodes: int, known: int | None = None
) -> DraftTree:
    """Merge chains into one tree of at most ``max_nodes`` nodes.

    A node weighs as much as the best chain through it: score plus the log-probabilities down to the node. The
    heaviest nodes stay; of equally heavy ones those nearer the root, which are reached more often. What is built
    does not depend on the order of the drafts, and the heaviest chain occupies the first rows, so that keeping it
    moves nothing in the cache.

    Args:
        drafts: checked proposals (``heisd.propose.base.check_draft``).
        position: place in the action of the chains' first token, ``0 <= position < length``.
        length: tokens of an action.
        max_nodes: rows the forward may add, counting ``known``.
        known: the target's own token at ``position - 1`` if the cache doesn't hold it yet (``cache.next_token``).

    Raises:
        BadInput: ``position`` or ``max_nodes`` out of range, or a chain is empty or reaches beyond the action.
    """
    n_fixed = 0 if known is None else 1
    if not n_fixed <= position < length:
        raise BadInput(f"chains start at position {position}; an action has positions {n_fixed} to {length - 1}")
    if max_nodes < n_fixed:
        raise BadInput(f"max_nodes is {max_nodes}; the token that is already known needs {n_fixed}")
    guesses = [guess for draft in drafts for guess in _guesses(draft)]
    for guess in guesses:
        if not 1 <= len(guess.tokens) <= length - position:
            n = len(guess.tokens)
            raise BadInput(f"{guess.source} proposed {n} tokens where 1 to {length - position} are wanted")
    trie = _Trie(known)
    n_inputs = length - 1 - position  # the action's last token is never an input
    paths: list[list[int]] = [[]] * len(guesses)
    for i in sorted(range(len(guesses)), key=lambda i: (-guesses[i].weight, guesses[i].tokens)):
        paths[i] = trie.add(guesses[i], n_inputs)
    kept = trie.heaviest(max_nodes)
    chains = tuple(_chain(guess, path, kept, n_inputs) for guess, path in zip(guesses, paths, strict=True))
    return DraftTree(trie.tree(kept), chains, position, length, known)


def recombine(drafts: Sequence[Draft], *, position: int = 0, cut: int = ROTATION) -> Draft | None:
    """Every chain's tokens before ``cut`` with every other chain's tokens from ``cut`` on; None if that adds nothing.

    HeiSD (sequence-wise acceptance) recombines the position of one candidate with the rotation of another. The
    gripper stays with the rotation: it is never judged by tolerance, so its owner does not matter. The result holds
    the new chains only, at most K (K - 1), each weighing as much as the lighter of its two parents.
    """
    n_head = cut - position
    if n_head <= 0:
        return None
    guesses = [guess for draft in drafts for guess in _guesses(draft) if len(guess.tokens) >= n_head]
    seen = {guess.tokens for guess in guesses}
    mixed: dict[tuple[int, ...], float] = {}
    for head in guesses:
        for tail in guesses:
            tokens, weight = head.tokens[:n_head] + tail.tokens[n_head:], min(head.weight, tail.weight)
            if tokens not in seen and len(tokens) > n_head:
                mixed[tokens] = max(weight, mixed.get(tokens, weight))
    if not mixed:
        return None
    chains = tuple(sorted(mixed, key=lambda tokens: (-mixed[tokens], tokens)))
    return Draft(chains, "recombined", tuple(mixed[tokens] for tokens in chains))


def greedy_path(tree: TokenTree, scores: Scores) -> tuple[int, ...]:
    """Nodes that greedy decoding would visit, from a root down: the longest exactly accepted path."""
    children = {(int(parent), int(tree.tokens[i])): i for i, parent in enumerate(tree.parents)}
    path: list[int] = []
    node, token = -1, scores.next_token
    while (node, token) in children:
        node = children[node, token]
        token = int(scores.node_next[node])
        path.append(node)
    return tuple(path)


class _Guess(NamedTuple):
    tokens: tuple[int, ...]
    weights: tuple[float, ...]  # (L,) of each node: never increasing along the chain
    source: str

    @property
    def weight(self) -> float:
        return self.weights[-1] if self.weights else -np.inf


def _guesses(draft: Draft) -> Iterator[_Guess]:
    for i, (tokens, score) in enumerate(zip(draft.chains, draft.scores, strict=True)):
        if draft.log_probs is None:
            yield _Guess(tokens, (score,) * len(tokens), draft.source)
        else:
            weights = (score + so_far for so_far in accumulate(draft.log_probs[i]))
            yield _Guess(tokens, tuple(weights), draft.source)


def _chain(guess: _Guess, nodes: Sequence[int], kept: Mapping[int, int], n_inputs: int) -> DraftChain:
    """A guess whose nodes were ``nodes`` when the trie was whole; it ends where one of them was left out."""
    path = tuple(kept[node] for node in takewhile(kept.__contains__, nodes))
    is_whole = len(path) == min(len(guess.tokens), n_inputs)
    return DraftChain(guess.tokens if is_whole else guess.tokens[: len(path)], path, guess.source, guess.weight)


class _Trie:
    """Nodes in the order they were added; node 0 is the known token if there is one."""

    def __init__(self, known: int | None) -> None:
        self._root = -1 if known is None else 0
        self._ids: dict[tuple[int, int], int] = {}  # (parent, token) -> node
        self._tokens: list[int] = [] if known is None else [known]
        self._parents: list[int] = [] if known is None else [-1]
        self._rank: list[tuple[float, int]] = [] if known is None else [(-np.inf, 0)]  # (-weight, depth)

    def add(self, guess: _Guess, n_inputs: int) -> list[int]:
        """The nodes of a guess, from the root down; those that are not there yet are made."""
        path: list[int] = []
        parent = self._root
        for depth, token in enumerate(guess.tokens[:n_inputs]):
            rank = (-guess.weights[depth], depth)
            node = self._ids.setdefault((parent, token), len(self._tokens))
            if node == len(self._tokens):
                self._tokens.append(token)
                self._parents.append(parent)
                self._rank.append(rank)
            elif rank < self._rank[node]:
                self._rank[node] = rank
            path.append(node)
            parent = node
        return path

    def heaviest(self, max_nodes: int) -> dict[int, int]:
        """Old -> new index of the nodes that stay; a parent outranks its children, so none is orphaned."""
        if len(self._tokens) <= max_nodes:
            return {node: node for node in range(len(self._tokens))}
        order = sorted(range(len(self._tokens)), key=lambda node: (self._rank[node], node))
        return {old: new for new, old in enumerate(sorted(order[:max_nodes]))}

    def tree(self, kept: dict[int, int]) -> TokenTree:
        parents = [kept.get(self._parents[old], -1) for old in kept]
        return TokenTree(np.asarray([self._tokens[old] for old in kept], np.int64), np.asarray(parents, np.int64))
