"""Drafts of chunks: what is left, what was done last, what is remembered; and the draft head beside its module."""

from pathlib import Path

import index_fakes
import numpy as np
import pytest
import torch
from fake_chunks import HORIZON, FakeContext, chunk
from fake_target import CODEC

import tiny_flows as flows
import tiny_policies as tiny
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies.drafter_bundle import load_draft_head, load_drafter, save_drafter
from heisd.policies.flow.draft_head import DraftHead, DraftHeadConfig, DraftHeadRuntime
from heisd.policies.identity import describe_weights
from heisd.propose.base import History, check_chunk_draft
from heisd.propose.chunks import ChunkPersistence, ShiftedTail, padded
from heisd.propose.draft_head import DraftHeadGuess
from heisd.propose.registry import CHUNK_PROPOSERS, create_chunk
from heisd.testing import synthetic_episode
from heisd.types import Action, Round, RoundRecord, TokenOrigin

CONTEXT = FakeContext("", np.ones(2, dtype=np.float32), 1)
EMPTY = History.empty(7)


def acted(*values: float) -> History:
    history = EMPTY
    for value in values:
        action = CODEC.denormalise_chunk(chunk(value)[0])
        history = history.acted(Action(action, CODEC.encode(action), (TokenOrigin.DECODED,) * 7))
    return history


def test_the_tail_is_what_a_round_has_left() -> None:
    proposer = ShiftedTail(CODEC, HORIZON)
    assert proposer.propose(CONTEXT, EMPTY) is None
    made = np.arange(HORIZON * 7, dtype=np.float32).reshape(HORIZON, 7) / 100
    proposer.observe(Round(made, TokenOrigin.DECODED, RoundRecord(4)))
    draft = proposer.propose(CONTEXT, EMPTY)
    assert draft is not None
    np.testing.assert_array_equal(draft.chunks[0], made[[4, 5, 5, 5, 5, 5]])
    assert check_chunk_draft(draft, CODEC, HORIZON) is draft
    proposer.observe(Round(made, TokenOrigin.RELAXED, RoundRecord(HORIZON)))
    assert proposer.propose(CONTEXT, EMPTY) is None
    proposer.observe(Round(made, TokenOrigin.DECODED, RoundRecord(1)))
    proposer.reset()
    assert proposer.propose(CONTEXT, EMPTY) is None


def test_persistence_repeats_the_last_action() -> None:
    proposer = ChunkPersistence(CODEC, HORIZON)
    assert proposer.propose(CONTEXT, EMPTY) is None
    draft = proposer.propose(CONTEXT, acted(0.2, -0.3))
    assert draft is not None
    np.testing.assert_allclose(draft.chunks[0], chunk(-0.3), atol=1e-6)
    assert check_chunk_draft(draft, CODEC, HORIZON) is draft


def test_padding_cuts_or_repeats() -> None:
    rows = np.arange(3)
    assert padded(rows, 5).tolist() == [0, 1, 2, 2, 2]
    assert padded(rows, 2).tolist() == [0, 1]


def test_retrieval_proposes_what_came_after_the_most_similar_frames(tmp_path: Path) -> None:
    keys = index_fakes.make_store(tmp_path)[index_fakes.MILK]
    store, codec = index_fakes.opened(tmp_path), index_fakes.CODEC
    bins = store.index.shards[0].base.rows["bins"]
    proposer = create_chunk("retrieval", codec, HORIZON, store=store, k=2)
    history = synthetic_episode(codec)[-1][1]
    for i, last in ((0, 9), (16, 19)):  # the second one's episode ends within the chunk
        draft = proposer.propose(FakeContext(index_fakes.MILK, keys[i], 1), history)
        assert draft is not None
        assert check_chunk_draft(draft, codec, HORIZON) is draft
        assert draft.chunks.shape == (2, HORIZON, 7)
        following = bins[np.minimum(np.arange(i, i + HORIZON), last)]
        wanted = codec.normalise_chunk(codec.decode(codec.tokens_of_bins(following)))
        np.testing.assert_allclose(draft.chunks[0], wanted, atol=1e-6)
        assert set(np.unique(draft.chunks[0][:, 6])) <= {-1.0, 1.0}
        assert draft.evidence["similarity"] == pytest.approx(1.0, abs=1e-2)
        assert draft.scores[0] >= draft.scores[1]
    assert proposer.propose(FakeContext("open the fridge", keys[0], 1), history) is None
    proposer.reset()


