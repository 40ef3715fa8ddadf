"""The retrieval proposer: neighbours become chains, ranked, merged, scored; and where nothing is known, nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_fakes import CODEC, FULL_DIMS, LENGTH, MILK, lived, make_store, opened

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, BadInput
from heisd.index.lookup import Index, Neighbours
from heisd.index.projection import Projection
from heisd.index.record import make_rows, row_dtype
from heisd.index.shard import Part, Shard
from heisd.policies.proprio import flatten
from heisd.propose.base import History, check_draft
from heisd.propose.panel import Panel
from heisd.propose.registry import create
from heisd.propose.retrieval import Retrieval
from heisd.testing import SyntheticContext, check_proposer, synthetic_episode
from heisd.types import FloatArray, IntArray

NOW = synthetic_episode(CODEC)[-1][1]
DIRECTION = np.array([1.0, 0.0], dtype=np.float32)  # the key that every index of ``remembering`` is asked for


class Counting:
    """A store that counts its look-ups."""

    def __init__(self, store: Any) -> None:
        self.store, self.keys = store, []

    def lookup(self, instruction: str, key: FloatArray, proprio: FloatArray, k: int) -> Neighbours | None:
        self.keys.append(key)
        return self.store.lookup(instruction, key, proprio, k)


def context(key: FloatArray, instruction: str = MILK) -> SyntheticContext:
    return SyntheticContext(np.asarray(key, dtype=np.float32), instruction)


def remembering(bins: IntArray, cosines: Sequence[float]) -> Index:
    """One shard of single-frame episodes whose keys have these cosines to ``DIRECTION``."""
    n, angle = len(bins), np.arccos(cosines)
    keys = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    zeros = np.zeros(n, dtype=np.int64)
    rows = make_rows(keys, np.zeros((n, 25)), np.arange(n), zeros, zeros, bins)
    projection = Projection(np.zeros(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    return Index([MILK], [Shard(Part(rows, tuple(map(str, range(n)))))], projection)


def proposed(index: Index, settled: Sequence[int] = (), **options: Any) -> Any:
    history = NOW.with_settled(tuple(settled))
    return Retrieval(CODEC, store=index, **options).propose(context(DIRECTION), history)


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    keys = make_store(tmp_path)[MILK]
    proposer = create("retrieval", CODEC, store=opened(tmp_path))
    check_proposer(proposer, CODEC, contexts=[context(key) for key in keys[:12]])
    check_proposer(proposer, CODEC, contexts=[context(key, "open the drawer") for key in keys[:12]])


def test_chains_are_what_the_neighbours_did_best_first(tmp_path: Path) -> None:
    keys, store = make_store(tmp_path)[MILK], opened(tmp_path)
    proposer = Retrieval(CODEC, store=store, k=4, temperature=0.5)
    for key in keys[:: LENGTH - 1]:
        found = store.lookup(MILK, key, flatten(NOW.proprioception[-1]), 4)
        draft = proposer.propose(context(key), NOW)
        assert found is not None
        assert draft is not None
        assert draft.source == "retrieval"
        assert draft.chains == tuple(map(tuple, CODEC.tokens_of_bins(found.bins).tolist()))
        np.testing.assert_allclose(draft.scores, (found.similarity - 1.0) / 0.5)
        assert proposer.last_lookup is not None
        assert np.array_equal(proposer.last_lookup.ranking.rows, found.ranking.rows)


def test_one_look_up_a_step_and_none_of_an_older_step_is_reused(tmp_path: Path) -> None:
    keys = make_store(tmp_path)[MILK]
    store = Counting(opened(tmp_path))
    proposer = Retrieval(CODEC, store=store)
    first = proposer.propose(context(keys[0]), NOW)
    assert first is not None
    begun = NOW.with_settled(first.chains[0][:3])
    rest = proposer.propose(context(keys[0]), begun)
    assert rest is not None
    assert rest.chains[0] == first.chains[0][3:]
    assert len(store.keys) == 1
    later = begun.observed(replace(NOW.proprioception[-1])).with_settled(begun.settled)
    proposer.propose(context(keys[20]), later)  # a step at which nobody asked before the prefill
    assert np.array_equal(store.keys[1], keys[20])
    proposer.propose(context(keys[20]), later)
    assert len(store.keys) == 2
    proposer.propose(context(keys[21]), later.with_settled(()))  # the same state object, filled anew
    assert np.array_equal(store.keys[2], keys[21])
    proposer.reset()
    assert proposer.last_lookup is None
    proposer.propose(context(keys[21]), later)
    assert len(store.keys) == 4


@pytest.mark.parametrize("n_settled", range(7))
def test_agreement_with_settled_tokens_comes_first_then_similarity(n_settled: int) -> None:
    for seed in range(30):
        rng = np.random.default_rng([seed, n_settled])
        k = int(rng.integers(1, 9))
        bins = rng.integers(100, 103, (k, 7))
        cosines = rng.permutation(np.linspace(-0.9, 0.95, k))
        settled_bins = rng.integers(99, 104, n_settled)
        draft = proposed(remembering(bins, cosines), CODEC.tokens_of_bins(settled_bins).tolist(), k=k)
        check_draft(draft, CODEC, n_settled)
        gaps = np.abs(bins[:, :n_settled] - settled_bins).sum(axis=1)
        expected: list[tuple[int, ...]] = []
        for i in sorted(range(k), key=lambda i: (gaps[i], -cosines[i])):
            chain = tuple(CODEC.tokens_of_bins(bins[i, n_settled:]).tolist())
            expected += [] if chain in expected else [chain]
        assert list(draft.chains) == expected
        best = min(range(k), key=lambda i: (gaps[i], -cosines[i]))
        assert draft.scores[0] == pytest.approx((cosines[best] - 1.0) / 0.1, abs=0.02)


def test_scores_rise_with_similarity_on_one_scale_for_every_query() -> None:
    bins = np.arange(21).reshape(3, 7)
    near, far = proposed(remembering(bins, [1.0, 0.9, 0.5])), proposed(remembering(bins, [0.5, 0.4, 0.1]))
    np.testing.assert_allclose(near.scores, [0.0, -1.0, -5.0], atol=0.02)
    np.testing.assert_allclose(far.scores, [-5.0, -6.0, -9.0], atol=0.02)
    np.testing.assert_allclose(proposed(remembering(bins, [1.0, 0.9, 0.5]), temperature=1.0).scores[1], -0.1, atol=0.02)


def test_equal_chains_are_merged_and_keep_the_better_score() -> None:
    bins = np.array([[5, 6, 7, 8, 9, 10, 11]] * 2 + [[5, 6, 7, 8, 9, 10, 12]])
    draft = proposed(remembering(bins, [0.5, 0.9, 0.7]))
    assert len(draft.chains) == 2
    np.testing.assert_allclose(draft.scores, [-1.0, -3.0], atol=0.02)
    assert len(proposed(remembering(bins, [0.5, 0.9, 0.7]), draft.chains[0][:6]).chains) == 2
    behind_two = proposed(remembering(np.array([[1, 2, 3, 3, 3, 3, 3], [9, 9, 3, 3, 3, 3, 3]]), [0.9, 0.8]), (998, 997))
    assert len(behind_two.chains) == 1


def test_ids_that_decode_alike_agree() -> None:
    bins = np.array([[255, 1, 1, 1, 1, 1, 0], [253, 2, 2, 2, 2, 2, 0]])  # both one id away from bin 254
    draft = proposed(remembering(bins, [0.5, 0.9]), [int(CODEC.tokens_of_bins(np.array(254)))])
    assert draft.chains[0] == tuple(CODEC.tokens_of_bins(bins[0, 1:]).tolist())


@pytest.mark.parametrize("bin_number", [0, 127, 254, 255])
def test_every_stored_bin_is_an_action_token(bin_number: int) -> None:
    draft = proposed(remembering(np.full((1, 7), bin_number), [1.0]))
    assert draft.chains == ((CODEC.vocab_size - 1 - bin_number,) * 7,)


@pytest.mark.parametrize("command", [-1.0, 1.0])
def test_the_gripper_is_proposed_in_the_policys_own_convention(command: float) -> None:
    """HeiSD's released store keeps the environment's sign, so that its verification compares opening with closing."""
    action = np.array([0.1, 0.0, -0.2, 0.3, 0.0, 0.1, command])
    draft = proposed(remembering(CODEC.encode_bins(action)[None], [1.0]))
    assert CODEC.decode(np.asarray(draft.chains[0]))[6] == command
    assert np.array_equal(draft.chains[0], CODEC.encode(action))
    model_space = {-1.0: CODEC.first_token, 1.0: CODEC.vocab_size - 1 - 127}[command]  # 1 is open, 0 is closed
    assert draft.chains[0][6] == model_space


def test_where_nothing_is_known_nothing_is_proposed(tmp_path: Path) -> None:
    keys, store = make_store(tmp_path)[MILK], opened(tmp_path)
    proposer, usual = Retrieval(CODEC, store=store), context(keys[0])
    blind = NOW.proprioception[-1]
    lost = NOW.observed(replace(blind, joint_pos_rad=np.full(7, np.nan)))
    rows = np.zeros(0, dtype=row_dtype(FULL_DIMS))
    projection = Projection(np.zeros(FULL_DIMS, dtype=np.float32), np.eye(FULL_DIMS, dtype=np.float32))
    empty = [Index([MILK], [Shard(Part(rows, ()))], projection), Index([], [], projection)]
    cases: list[tuple[Retrieval, SyntheticContext, History]] = [
        (proposer, context(keys[0], "open the drawer"), NOW),
        (proposer, context(keys[0] * np.nan), NOW),
        (proposer, context(keys[0] + np.inf), NOW),
        (proposer, usual, lost),
        *((Retrieval(CODEC, store=index), usual, NOW) for index in empty),
    ]
    for who, seen, history in cases:
        assert proposer.propose(usual, NOW) is not None
        assert who.propose(seen, history) is None
        assert who.last_lookup is None, "what an earlier step knew must not be taken for this one's"
    assert proposer.propose(usual, History.empty(7)) is None
    assert proposer.propose(usual, NOW.with_settled((CODEC.first_token,) * 7)) is None


def test_a_key_of_another_width_is_a_named_fault_and_costs_no_action(tmp_path: Path) -> None:
    make_store(tmp_path)
    panel = Panel(
        {"retrieval": Retrieval(CODEC, store=opened(tmp_path))}, lambda d, h: check_draft(d, CODEC, len(h.settled))
    )
    wrong = context(np.ones(FULL_DIMS + 1))
    for n in (1, 2, 3, 3):
        assert panel.propose(wrong, NOW) == ()
        assert panel.faults["retrieval"] == n
    with pytest.raises(BadInput, match=f"{FULL_DIMS} finite"):
        Retrieval(CODEC, store=opened(tmp_path)).propose(wrong, NOW)


def test_a_reworded_instruction_is_answered_and_says_so(tmp_path: Path) -> None:
    keys = make_store(tmp_path)[MILK]
    proposer = Retrieval(CODEC, store=opened(tmp_path))
    same = proposer.propose(context(keys[3], "Pick up  the MILK."), NOW)
    assert proposer.last_lookup is not None
    assert proposer.last_lookup.text_similarity == 1.0
    reworded = proposer.propose(context(keys[3], "pick up milk"), NOW)
    assert reworded is not None
    assert same is not None
    assert replace(reworded, evidence={}) == replace(same, evidence={})
    assert reworded.evidence["text_similarity"] < same.evidence["text_similarity"] == 1.0
    assert proposer.last_lookup.instruction == MILK
    assert 0.6 <= proposer.last_lookup.text_similarity < 1.0
    assert proposer.propose(context(keys[3], "pick up the butter"), NOW) is None


def test_what_follows_a_neighbour_ends_with_its_episode(tmp_path: Path) -> None:
    keys, store = make_store(tmp_path)[MILK], opened(tmp_path)
    rows = store.index.shards[0].base.rows
    proposer = Retrieval(CODEC, store=store, k=1)
    for frame in (0, LENGTH - 3, LENGTH - 1):
        proposer.propose(context(keys[LENGTH + frame]), NOW)
        for horizon in (1, 2, 5):
            n = min(horizon, LENGTH - 1 - frame)
            expected = CODEC.tokens_of_bins(rows["bins"][LENGTH + frame + 1 : LENGTH + frame + 1 + n])
            assert np.array_equal(proposer.following(0, horizon), expected.reshape(n, 7))


def test_asking_for_what_follows_nothing_is_refused(tmp_path: Path) -> None:
    keys = make_store(tmp_path)[MILK]
    proposer = Retrieval(CODEC, store=opened(tmp_path), k=2)
    with pytest.raises(BadInput, match="found 0"):
        proposer.following(0, 1)
    proposer.propose(context(keys[0]), NOW)
    for i, horizon in ((2, 1), (-1, 1), (0, 0)):
        with pytest.raises(BadInput, match=f"neighbour {i} for {horizon} steps.*found 2"):
            proposer.following(i, horizon)


def test_neighbours_tell_how_far_they_disagree(tmp_path: Path) -> None:
    keys = make_store(tmp_path)[MILK]
    proposer = Retrieval(CODEC, store=opened(tmp_path), k=3)
    proposer.propose(context(keys[0]), NOW)
    found = proposer.last_lookup
    assert found is not None
    columns = [[int(b) for b in column] for column in found.bins.T]
    assert found.spread_bins.tolist() == [max(column) - min(column) for column in columns]


def test_appended_experience_is_proposed_at_the_next_step(tmp_path: Path) -> None:
    make_store(tmp_path)
    steps = lived(1)
    with opened(tmp_path, max_appended_rows=10) as store:
        proposer = Retrieval(CODEC, store=store, k=1)
        before = proposer.propose(context(steps.keys[0]), NOW)
        store.append(MILK, steps, "run1")
        after = proposer.propose(context(steps.keys[0]), NOW)
    assert before is not None
    assert after is not None
    assert after.chains == (tuple(steps.tokens[0].tolist()),) != before.chains


def test_bad_options_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    store = opened(tmp_path)
    for options in ({"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"temperature": float("inf")}):
        with pytest.raises(BadInput, match="k of at least 1 and a temperature above 0"):
            Retrieval(CODEC, store=store, **options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="7 tokens; this policy's have 3"):
        Retrieval(ActionCodec.from_stats(1000, [-1.0] * 3, [1.0] * 3), store=store)
    with pytest.raises(BadArtifact, match="other action statistics"):
        Retrieval(ActionCodec.from_stats(1000, [-1.0] * 6 + [0.0], [1.0] * 7), store=store)
    with pytest.raises(BadInput, match="its options: store, k, temperature"):
        create("retrieval", CODEC)


@pytest.mark.parametrize(("frame", "steps"), [(0, 3.0), (2, 1.0), (3, np.inf), (4, np.inf)])
def test_the_evidence_says_how_near_memory_is_and_when_the_gripper_moves_next(frame: int, steps: float) -> None:
    angle = np.array([0.0, 0.3, 0.6, 0.7, 1.0])
    keys = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    bins = np.full((5, 7), 100)
    bins[:, 6] = [0, 1, 0, 255, 255]  # ids that decode alike are no event
    bins[:, 0] = [100, 110, 120, 130, 140]
    zeros = np.zeros(5, dtype=np.int64)
    rows = make_rows(keys, np.zeros((5, 25)), zeros, np.arange(5), zeros, bins)
    index = Index([MILK], [Shard(Part(rows, ("e",)))], Projection(np.zeros(2, np.float32), np.eye(2, dtype=np.float32)))
    proposer = Retrieval(CODEC, store=index, k=2)
    draft = proposer.propose(context(keys[frame]), NOW)
    assert draft is not None
    assert proposer.last_lookup is not None
    assert draft.evidence == {
        "similarity": pytest.approx(1.0, abs=1e-3),
        "text_similarity": 1.0,
        "spread_bins": 10.0,
        "gripper_event_in": steps,
    }
    reworded = proposer.propose(context(keys[frame], MILK.replace("pick up", "grab")), NOW)
    assert reworded is None or reworded.evidence["text_similarity"] < 1.0
