"""Merging chains into one tree, and reading the target's scores along it, against plain loops."""

import random

import draft_trees as dt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heisd.errors import BadInput
from heisd.types import Draft, Scores
from heisd.verify import greedy_path, merge, recombine

SEEDS = st.integers(0, 500)
relaxed_time = settings(deadline=None)


def tokens_on(tree, path):  # type: ignore[no-untyped-def]
    return tuple(int(tree.tokens[node]) for node in path)


@relaxed_time
@given(dt.drafts())
def test_every_chain_lies_on_a_path_of_the_tree(made: list[Draft]) -> None:
    merged = dt.tree_of(made)
    given_chains = [chain for draft in made for chain in draft.chains]
    assert [chain.tokens for chain in merged.chains] == given_chains
    for chain in merged.chains:
        assert tokens_on(merged.tree, chain.path) == chain.tokens[: dt.T - 1]
        assert [int(merged.tree.parents[node]) for node in chain.path] == [-1, *chain.path][: len(chain.path)]


@relaxed_time
@given(dt.drafts())
def test_equal_prefixes_are_one_node_and_the_last_token_of_an_action_is_none(made: list[Draft]) -> None:
    merged = dt.tree_of(made)
    inputs = [chain[: dt.T - 1] for draft in made for chain in draft.chains]
    prefixes = {chain[: n + 1] for chain in inputs for n in range(len(chain))}
    assert len(merged.tree.tokens) == len(prefixes)


@relaxed_time
@given(dt.drafts(), st.randoms(use_true_random=False))
def test_the_tree_does_not_depend_on_the_order_of_the_drafts(made: list[Draft], shuffler: random.Random) -> None:
    shuffled = shuffler.sample(made, len(made))
    for max_nodes in (0, 3, 8, 1000):
        ours, theirs = (dt.tree_of(m, max_nodes=max_nodes) for m in (made, shuffled))
        np.testing.assert_array_equal(ours.tree.tokens, theirs.tree.tokens)
        np.testing.assert_array_equal(ours.tree.parents, theirs.tree.parents)
        assert sorted(map(str, ours.chains)) == sorted(map(str, theirs.chains))


@relaxed_time
@given(dt.drafts(), st.integers(0, 12))
def test_a_budget_keeps_the_heaviest_nodes(made: list[Draft], max_nodes: int) -> None:
    weight: dict[tuple[int, ...], float] = {}
    for draft in made:
        for i, (chain, score) in enumerate(zip(draft.chains, draft.scores, strict=True)):
            log_probs = (0.0,) * len(chain) if draft.log_probs is None else draft.log_probs[i]
            for n in range(1, min(len(chain), dt.T - 1) + 1):
                value = score + sum(log_probs[:n])
                weight[chain[:n]] = max(value, weight.get(chain[:n], value))
    merged = dt.tree_of(made, max_nodes=max_nodes)
    kept = {tokens_on(merged.tree, chain.path[: n + 1]) for chain in merged.chains for n in range(len(chain.path))}
    assert len(kept) == len(merged.tree.tokens) == min(max_nodes, len(weight))
    dropped = weight.keys() - kept
    if kept and dropped:
        assert min(weight[p] for p in kept) >= max(weight[p] for p in dropped) - 1e-9


def test_equally_heavy_chains_share_the_budget_level_by_level() -> None:
    a, b = (dt.FIRST + 1,) * 6, (dt.FIRST + 2,) * 6
    merged = dt.tree_of([dt.one(a, b)], max_nodes=6)
    assert [len(chain.path) for chain in merged.chains] == [3, 3]
    assert [len(chain.tokens) for chain in merged.chains] == [3, 3]


def test_a_shared_node_weighs_as_much_as_the_best_chain_through_it() -> None:
    """The second chain is lighter as a whole, but its first token, which both share, is the heaviest node."""
    a, b, c = dt.FIRST + 1, dt.FIRST + 2, dt.FIRST + 3
    whole = Draft(((a, a),), "whole", (-1.0,), ((0.0, 0.0),))
    prefix = Draft(((a, b),), "prefix", (0.0,), ((0.0, -5.0),))
    merged = dt.tree_of([whole, prefix, Draft(((c,),), "other", (-0.5,))], max_nodes=1)
    assert merged.tree.tokens.tolist() == [a]


@relaxed_time
@given(dt.drafts())
def test_the_heaviest_chain_takes_the_first_rows(made: list[Draft]) -> None:
    merged = dt.tree_of(made)
    if merged.chains:
        best = min(merged.chains, key=lambda chain: (-chain.weight, chain.tokens))
        assert best.path == tuple(range(len(best.path)))


