"""Acceptance rules against the slow reading of their definitions, and what must hold whatever the numbers are."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import draft_trees as dt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heisd.accept import (
    HEISD_CODE,
    HEISD_PAPER,
    BlockBounds,
    Rule,
    adaptive,
    exact,
    kinematic_tolerance_bins,
    relaxed,
    scheduled_tolerance_bins,
    sequence,
)
from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.types import Draft, Scores, StopReason, TokenOrigin, Verdict
from heisd.verify import DraftTree, greedy_path, recombine

SEEDS = st.integers(0, 500)
fast = settings(deadline=None, max_examples=80)
OURS = replace(HEISD_PAPER, keeps_equal_tokens=True)
SPREAD = 8  # bins that targets and drafts range over: tolerances of 0 to 8 all differ


def judge(rule: Rule, merged: DraftTree, target: dt.Target, settled: tuple[int, ...] = ()) -> Verdict:
    return rule(merged, target.scores(merged.tree, settled), dt.CODEC)


def slow_kept(chain: tuple[int, ...], target: dt.Target, passes: Callable[[int, int, int], bool]) -> int:
    """Tokens of one chain that pass one after the other, the target being asked behind the chain's own prefix."""
    n = 0
    while n < len(chain) and passes(n, chain[n], target(chain[:n])):
        n += 1
    return n


def all_chains(made: list[Draft]) -> list[tuple[int, ...]]:
    return [chain for draft in made for chain in draft.chains]