def test_names_and_options_are_refused_with_what_is_known() -> None:
    with pytest.raises(UnknownName, match="draft_head, persistence, retrieval, tail"):
        create_chunk("kalman", CODEC, HORIZON)
    with pytest.raises(BadInput, match="its options: score"):
        create_chunk("tail", CODEC, HORIZON, speed=3)
    assert set(CHUNK_PROPOSERS) == {"draft_head", "persistence", "retrieval", "tail"}


def head(seed: int = 0, **changes: object) -> DraftHead:
    torch.manual_seed(seed)
    made = DraftHead(DraftHeadConfig.of(flows.config(**changes)))
    for name, parameter in made.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return made.eval()


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}], ids=["plain", "gqa"])
def test_the_fast_head_computes_what_its_module_computes(rng: np.random.Generator, changes: dict[str, object]) -> None:
    policy, module = flows.policy(**changes), head(**changes)
    runtime = DraftHeadRuntime(module, policy)
    for instruction in tiny.INSTRUCTIONS:
        context = policy.encode(tiny.observation(rng, instruction))
        embeddings = context.embeddings.clone()[None]
        is_visible = torch.ones(embeddings.shape[:2], dtype=torch.bool)
        with torch.no_grad():
            slow = module(embeddings, is_visible, context.state.clone()[None])[0]
            wide = torch.cat([embeddings, torch.randn(1, 3, embeddings.shape[2])], 1)
            hidden = torch.cat([is_visible, torch.zeros(1, 3, dtype=torch.bool)], 1)
            np.testing.assert_allclose(module(wide, hidden, context.state.clone()[None])[0], slow, atol=2e-6)
        np.testing.assert_allclose(runtime.draft(context), slow, atol=5e-6)
        draft = DraftHeadGuess(policy.codec, policy.horizon, drafter=runtime).propose(context, EMPTY)
        assert draft is not None
        assert check_chunk_draft(draft, policy.codec, policy.horizon) is draft
    assert DraftHeadGuess(policy.codec, policy.horizon, drafter=runtime).propose(CONTEXT, EMPTY) is None


def test_a_head_may_begin_as_the_language_models_first_layer() -> None:
    network, module = flows.network(), head()
    module.begin_as(network)
    ours, theirs = module.layer.state_dict(), network.language_model.layers[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_head_belongs_to_its_policy(tmp_path: Path, rng: np.random.Generator) -> None:
    policy = flows.stored_policy(tmp_path / "policy")
    identity = describe_weights(tmp_path / "policy")
    saved = save_drafter(tmp_path / "head", head(), policy=identity, command="test")
    runtime = load_draft_head(saved, policy)
    context = policy.encode(tiny.observation(rng))
    np.testing.assert_allclose(runtime.draft(context), DraftHeadRuntime(head(), policy).draft(context), atol=5e-3)
    other = flows.stored_policy(tmp_path / "other", seed=1)
    with pytest.raises(BadInput, match=r"drafts for the policy 'policy'.*heisd train draft-head"):
        load_draft_head(saved, other)
    with pytest.raises(BadInput, match="is a 'head' drafter; 'parallel' or 'eagle' is needed"):
        load_drafter(saved, tiny.policy())
    with pytest.raises(BadInput, match="makes chunks of 6 actions, the policy of 5"):
        DraftHeadGuess(policy.codec, 5, drafter=runtime)
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadArtifact, match=r"model.safetensors has sha256"):
        load_draft_head(saved, policy)
