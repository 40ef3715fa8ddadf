"""Demonstrations as chunks for flow matching. A batch depends on (seed, step) alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heisd.codec import ActionCodec
from heisd.policies.config import ConvTowerConfig, SamplingConfig
from heisd.policies.flow.bundle import FLOW_VOCABULARY
from heisd.policies.flow.config import ExpertConfig, FlowConfig
from heisd.policies.flow.network import FlowNetwork
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.flow.schedule import sample_times
from heisd.sim.demos import Demos, load_demos, require_experts
from heisd.train.config import FlowRecipe
from heisd.train.data import Frames, build_tokenizer, decoder_config, proprio_scales, words_of
from heisd.train.targets import action_quantiles, chunk_indices
from heisd.types import IntArray


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """B frames, each with M draws of noise."""

    images: Tensor  # (B, C, 3, H, W) float32 pixels 0-255
    input_ids: Tensor  # (B, L) prompt ids, padded on the right
    n_text: Tensor  # (B,) true prompt lengths
    proprio: Tensor  # (B, n_features)
    actions: Tensor  # (B, H, A) the labels, normalised
    noise: Tensor  # (B, M, H, A)
    t: Tensor  # (B, M) levels
    event_offset_m: Tensor  # (B, 3) where the gripper changes next, from the hand


class FlowSamples(Frames[FlowRecipe]):
    """Frames with the actions that follow as labels.

    A chunk that reaches beyond its episode repeats the last action, as openpi's data loader does. Chunks do not begin
    at frames in which an expert only waits, but may contain them: executed in a row they are over after two steps.
    """

    def __init__(self, demos: Demos, config: FlowRecipe, base: FlowPolicy | None = None) -> None:
        """``base`` is a policy whose training goes on: its words and scales stay what they are."""
        tokenizer = build_tokenizer() if base is None else words_of(base.tokenizer)
        if base is None:
            low, high = action_quantiles(demos.actions)
            self.codec = ActionCodec.from_stats(FLOW_VOCABULARY, low.tolist(), high.tolist())
        else:
            self.codec = base.codec
        sampling = SamplingConfig(
            euler_steps=config.euler_steps, executed=config.executed, noise_scale=config.noise_scale
        )
        fresh = _model_config(config, demos, tokenizer.n_text_tokens, self.codec.length, sampling)
        self.model_config = fresh if base is None else base.config.model_copy(update={"sampling": sampling})
        super().__init__(demos, config, tokenizer, self.model_config.proprio)
        self.actions = torch.from_numpy(self.codec.normalise_chunk(demos.actions).astype(np.float32))
        self._chunks = torch.from_numpy(chunk_indices(demos.episode, self.model_config.horizon))

    @classmethod
    def load(cls, paths: Sequence[Path], config: FlowRecipe, base: FlowPolicy | None = None) -> "FlowSamples":
        """Read data sets written by `heisd collect`; raises DatasetError, LeakError and BadInput."""
        require_experts(paths)
        return cls(load_demos(paths, ConvTowerConfig().image_size), config, base)

    def build_model(self) -> FlowNetwork:
        """A fresh policy of the recipe's shape."""
        return FlowNetwork(self.model_config)

    def train_batch(self, step: int, rng: np.random.Generator) -> FlowBatch:
        """The ``step``-th batch; augmentation, noise and levels from ``rng``."""
        return self._batch(self.train_indices(step), rng, is_augmented=True)

    def holdout_batches(self) -> Iterator[FlowBatch]:
        """Frames of held-out training episodes, not augmented; the same noise every time."""
        rng = np.random.default_rng(self.config.seed)
        return (self._batch(index, rng, is_augmented=False) for index in self.holdout_indices())

    def _batch(self, index: IntArray, rng: np.random.Generator, *, is_augmented: bool) -> FlowBatch:
        where, augmenting = torch.from_numpy(index), rng if is_augmented else None
        state = self.states(where, augmenting)
        images = self.images(index, augmenting)
        input_ids, n_text = self.prompts(where)
        actions = self.actions[self._chunks[where]]
        B, H, A = actions.shape
        M = self.config.draws
        return FlowBatch(
            images=images,
            input_ids=input_ids,
            n_text=n_text,
            proprio=state,
            actions=actions,
            noise=torch.from_numpy(rng.standard_normal((B, M, H, A), dtype=np.float32)),
            t=torch.from_numpy(sample_times(rng, (B, M))),
            event_offset_m=self.event_offset_m[where],
        )


def _model_config(
    config: FlowRecipe, demos: Demos, n_words: int, action_size: int, sampling: SamplingConfig
) -> FlowConfig:
    return FlowConfig(
        cameras=() if config.blind else demos.cameras,
        vision=None if config.blind else ConvTowerConfig(),
        camera_embedding=not config.blind,
        proprio=proprio_scales(demos),
        decoder=decoder_config(config, n_words),
        expert=ExpertConfig(hidden_size=config.expert_hidden_size, intermediate_size=config.expert_intermediate_size),
        action_size=action_size,
        horizon=config.horizon,
        sampling=sampling,
    )