RULES: dict[str, Rule] = {
    "exact": exact,
    "relaxed": partial(relaxed, tolerance_bins=4),
    "paper": partial(sequence, bounds=BlockBounds(8, 4, keeps_equal_tokens=False)),
    "ours": partial(sequence, bounds=BlockBounds(8, 4)),
    "adaptive": partial(adaptive, variability=0.5, high_variability=1.0, tolerance_range_bins=(1, 6)),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


@every_rule
@fast
@given(dt.drafts(SPREAD), SEEDS)
def test_a_verdict_is_consistent(rule: Rule, made: list[Draft], seed: int) -> None:
    target = dt.Target(seed, SPREAD)
    merged = dt.tree_of(made)
    verdict = judge(rule, merged, target)
    n = verdict.n_accepted
    kept = verdict.tokens[:n]
    assert n == 0 or any(chain[:n] == kept for chain in all_chains(made))
    assert len(verdict.tokens) == min(n + 1, dt.T) == len(verdict.origins) == len(verdict.deviation_bins)
    assert tuple(int(merged.tree.tokens[node]) for node in verdict.path) == kept[: dt.T - 1]
    for i, (token, origin, deviation) in enumerate(
        zip(verdict.tokens, verdict.origins, verdict.deviation_bins, strict=True)
    ):
        own = target(verdict.tokens[:i])  # what the target says behind what was kept, relaxed tokens included
        expected = TokenOrigin.DECODED if i == n else TokenOrigin.ACCEPTED if token == own else TokenOrigin.RELAXED
        assert origin is expected
        assert deviation == abs(token - own)
        if i == n:
            assert token == own
    assert (verdict.source == "") == (n == 0)
    assert (verdict.reason is StopReason.COMPLETE) == (n == dt.T)
    assert (verdict.reason is StopReason.NO_DRAFT) == (not made)


@every_rule
@fast
@given(dt.drafts(SPREAD), SEEDS)
def test_the_gripper_is_the_targets(rule: Rule, made: list[Draft], seed: int) -> None:
    target = dt.Target(seed, SPREAD)
    verdict = judge(rule, dt.tree_of(made), target)
    if len(verdict.tokens) == dt.T:
        assert verdict.tokens[6] == target(verdict.tokens[:6])


@every_rule
@fast
@given(dt.drafts(SPREAD), SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(
    rule: Rule, made: list[Draft], seed: int, shuffler: random.Random
) -> None:
    target = dt.Target(seed, SPREAD)
    shuffled = shuffler.sample(made, len(made))
    assert judge(rule, dt.tree_of(made), target) == judge(rule, dt.tree_of(shuffled), target)


@every_rule
@fast
@given(SEEDS, st.integers(0, 5), st.integers(0, 8))
def test_rounds_of_any_budget_end_in_a_complete_action(rule: Rule, seed: int, draft_seed: int, max_nodes: int) -> None:
    """The engine's loop: a known token, drafts behind it, until the action is complete; exact gives greedy's action."""
    target, drafter = dt.Target(seed, SPREAD), dt.Target(seed if draft_seed < 2 else draft_seed, SPREAD)
    settled: tuple[int, ...] = ()
    known: int | None = None
    while len(settled) < dt.T:
        guess = drafter.greedy(settled, dt.T)[len(settled) :]
        merged = dt.tree_of([dt.one(guess)], position=len(settled), known=known, max_nodes=max_nodes + 1)
        verdict = judge(rule, merged, target, settled if known is None else settled[:-1])
        assert verdict.path[:1] == ((0,) if known is not None else verdict.path[:1])
        settled += verdict.tokens
        known = settled[-1]
    assert len(settled) == dt.T
    if rule is exact:
        assert settled == target.greedy((), dt.T)


@fast
@given(dt.drafts(2), SEEDS)
def test_exact_is_a_prefix_of_greedy_decoding_along_the_greedy_path(made: list[Draft], seed: int) -> None:
    target = dt.Target(seed, 2)
    merged = dt.tree_of(made)
    verdict = judge(exact, merged, target)
    assert verdict.tokens == target.greedy((), dt.T)[: len(verdict.tokens)]
    assert verdict.path == greedy_path(merged.tree, target.scores(merged.tree))
    kept = [slow_kept(chain, target, lambda _, ours, theirs: ours == theirs) for chain in all_chains(made)]
    assert verdict.n_accepted == max(kept, default=0)
    assert TokenOrigin.RELAXED not in verdict.origins


@fast
@given(dt.drafts(SPREAD), SEEDS, st.lists(st.integers(0, SPREAD), min_size=6, max_size=6))
def test_relaxed_keeps_the_longest_chain_within_each_dimensions_tolerance(
    made: list[Draft], seed: int, r: list[int]
) -> None:
    target, tolerance = dt.Target(seed, SPREAD), [*r, 0]
    verdict = judge(partial(relaxed, tolerance_bins=tolerance), dt.tree_of(made), target)
    kept = [slow_kept(c, target, lambda i, ours, theirs: abs(ours - theirs) <= tolerance[i]) for c in all_chains(made)]
    assert verdict.n_accepted == max(kept, default=0)


def slow_blocks(chain: tuple[int, ...], target: dt.Target, bounds: BlockBounds) -> int:
    """HeiSD's rule for a whole chain, block by block."""
    off = [abs(token - target(chain[:i])) for i, token in enumerate(chain)]
    for start in (0, 3):
        block = off[start : start + 3]
        if sum(block) > bounds.max_sum_bins or max(block) > bounds.max_token_bins:
            equal = 0
            while bounds.keeps_equal_tokens and block[equal] == 0:
                equal += 1
            return start + equal
    return 7 if off[6] == 0 else 6


@fast
@given(
    st.lists(dt.chains(SPREAD, min_length=dt.T), min_size=1, max_size=5),
    SEEDS,
    st.integers(1, 16),
    st.integers(1, 8),
    st.booleans(),
)
def test_sequence_keeps_whole_blocks(
    whole: list[tuple[int, ...]], seed: int, most: int, each: int, keeps_equal_tokens: bool
) -> None:
    target, bounds = dt.Target(seed, SPREAD), BlockBounds(most, each, keeps_equal_tokens)
    verdict = judge(partial(sequence, bounds=bounds), dt.tree_of([dt.one(*whole)]), target)
    assert verdict.n_accepted == max(slow_blocks(chain, target, bounds) for chain in whole)
    if verdict.reason is StopReason.OVER_BLOCK_BOUNDS and not keeps_equal_tokens:
        assert verdict.n_accepted in (0, 3)


@fast
@given(dt.drafts(SPREAD), SEEDS, st.data())
def test_more_tolerance_never_keeps_less(made: list[Draft], seed: int, data: st.DataObject) -> None:
    target, merged = dt.Target(seed, SPREAD), dt.tree_of(made)
    low = data.draw(st.integers(0, SPREAD))
    high = data.draw(st.integers(low, SPREAD + 2))
    for rules in (
        [partial(relaxed, tolerance_bins=r) for r in (low, high)],
        [partial(sequence, bounds=BlockBounds(2 * r, r)) for r in (low, high)],
        [partial(sequence, bounds=BlockBounds(2 * r, r, keeps_equal_tokens=False)) for r in (low, high)],
        [partial(adaptive, variability=v, high_variability=1, tolerance_range_bins=(low, high)) for v in (1.0, 0.0)],
    ):
        strict, loose = (judge(rule, merged, target) for rule in rules)
        assert strict.n_accepted <= loose.n_accepted


@fast
@given(dt.drafts(SPREAD), SEEDS, st.integers(1, 24))
def test_no_tolerance_is_the_exact_rule(made: list[Draft], seed: int, max_nodes: int) -> None:
    target, merged = dt.Target(seed, SPREAD), dt.tree_of(made, max_nodes=max_nodes)
    expected = judge(exact, merged, target)
    for rule in (
        partial(relaxed, tolerance_bins=0),
        partial(sequence, bounds=BlockBounds(0, 0)),
        partial(adaptive, variability=1.0, high_variability=1.0, tolerance_range_bins=(0, 15)),
    ):
        found = judge(rule, merged, target)
        assert replace(found, reason=expected.reason) == expected


def row(*bins: int) -> tuple[int, ...]:
    return tuple(dt.FIRST + 100 + b for b in bins)


def constant_scores(merged: DraftTree, *bins: int) -> Scores:
    """A target that says the same at a position whatever came before it."""
    says = row(*bins)
    behind = [says[min(depth + 1, 6)] for depth in merged.tree.depth.tolist()]
    return Scores(says[0], np.asarray(behind, dtype=np.int64), 1.0)


ZEROS = (0,) * 7


@pytest.mark.parametrize(
    ("bounds", "off", "n_accepted", "reason"),
    [
        (HEISD_PAPER, (10, 10, 10, 15, 15, 0, 0), 7, StopReason.COMPLETE),
        (HEISD_PAPER, (10, 10, 11, 0, 0, 0, 0), 0, StopReason.OVER_BLOCK_BOUNDS),
        (HEISD_PAPER, (16, 0, 0, 0, 0, 0, 0), 0, StopReason.OVER_BLOCK_BOUNDS),
        (HEISD_PAPER, (0, 0, 16, 0, 0, 0, 0), 0, StopReason.OVER_BLOCK_BOUNDS),
        (HEISD_PAPER, (0, 0, 0, 0, 0, 16, 0), 3, StopReason.OVER_BLOCK_BOUNDS),
        (OURS, (0, 0, 16, 0, 0, 0, 0), 2, StopReason.OVER_BLOCK_BOUNDS),
        (OURS, (5, 5, 5, 0, 0, 16, 0), 5, StopReason.OVER_BLOCK_BOUNDS),
        (HEISD_PAPER, (5, 5, 5, 5, 5, 5, 1), 6, StopReason.GRIPPER),
        (HEISD_CODE, (24, 20, 0, 24, 20, 0, 0), 7, StopReason.COMPLETE),
        (HEISD_CODE, (24, 21, 0, 0, 0, 0, 0), 0, StopReason.OVER_BLOCK_BOUNDS),
        (HEISD_CODE, (25, 0, 0, 0, 0, 0, 0), 0, StopReason.OVER_BLOCK_BOUNDS),
    ],
)
def test_the_published_bounds_to_the_bin(
    bounds: BlockBounds, off: tuple[int, ...], n_accepted: int, reason: StopReason
) -> None:
    merged = dt.tree_of([dt.one(row(*off))])
    verdict = sequence(merged, constant_scores(merged, *ZEROS), dt.CODEC, bounds=bounds)
    assert (verdict.n_accepted, verdict.reason) == (n_accepted, reason)


def test_recombined_candidates_pass_where_neither_parent_does() -> None:
    good_position, good_rotation = row(1, 1, 1, 90, 0, 0, 0), row(90, 0, 0, 2, 2, 2, 0)
    parents = dt.one(good_position, good_rotation)
    mixed = recombine([parents])
    assert mixed is not None
    for made, n_accepted in (([parents], 3), ([parents, mixed], 7)):
        merged = dt.tree_of(made)
        verdict = sequence(merged, constant_scores(merged, *ZEROS), dt.CODEC)
        assert verdict.n_accepted == n_accepted
    assert verdict.source == "recombined"


def test_the_closer_of_two_equally_long_chains_is_kept() -> None:
    further, closer = row(5, 5, 9, 9, 9, 9, 9), row(12, 12, 9, 9, 9, 9, 9)
    merged = dt.tree_of([dt.one(further, closer)])
    assert relaxed(merged, constant_scores(merged, *[9] * 7), dt.CODEC).tokens == closer


def test_tolerances_belong_to_places_in_the_action_not_in_the_draft() -> None:
    merged = dt.tree_of([dt.one(row(0, 2, 0, 3))], position=3)
    scores = Scores(row(0)[0], np.full(len(merged.tree.tokens), row(0)[0]), 1.0)
    for tolerance, n_accepted in (([9, 9, 9, 0, 0, 0, 0], 1), ([0, 0, 0, 0, 2, 0, 0], 3), (9, 3)):
        assert relaxed(merged, scores, dt.CODEC, tolerance_bins=tolerance).n_accepted == n_accepted


def test_a_block_that_the_draft_does_not_finish_is_kept_as_far_as_it_is_equal() -> None:
    merged = dt.tree_of([dt.one(row(5, 5, 5, 0, 1))])
    verdict = sequence(merged, constant_scores(merged, *ZEROS), dt.CODEC)
    assert (verdict.n_accepted, verdict.reason) == (4, StopReason.BLOCK_UNFINISHED)


def test_a_draft_that_starts_inside_a_block_is_bounded_by_its_own_tokens() -> None:
    merged = dt.tree_of([dt.one(row(15, 15, 9, 9, 9, 0))], position=1, known=dt.FIRST)
    behind = np.full(len(merged.tree.tokens), row(0)[0])
    verdict = sequence(merged, Scores(dt.FIRST, behind, 1.0), dt.CODEC)
    assert (verdict.n_accepted, verdict.reason) == (6, StopReason.COMPLETE)


def test_a_saturated_actions_two_ids_are_no_bins_apart_but_not_equal() -> None:
    top = (dt.FIRST + 1,) * 7
    merged = dt.tree_of([dt.one(top)])
    scores = Scores(dt.FIRST, np.full(6, dt.FIRST), 1.0)  # decodes to the same value as FIRST + 1
    assert exact(merged, scores, dt.CODEC).n_accepted == 0
    assert relaxed(merged, scores, dt.CODEC, tolerance_bins=0).n_accepted == 0
    assert sequence(merged, scores, dt.CODEC, bounds=BlockBounds(0, 0)).n_accepted == 0
    verdict = relaxed(merged, scores, dt.CODEC, tolerance_bins=1)
    assert verdict.n_accepted == 6  # the gripper stays exact even then
    assert set(verdict.deviation_bins) == {0}
    assert verdict.origins[:6] == (TokenOrigin.RELAXED,) * 6


def test_kervs_tolerance_follows_the_motion_between_its_bounds() -> None:
    assert [kinematic_tolerance_bins(v, 2.0) for v in (0.0, 1.0, 2.0, 9.0, math.inf, math.nan)] == [15, 10, 5, 5, 5, 5]
    values = [kinematic_tolerance_bins(v, 2.0) for v in np.linspace(0, 3, 50)]
    assert values == sorted(values, reverse=True)


def test_the_released_schedule_is_the_published_curve() -> None:
    exactly = {0: 15.0, 25: 14.5, 50: 11.7, 75: 7.1, 100: 3.9, 125: 3.0, 300: 3.0}
    assert {t: scheduled_tolerance_bins(t) for t in exactly} == {t: int(r) for t, r in exactly.items()}
    assert [scheduled_tolerance_bins(t, horizon=220) for t in (25, 50, 75, 100)] == [13, 8, 3, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlockBounds(-1, 3), "0 bins or more"),
        (lambda: kinematic_tolerance_bins(1.0, 0.0), "must be a positive number"),
        (lambda: kinematic_tolerance_bins(1.0, math.nan), "must be a positive number"),
        (lambda: kinematic_tolerance_bins(1.0, 1.0, (9, 5)), "r_min <= r_max"),
        (lambda: scheduled_tolerance_bins(-1), "step must be 0 or more"),
    ],
)
def test_impossible_numbers_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [([1] * 7, "gripper is never relaxed"), ([1, 2], "one tolerance, or 7"), (-1, "0 bins or more")],
)
def test_impossible_tolerances_are_refused(tolerance: int | list[int], message: str) -> None:
    merged = dt.tree_of([dt.one(row(*ZEROS))])
    with pytest.raises(BadInput, match=message):
        relaxed(merged, constant_scores(merged, *ZEROS), dt.CODEC, tolerance_bins=tolerance)


def test_a_codec_of_another_length_is_refused() -> None:
    short = ActionCodec.from_stats(dt.VOCAB, [-1.0] * 4, [1.0] * 4)
    merged = dt.tree_of([dt.one(row(*ZEROS))])
    with pytest.raises(BadInput, match="merged for 7 tokens an action; the codec has 4"):
        exact(merged, constant_scores(merged, *ZEROS), short)
    with pytest.raises(BadInput, match="actions of 7 tokens"):
        sequence(merged, constant_scores(merged, *ZEROS), short)
