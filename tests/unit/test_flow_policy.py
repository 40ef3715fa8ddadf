"""The flow-matching policy: its fast path equals the slow one, and the slow one is one joint attention."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_flows as flows
import tiny_policies as tiny
from heisd.errors import BadInput
from heisd.policies.decoder import rotary_table
from heisd.policies.flow.naive import NaiveFlow
from heisd.policies.flow.network import FlowNetwork, LastPrefixLayer
from heisd.policies.flow.schedule import euler_times, integrate, noised, sample_times, time_features
from heisd.types import Observation

VARIANTS = pytest.mark.parametrize(
    "changes", [{}, {"n_kv_heads": 2}, {"is_blind": True}], ids=["plain", "gqa", "blind"]
)


def noise_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal((*shape, flows.HORIZON, 7), dtype=np.float32)


def joint_velocity(model: FlowNetwork, embeddings: Tensor, state: Tensor, x: Tensor, t: float) -> Tensor:
    """(H, A): all positions of both stacks in ONE attention a layer, under pi0's blockwise mask."""
    P, H = len(embeddings), len(x)
    block = torch.cat([torch.zeros(P), torch.ones(1), torch.full((H,), 2.0)])
    sees = (block[None] <= block[:, None])[None, None]
    cos, sin = rotary_table(model.config.decoder, P + 1 + H)
    prefix = embeddings[None]
    level = torch.full((1, 1), t)
    suffix = torch.cat([model.state_proj(state)[None, None], model.embed_actions(x[None, None], level)[0]], 1)
    for ours, theirs in zip(model.language_model.layers, model.action_expert.layers, strict=True):
        is_last = isinstance(ours, LastPrefixLayer)
        if is_last:
            k1, v1 = ours(prefix, cos[:P], sin[:P])
            q1 = torch.zeros(1, model.config.decoder.n_heads, P, k1.shape[-1])  # nobody reads what it would find
        else:
            q1, k1, v1 = ours.project(prefix, cos[:P], sin[:P])
        q2, k2, v2 = theirs.project(suffix, cos[P:], sin[P:])
        q, k, v = torch.cat([q1, q2], 2), torch.cat([k1, k2], 2), torch.cat([v1, v2], 2)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~sees, -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        suffix = suffix + theirs.self_attn.o_proj(mixed[:, P:])
        suffix = suffix + theirs.mlp(theirs.post_attention_layernorm(suffix))
        if not is_last:
            prefix = prefix + ours.self_attn.o_proj(mixed[:, :P])
            prefix = prefix + ours.mlp(ours.post_attention_layernorm(prefix))
    return model.action_out_proj(model.action_expert.norm(suffix))[0, 1:]


@VARIANTS
@torch.no_grad()
def test_cached_keys_and_values_give_what_one_joint_attention_gives(
    rng: np.random.Generator, changes: dict[str, object]
) -> None:
    policy = flows.policy(**changes)
    context = policy.encode(tiny.observation(rng))
    embeddings, state = context.embeddings.clone(), context.state.clone()
    x = torch.from_numpy(noise_of(rng))
    is_visible = torch.ones(1, len(embeddings), dtype=torch.bool)
    condition = policy.model.condition(
        policy.model.prefix_keys_values(embeddings[None], is_visible), is_visible, state[None]
    )
    for t in (1.0, 0.35, 0.05):
        found = policy.model.velocity(condition, x[None, None], torch.full((1, 1), t))[0, 0]
        torch.testing.assert_close(found, joint_velocity(policy.model, embeddings, state, x, t), atol=2e-6, rtol=1e-5)


@VARIANTS
@pytest.mark.parametrize("n_steps", [1, 4])
def test_the_fast_path_gives_the_naive_chunk(
    rng: np.random.Generator, changes: dict[str, object], n_steps: int
) -> None:
    policy = flows.policy(**changes)
    naive = NaiveFlow(policy)
    for instruction in tiny.INSTRUCTIONS:  # prompts of two lengths
        context, noise = policy.encode(tiny.observation(rng, instruction)), noise_of(rng)
        fast = policy.denoise(policy.prefill(context), context, noise, n_steps)
        slow = naive.denoise(naive.prefill(context), context, noise, n_steps)
        np.testing.assert_allclose(fast, slow, atol=5e-6, rtol=1e-5)
        assert np.abs(fast - noise).max() > 0.1


