"""A tiny policy with its recorded episodes, for tests of drafters."""

from pathlib import Path

import numpy as np
import torch

import tiny_policies as tiny
from heisd.policies.bundle import load_policy, save_policy
from heisd.policies.drafter import ParallelConfig, ParallelDrafter
from heisd.policies.drafter_eagle import EagleDrafter
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.splits import EpisodeStart
from heisd.train.drafter_data import DrafterSamples
from heisd.train.rollouts import Rollout, RolloutJob, WatchedPolicy, load, write_episode
from heisd.types import FloatArray, Observation

N_STEPS = 8


class FakeEnv:
    """Random observations; the episode is over after N_STEPS."""

    instruction = tiny.INSTRUCTIONS[0]

    def __init__(self, seed: int) -> None:
        self._rng, self._step = np.random.default_rng(seed), 0
        self.seen: list[Observation] = []

    def reset(self, start: EpisodeStart) -> tuple[Observation, dict[str, object]]:  # noqa: ARG002
        self._step = 0
        return self._observe(), {}

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, object]]:  # noqa: ARG002
        self._step += 1
        return self._observe(), 0.0, False, self._step == N_STEPS, {}

    def _observe(self) -> Observation:
        self.seen.append(tiny.observation(self._rng, self.instruction))
        return self.seen[-1]


def stored_policy(directory: Path, seed: int = 0) -> OpenVLAPolicy:
    """A tiny policy that has an identity: it was stored and loaded."""
    model = tiny.network(seed)
    return load_policy(save_policy(directory, model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size)))


def rollout(policy: OpenVLAPolicy, out: Path, number: int = 0) -> Rollout:
    """Play, write and read back one episode."""
    start = EpisodeStart("libero_object", number, 0, None)
    job = RolloutJob(start, "tiny", policy.policy_hash, out)
    write_episode(job, FakeEnv(number), WatchedPolicy(policy))
    return load(job.path, policy.policy_hash)


def samples(policy: OpenVLAPolicy, out: Path, n_episodes: int = 4) -> DrafterSamples:
    """Some episodes, the first of which measures."""
    rollouts = [rollout(policy, out, number) for number in range(n_episodes)]
    return DrafterSamples(rollouts, [number == 0 for number in range(n_episodes)], policy)


def parallel(policy: OpenVLAPolicy, seed: int = 0) -> ParallelDrafter:
    """A random parallel drafter no part of which is trivial."""
    torch.manual_seed(seed)
    config = ParallelConfig(
        prefix_width=policy.config.decoder.hidden_size, max_prefix=policy.max_prefix, text_start=policy.text_start,
        has_proprio=True, width=24, n_heads=2, n_blocks=2, inner=40,
    )  # fmt: skip
    drafter = ParallelDrafter(config)
    for parameter in drafter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return drafter


def eagle(policy: OpenVLAPolicy, seed: int = 0) -> EagleDrafter:
    """A random EAGLE drafter."""
    torch.manual_seed(seed)
    drafter = EagleDrafter(policy.config.decoder)
    for parameter in drafter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return drafter
