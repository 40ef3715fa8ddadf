"""Drafters compute what their training form computes, and propose what a search by brute force would."""

import itertools
import math
from pathlib import Path

import drafter_fakes as fakes
import numpy as np
import pytest
import torch

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies.drafter import MISSING, N_PAST, ParallelDrafter, motion_features, n_features
from heisd.policies.drafter_bundle import load_drafter, save_drafter
from heisd.policies.drafter_eagle import EagleDrafter, EagleRuntime
from heisd.policies.drafter_runtime import ParallelRuntime
from heisd.policies.target import OpenVLAContext, OpenVLAPolicy
from heisd.propose import registry
from heisd.propose.base import History
from heisd.propose.eagle import Eagle
from heisd.propose.parallel import ParallelDraft, best_first, past_bins
from heisd.telemetry import MemorySink
from heisd.testing import check_proposer
from heisd.types import Action, TokenOrigin, TokenTree
from heisd.verify import greedy_path


@pytest.fixture
def policy(tmp_path: Path) -> OpenVLAPolicy:
    return fakes.stored_policy(tmp_path / "policy")


def random_inputs(policy: OpenVLAPolicy, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    prefix = policy.encode(tiny.observation(rng)).prefix
    past = rng.integers(0, 257, (N_PAST, 7))
    features = motion_features(past, rng.normal(size=25), rng.normal(size=25))
    return prefix, past[:2], features


def test_the_fast_form_is_the_trained_one(policy: OpenVLAPolicy, rng: np.random.Generator) -> None:
    drafter = fakes.parallel(policy)
    runtime = ParallelRuntime(drafter)
    prefix, past, features = random_inputs(policy, rng)
    found = runtime.guess(prefix, past, features)
    with torch.no_grad():
        # padded, beside a longer prompt, as in a training batch
        padded = torch.nn.functional.pad(prefix, (0, 0, 0, 3))
        mask = torch.arange(len(padded)) < len(prefix)
        states = drafter(padded[None], mask[None], torch.from_numpy(past)[None], torch.from_numpy(features)[None])
        wanted = drafter.logits(states).log_softmax(-1)[0]
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)


def test_motion_features_survive_anything() -> None:
    past = np.full((N_PAST, 7), MISSING)
    assert motion_features(past, np.zeros(25), np.zeros(25)).shape == (n_features(7),)
    wild = motion_features(past, np.full(25, np.nan), np.full(25, np.inf))
    assert np.isfinite(wild).all()


@pytest.mark.parametrize("max_nodes", [1, 4, 17])
@pytest.mark.parametrize("n_missing", [2, 3, 4])
def test_best_first_finds_the_likeliest_nodes(rng: np.random.Generator, n_missing: int, max_nodes: int) -> None:
    raw = -np.sort(rng.exponential(1.0, (n_missing, 3)), axis=1)
    floor = math.log(0.01)
    every = [path for depth in range(1, n_missing) for path in itertools.product(range(3), repeat=depth)]
    weight = {path: sum(raw[d, r] for d, r in enumerate(path)) for path in every}
    wanted = sorted((path for path in every if weight[path] >= floor), key=lambda path: -weight[path])[:max_nodes]
    leaves = best_first(raw.tolist(), max_nodes, floor)
    inner = n_missing - 1  # the last token is no node: guessed along wherever a path gets there
    nodes = {path[:depth] for path in leaves for depth in range(1, min(len(path), inner) + 1)}
    assert nodes == set(wanted)
    assert all(len(path) == n_missing and path[-1] == 0 for path in leaves if len(path) >= inner)
    if leaves:
        assert not any(leaves[0])


def test_nothing_is_proposed_that_does_not_pay() -> None:
    assert best_first([[-5.0, -6.0], [-0.1, -2.0]], 10, math.log(0.06)) == []
    assert best_first([[-0.1, -3.0]], 0, math.log(0.06)) == [(0,)]  # the last token costs no row


def test_past_bins_are_newest_first_and_foreign_ids_are_missing(policy: OpenVLAPolicy) -> None:
    codec, history = policy.codec, History.empty(7)
    for bin_number in (10, 20):
        tokens = codec.tokens_of_bins(np.full(7, bin_number))
        history = history.acted(Action(codec.decode(tokens), tokens, (TokenOrigin.DECODED,) * 7))
    assert past_bins(history, codec)[:, 0].tolist() == [20, 10, MISSING]
    bad = history.tokens.copy()
    bad[-1, 3] = 0
    assert past_bins(History(history.actions, bad), codec)[:, 0].tolist() == [MISSING, 10, MISSING]