@VARIANTS
def test_candidates_and_levels_in_one_forward_equal_one_by_one(
    rng: np.random.Generator, changes: dict[str, object]
) -> None:
    policy = flows.policy(**changes)
    context = policy.encode(tiny.observation(rng))
    prefix = policy.prefill(context)
    drafts, noise, levels = noise_of(rng, 3), noise_of(rng, 2), (0.1, 0.4)
    together = policy.endpoints(prefix, context, drafts, noise, levels)
    assert together.shape == (3, 2, flows.HORIZON, 7)
    for c in range(3):
        for k, level in enumerate(levels):
            alone = policy.endpoints(prefix, context, drafts[c : c + 1], noise[k], (level,))
            np.testing.assert_allclose(together[c, k], alone[0, 0], atol=5e-6, rtol=1e-5)


@torch.no_grad()
def test_an_endpoint_is_one_step_of_the_joint_attention(rng: np.random.Generator) -> None:
    policy = flows.policy()
    context = policy.encode(tiny.observation(rng))
    draft, noise = noise_of(rng), noise_of(rng)
    found = policy.endpoints(policy.prefill(context), context, draft[None], noise, (0.2,))[0, 0]
    x = noised(torch.from_numpy(draft), torch.from_numpy(noise), torch.tensor(0.2))
    v = joint_velocity(policy.model, context.embeddings.clone(), context.state.clone(), x, 0.2)
    np.testing.assert_allclose(found, x - 0.2 * v, atol=2e-6, rtol=1e-5)


def test_a_stale_prefix_is_read_with_the_state_of_now(rng: np.random.Generator) -> None:
    policy = flows.policy()
    then, now = policy.encode(tiny.observation(rng)), policy.encode(tiny.observation(rng))
    prefix, draft, noise = policy.prefill(then), noise_of(rng)[None], noise_of(rng)
    first = policy.endpoints(prefix, then, draft, noise, (0.5,))
    second = policy.endpoints(prefix, now, draft, noise, (0.5,))
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_array_equal(policy.endpoints(prefix, then, draft, noise, (0.5,)), first)
    policy.prefill(now)
    with pytest.raises(BadInput, match="overwritten"):
        policy.endpoints(prefix, now, draft, noise, (0.5,))
    with pytest.raises(BadInput, match="overwritten"):
        policy.denoise(prefix, now, noise, 2)


def test_more_chunks_than_there_is_room_for_are_refused(rng: np.random.Generator) -> None:
    policy = flows.policy()
    context = policy.encode(tiny.observation(rng))
    prefix = policy.prefill(context)
    with pytest.raises(BadInput, match="9 drafts at 2 levels are 18 chunks; at most 16"):
        policy.endpoints(prefix, context, noise_of(rng, 9), noise_of(rng), (0.1, 0.2))


def test_a_padded_prompt_changes_nothing(rng: np.random.Generator) -> None:
    model = flows.network()
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 2, 3, tiny.SIZE_PX, tiny.SIZE_PX))).float()
    ids = torch.tensor([[1, 4, 6, 0, 0], [1, 5, 7, 8, 9]])
    lengths, state = torch.tensor([3, 5]), torch.randn(2, model.state_proj.in_features)
    x, t = torch.randn(2, 3, flows.HORIZON, 7), torch.rand(2, 3)

    def answer(rows: slice, width: int) -> Tensor:
        embeddings, is_visible = model.prefix(pixels[rows], ids[rows, :width], lengths[rows])
        condition = model.condition(model.prefix_keys_values(embeddings, is_visible), is_visible, state[rows])
        return model.velocity(condition, x[rows], t[rows])

    with torch.no_grad():
        torch.testing.assert_close(answer(slice(0, 2), 5)[:1], answer(slice(0, 1), 3), atol=2e-6, rtol=1e-5)