@relaxed_time
@given(dt.drafts(), SEEDS)
def test_targets_are_what_the_target_says_behind_each_chains_own_tokens(made: list[Draft], seed: int) -> None:
    target, merged = dt.Target(seed), dt.tree_of(made)
    targets = merged.targets(target.scores(merged.tree))
    for chain, along in zip(merged.chains, targets, strict=True):
        assert along == tuple(target(chain.tokens[:n]) for n in range(len(chain.path) + 1))


@relaxed_time
@given(dt.drafts(max_length=4), SEEDS)
def test_a_known_token_is_the_root_and_nobodys_draft(made: list[Draft], seed: int) -> None:
    target = dt.Target(seed)
    settled = target.greedy((), 2)
    known = target(settled)
    merged = dt.tree_of(made, position=3, known=known)
    assert merged.tree.tokens[0] == known
    assert (merged.tree.parents[1:] >= 0).all()
    scores = target.scores(merged.tree, settled)
    assert merged.first_target(scores) == target((*settled, known))
    for chain, along in zip(merged.chains, merged.targets(scores), strict=True):
        assert along == tuple(target((*settled, known, *chain.tokens[:n])) for n in range(len(chain.path) + 1))
        assert merged.committed(chain.path) == (0, *chain.path)


@relaxed_time
@given(dt.drafts(spread=2), SEEDS)
def test_the_greedy_path_is_the_longest_prefix_of_greedy_decoding_in_the_tree(made: list[Draft], seed: int) -> None:
    target = dt.Target(seed, spread=2)
    merged = dt.tree_of(made)
    greedy = target.greedy((), dt.T)
    longest = 0
    for draft in made:
        for chain in draft.chains:
            n = 0
            while n < min(len(chain), dt.T - 1) and chain[n] == greedy[n]:
                n += 1
            longest = max(longest, n)
    path = greedy_path(merged.tree, target.scores(merged.tree))
    assert tokens_on(merged.tree, path) == greedy[:longest]


@relaxed_time
@given(dt.drafts())
def test_recombination_adds_every_new_head_and_tail_and_nothing_else(made: list[Draft]) -> None:
    whole = [chain for draft in made for chain in draft.chains]
    expected = {head[:3] + tail[3:] for head in whole for tail in whole if len(head) >= 3 and len(tail) > 3}
    expected -= {chain for chain in whole if len(chain) >= 3}
    mixed = recombine(made)
    assert (set() if mixed is None else set(mixed.chains)) == expected
    if mixed is not None:
        assert len(mixed.chains) == len(set(mixed.chains))
        assert list(mixed.scores) == sorted(mixed.scores, reverse=True)
        assert max(mixed.scores) <= max(chain.weight for chain in dt.tree_of(made).chains)


def test_recombination_behind_the_cut_adds_nothing() -> None:
    a, b = (dt.FIRST + 1,) * 4, (dt.FIRST + 2,) * 4
    assert recombine([dt.one(a, b)], position=3) is None
    mixed = recombine([dt.one(a, b)], position=2)
    assert mixed is not None
    assert set(mixed.chains) == {a[:1] + b[1:], b[:1] + a[1:]}


def test_nothing_proposed_is_plain_decoding() -> None:
    merged = dt.tree_of([])
    assert len(merged.tree.tokens) == 0
    assert merged.first_target(Scores(dt.FIRST, np.empty(0, np.int64), 1.0)) == dt.FIRST
    assert dt.tree_of([], position=1, known=5).tree.tokens.tolist() == [5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position": 7}, "positions 0 to 6"),
        ({"position": -1}, "positions 0 to 6"),
        ({"position": 0, "known": 5}, "positions 1 to 6"),
        ({"position": 1, "known": 5, "max_nodes": 0}, "max_nodes is 0"),
        ({"position": 5}, "proposed 3 tokens where 1 to 2"),
    ],
)
def test_impossible_merges_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        merge([dt.one((dt.FIRST,) * 3)], **({"length": dt.T, "max_nodes": 9} | arguments))


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(BadInput, match="test proposed 0 tokens"):
        dt.tree_of([dt.one(())])


def test_scores_of_another_tree_are_refused() -> None:
    merged = dt.tree_of([dt.one((dt.FIRST, dt.FIRST))])
    with pytest.raises(BadInput, match="3 nodes were given for a tree of 2"):
        merged.targets(Scores(dt.FIRST, np.zeros(3, np.int64), 1.0))
    known = dt.tree_of([], position=1, known=dt.FIRST)
    with pytest.raises(BadInput, match=r"known=cache\.next_token"):
        known.targets(Scores(dt.FIRST + 1, np.zeros(1, np.int64), 1.0))