def hidden_of(policy: OpenVLAPolicy, context: OpenVLAContext, tokens: list[int]) -> torch.Tensor:
    model = policy.model.language_model
    with torch.no_grad():
        return model.hidden(torch.cat([context.prefix.clone(), model.embed(torch.tensor(tokens).long())])[None])[0]


def test_states_are_those_of_the_committed_positions(policy: OpenVLAPolicy, rng: np.random.Generator) -> None:
    seen = tiny.observation(rng)
    assert policy.encode(seen).states is None
    truth = tiny.greedy(policy, seen)
    policy.require_states()
    context = policy.encode(seen)
    assert context.states is None
    wrong = policy.codec.first_token
    tree = TokenTree(np.array([wrong, truth[0], wrong, truth[1]]), np.array([-1, -1, 1, 1]))
    cache, scores = policy.prefill(context, tree)
    path = greedy_path(tree, scores)
    assert path == (1, 3)
    cache.keep(path)
    wanted = hidden_of(policy, context, truth[:2])
    torch.testing.assert_close(context.states, wanted, atol=1e-3, rtol=1e-3)
    policy.extend(cache, TokenTree.chain(np.array([truth[2]])))
    cache.keep((0,))
    assert context.states is not None
    torch.testing.assert_close(context.states[-1], hidden_of(policy, context, truth[:3])[-1], atol=1e-3, rtol=1e-3)
    other = policy.encode(seen)
    policy.prefill(other)
    assert context.states is None
    assert other.states is not None


def test_keeping_states_changes_no_token(policy: OpenVLAPolicy, rng: np.random.Generator) -> None:
    observations = [tiny.observation(rng) for _ in range(10)]
    plain = [Engine(policy).act(seen).tokens.tolist() for seen in observations]
    policy.require_states()
    assert [Engine(policy).act(seen).tokens.tolist() for seen in observations] == plain