def test_euler_solves_an_analytic_field() -> None:
    noise = torch.randn(3, 7, dtype=torch.float64)
    target = torch.randn(3, 7, dtype=torch.float64)
    for n in (1, 5):  # a straight path is solved exactly by any number of steps
        torch.testing.assert_close(integrate(lambda _x, _i: noise - target, noise, n), target)
    n = 7  # v = a x: Euler multiplies by (1 - a / N) at every step
    found = integrate(lambda x, _i: 0.8 * x, noise, n)
    torch.testing.assert_close(found, noise * (1 - 0.8 / n) ** n)
    times = euler_times(4)
    assert times == (1.0, 0.75, 0.5, 0.25)
    # v = t: the right-hand sum of the integral over [0, 1]
    by_time = integrate(lambda x, i: torch.full_like(x, times[i]), noise, 4)
    torch.testing.assert_close(by_time, noise - sum(times) / 4)


def test_levels_are_drawn_as_pi0_draws_them(rng: np.random.Generator) -> None:
    t = sample_times(rng, (20_000,))
    assert 0.001 <= t.min() <= t.max() <= 1.0
    assert t.mean() == pytest.approx(0.001 + 0.999 * 1.5 / 2.5, abs=0.01)  # Beta(1.5, 1): most near the noise
    features = time_features(torch.tensor([0.0, 0.004, 1.0]), 8)
    assert features.shape == (3, 8)
    torch.testing.assert_close(features[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    assert features[1, 0] == pytest.approx(0.0, abs=1e-6)  # one whole period of the quickest sine
    assert features[2, 3] == pytest.approx(1.0, abs=1e-6)  # a quarter of the slowest


def test_the_camera_that_changed_most_decides_about_the_prefix(rng: np.random.Generator) -> None:
    policy = flows.policy()
    seen = tiny.observation(rng)
    context = policy.encode(seen)
    assert math.isnan(context.prefix_similarity)
    policy.prefill(context)
    assert policy.encode(seen).prefix_similarity == pytest.approx(1.0, abs=1e-6)
    other = rng.integers(0, 256, seen.images["wrist"].shape, dtype=np.uint8)
    mixed = ((seen.images["wrist"].astype(int) + other) // 2).astype(np.uint8)
    dark = np.zeros_like(mixed)
    similarities = [policy.encode(with_wrist(seen, picture)).prefix_similarity for picture in (mixed, other, dark)]
    assert 0.5 < similarities[0] < 0.95
    assert abs(similarities[1]) < 0.25
    assert similarities[2] == 0.0
    blocks = seen.images["wrist"].reshape(16, 2, 16, 2, 3).mean((1, 3, 4)).ravel()
    blended = mixed.reshape(16, 2, 16, 2, 3).mean((1, 3, 4)).ravel()
    assert similarities[0] == pytest.approx(np.corrcoef(blocks, blended)[0, 1], abs=1e-5)
    patches = context.embeddings[: context.n_patches].mean(0)
    np.testing.assert_allclose(context.vision_key, patches, atol=1e-7)
    assert len(policy.encode(seen).vision_key) == policy.config.decoder.hidden_size


def with_wrist(seen: Observation, picture: np.ndarray) -> Observation:
    return Observation(dict(seen.images) | {"wrist": picture}, seen.proprio, seen.instruction, 0.0)


def test_a_blind_policy_compares_nothing(rng: np.random.Generator) -> None:
    policy = flows.policy(is_blind=True)
    context = policy.encode(tiny.observation(rng))
    policy.prefill(context)
    assert math.isnan(policy.encode(tiny.observation(rng)).prefix_similarity)
    assert context.vision_key.shape == (0,)


def test_bfloat16_stays_near_float32(rng: np.random.Generator) -> None:
    single, half = flows.policy(), flows.policy(dtype=torch.bfloat16)
    seen, noise = tiny.observation(rng), noise_of(rng)
    chunks = []
    for policy in (single, half):
        context = policy.encode(seen)
        chunks.append(policy.denoise(policy.prefill(context), context, noise, 3))
    assert np.abs(chunks[0] - chunks[1]).max() < 0.1


def test_long_prompts_are_refused(rng: np.random.Generator) -> None:
    policy = flows.policy()
    with pytest.raises(BadInput, match="reads at most 40"):
        policy.encode(tiny.observation(rng, "pick " * 50))