def brute_force_tree(
    drafter: EagleDrafter, policy: OpenVLAPolicy, context: OpenVLAContext, settled: list[int], *, k: int, depth: int,
    total: int,
) -> set[tuple[int, ...]]:  # fmt: skip
    """Spec-VLA's tree by whole forwards of the trained module: every beam anew, no cache, no mask."""
    model, first = policy.model.language_model, policy.codec.first_token
    states = hidden_of(policy, context, settled[:-1])
    known = torch.cat([context.prefix.clone()[1:], model.embed(torch.tensor(settled))])

    def behind(path: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            read, fed = known, states
            predicted = drafter(read[None], fed[None])[0]
            for token in path:
                read = torch.cat([read, model.embed(torch.tensor([token]))])
                fed = torch.cat([fed, predicted[-1:]])
                predicted = drafter(read[None], fed[None])[0]
            return model.lm_head(predicted[-1])[first : first + 256].log_softmax(-1)

    beams, candidates = [((), 0.0)], []
    for _ in range(min(depth + 1, 7 - len(settled))):
        level = []
        for path, weight in beams:
            values, ids = behind(path).topk(k)
            level += [((*path, first + int(i)), weight + float(v)) for v, i in zip(values, ids, strict=True)]
        candidates += level
        beams = sorted(level, key=lambda item: -item[1])[:k]
    return {path for path, _ in sorted(candidates, key=lambda item: -item[1])[: total - 1]}


@pytest.mark.parametrize("n_settled", [1, 4, 6])
def test_the_eagle_tree_is_that_of_brute_force(policy: OpenVLAPolicy, rng: np.random.Generator, n_settled: int) -> None:
    drafter = fakes.eagle(policy)
    proposer = Eagle(policy.codec, drafter=EagleRuntime(drafter, policy), depth=3, top_k=3, total_nodes=14)
    context = policy.encode(tiny.observation(rng))
    truth = tiny.greedy(policy, tiny.observation(rng))
    cache, _ = policy.prefill(context)
    history, settled = History.empty(7), [cache.next_token]
    drafts = [proposer.propose(context, history.with_settled(tuple(settled)))]
    while len(settled) < n_settled:  # asked on the way too, so that rows are read in several calls
        policy.extend(cache, TokenTree.chain(np.array(settled[-1:])))
        cache.keep((0,))
        settled.append(cache.next_token)
        drafts.append(proposer.propose(context, history.with_settled(tuple(settled))))
    assert len(truth) == 7
    found = drafts[-1]
    assert found is not None
    nodes = {chain[:depth] for chain in found.chains for depth in range(1, len(chain) + 1)}
    assert nodes == brute_force_tree(drafter, policy, context, settled, k=3, depth=3, total=14)


def test_eagle_says_nothing_before_the_prefill_or_without_states(
    policy: OpenVLAPolicy, rng: np.random.Generator
) -> None:
    blank = policy.encode(tiny.observation(rng))  # before states are kept
    proposer = Eagle(policy.codec, drafter=EagleRuntime(fakes.eagle(policy), policy))
    history = History.empty(7)
    first = policy.codec.first_token
    assert proposer.propose(blank, history.with_settled((first,))) is None
    context = policy.encode(tiny.observation(rng))
    assert proposer.propose(context, history) is None
    assert proposer.propose(context, history.with_settled((first,))) is None
    policy.prefill(context)
    assert proposer.propose(context, history.with_settled((first,))) is not None
    assert proposer.propose(context, history.with_settled((first, first))) is None  # its state isn't there yet


def proposers(policy: OpenVLAPolicy) -> dict[str, object]:
    parallel = ParallelRuntime(fakes.parallel(policy))
    return {
        "parallel": registry.create("parallel", policy.codec, drafter=parallel, min_probability=1e-4, whole=True),
        "eagle": registry.create("eagle", policy.codec, drafter=EagleRuntime(fakes.eagle(policy), policy)),
    }


@pytest.mark.parametrize("name", ["parallel", "eagle"])
def test_drafts_keep_the_contract(policy: OpenVLAPolicy, rng: np.random.Generator, name: str) -> None:
    proposer = proposers(policy)[name]
    contexts = [policy.encode(tiny.observation(rng)) for _ in range(4)]
    check_proposer(proposer, policy.codec, contexts=contexts)
    check_proposer(proposer, policy.codec)  # contexts of a foreign policy: nothing to read, no draft


@pytest.mark.parametrize("names", [("parallel",), ("eagle",), ("parallel", "eagle")])
def test_exact_speculation_with_drafters_equals_plain_greedy(
    policy: OpenVLAPolicy, rng: np.random.Generator, names: tuple[str, ...]
) -> None:
    chosen, sink = proposers(policy), MemorySink()
    engine = Engine(policy, proposers={name: chosen[name] for name in names}, sink=sink)  # type: ignore[misc]
    for i in range(25):
        seen = tiny.observation(rng, tiny.INSTRUCTIONS[i % 2])
        assert engine.act(seen).tokens.tolist() == tiny.greedy(policy, seen)
    assert not engine.faults
    assert sum(len(record.verifications) for record in sink.records) > 25


def test_a_drafter_comes_back_as_it_was_and_only_to_its_policy(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    mine = {"name": "mine", "sha256": policy.policy_hash}
    other = fakes.stored_policy(tmp_path / "other", seed=1)
    rng = np.random.default_rng(0)
    for kind, drafter in {"parallel": fakes.parallel(policy), "eagle": fakes.eagle(policy)}.items():
        home = save_drafter(tmp_path / kind, drafter, policy=mine)
        runtime = load_drafter(home, policy)
        keeps_states = policy.encode(tiny.observation(rng)).prefilled is not None
        assert keeps_states is (kind == "eagle")  # it asks for the states it reads; keeping them costs time
        with pytest.raises(BadInput, match=r"drafts for the policy 'mine'.*not for this"):
            load_drafter(home, other)
        if isinstance(drafter, ParallelDrafter):
            assert isinstance(runtime, ParallelRuntime)
            inputs = random_inputs(policy, rng)
            drafter.half().float()
            torch.testing.assert_close(runtime.guess(*inputs), ParallelRuntime(drafter).guess(*inputs))
        else:
            assert isinstance(runtime, EagleRuntime)


def test_damaged_drafters_are_refused(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    mine = {"name": "mine", "sha256": policy.policy_hash}
    home = save_drafter(tmp_path / "drafter", fakes.parallel(policy), policy=mine)
    weights = home / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(BadArtifact, match="sha256"):
        load_drafter(home, policy)
    weights.unlink()
    with pytest.raises(BadArtifact, match="cannot be read"):
        load_drafter(home, policy)
    (home / "manifest.json").write_text('{"format": "heisd-drafter-1"}')
    with pytest.raises(BadArtifact, match=r"not a drafter's manifest: \w+: Field required$"):
        load_drafter(home, policy)
    with pytest.raises(UnknownName, match="drafter"):
        load_drafter("nowhere", policy)


def test_options_out_of_range_are_refused(policy: OpenVLAPolicy) -> None:
    runtime = ParallelRuntime(fakes.parallel(policy))
    with pytest.raises(BadInput, match="min_probability"):
        ParallelDraft(policy.codec, drafter=runtime, min_probability=0.0)
    with pytest.raises(BadInput, match="total_nodes"):
        Eagle(policy.codec, drafter=EagleRuntime(fakes.eagle(policy), policy), total_nodes=1)
