"""Demonstrations as training batches. A batch depends on (seed, step) alone, never on what ran before."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from heisd.codec import GRIPPER, N_BINS, ActionCodec
from heisd.errors import BadInput
from heisd.policies import proprio
from heisd.policies.config import ConvTowerConfig, DecoderConfig, OpenVLAConfig, ProprioConfig
from heisd.policies.openvla import OpenVLA
from heisd.policies.target import OpenVLAPolicy
from heisd.policies.tokenizer import PromptTokenizer, WordTokenizer
from heisd.sim.demos import Demos, load_demos, require_experts
from heisd.sim.suites import suite_info
from heisd.train.augment import disturbed_bins, recoloured, shifted
from heisd.train.config import CloningConfig, TrainConfig
from heisd.train.targets import action_quantiles, holdout_mask, next_event_offset_m, waiting_mask
from heisd.types import ImageArray, IntArray

VOCABULARY_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
MAX_HOLDOUT_FRAMES = 512
FINGER_SPEEDS = slice(9, 11)  # of the flat proprioception [m/s]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of B frames, ready for the model."""

    images: Tensor  # (B, C, 3, H, W) float32 pixels 0-255
    input_ids: Tensor  # (B, L) prompt ids, padded on the right
    n_text: Tensor  # (B,) true prompt lengths
    proprio: Tensor  # (B, n_features)
    fed_tokens: Tensor  # (B, 7) vocabulary ids fed back, some disturbed
    bins: Tensor  # (B, 7) the labels, 0-255
    event_offset_m: Tensor  # (B, 3) where the gripper changes next, from the hand


RecipeT = TypeVar("RecipeT", bound=CloningConfig)


class Frames(Generic[RecipeT]):
    """Frames of demonstrations as every kind of policy sees them; knows which episodes are only for measuring."""

    def __init__(self, demos: Demos, config: RecipeT, tokenizer: WordTokenizer, scales: ProprioConfig) -> None:
        """``scales`` say how proprioception becomes features."""
        self.demos, self.config, self.tokenizer = demos, config, tokenizer
        self.fingerprint = demos.fingerprint
        self.event_offset_m = torch.from_numpy(
            next_event_offset_m(demos.proprio[:, :3], demos.actions[:, GRIPPER] > 0, demos.episode)
        )
        self.proprio = torch.from_numpy(proprio.features(demos.proprio, scales))
        self.input_ids, self.n_text = self._prompts()
        held_out = holdout_mask(demos.episode, config.holdout_every)
        speed_m_s = demos.proprio[:, FINGER_SPEEDS] @ np.array([1.0, -1.0])
        waiting = waiting_mask(speed_m_s, demos.phase, demos.actions[:, GRIPPER] > 0, demos.episode)
        self._train = np.flatnonzero(~held_out & ~waiting)
        self._holdout = np.flatnonzero(held_out)

    @property
    def suites(self) -> list[str]:
        """The suites that were demonstrated."""
        return sorted({origin.start.suite for origin in self.demos.provenance})

    def train_indices(self, step: int) -> IntArray:
        """Frames of the ``step``-th batch: the next slice of this epoch's permutation."""
        size = self.config.batch_size
        epoch, position = divmod(step, max(1, len(self._train) // size))
        order = np.random.default_rng([self.config.seed, 1, epoch]).permutation(self._train)
        return np.sort(order[position * size : (position + 1) * size])

    def holdout_indices(self) -> Iterator[IntArray]:
        """Batches of frames of held-out training episodes, evenly spread."""
        every = max(1, len(self._holdout) // MAX_HOLDOUT_FRAMES)
        frames = self._holdout[::every]
        for begin in range(0, len(frames), self.config.batch_size):
            yield frames[begin : begin + self.config.batch_size]

    def states(self, where: Tensor, rng: np.random.Generator | None) -> Tensor:
        """(B, n_features) proprioception, disturbed unless ``rng`` is None."""
        state = self.proprio[where]
        if rng is None:
            return state
        return state + self.config.proprio_noise * torch.from_numpy(rng.standard_normal(state.shape, dtype=np.float32))

    def prompts(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) ids as wide as the longest needs, and (B,) lengths."""
        n_text = self.n_text[where]
        return self.input_ids[where, : int(n_text.max())], n_text

    def images(self, index: IntArray, rng: np.random.Generator | None) -> Tensor:
        """(B, C, 3, H, W) float32 pixels, augmented unless ``rng`` is None; empty rows for a blind policy."""
        if self.config.blind:
            return torch.empty(len(index), 0)
        raw: ImageArray = self.demos.images[index]
        if rng is None:
            return _channels_first(raw)
        moved = shifted(raw, rng, self.config.max_shift_px)
        return recoloured(_channels_first(moved), rng, self.config.recolour_strength)

    def _prompts(self) -> tuple[Tensor, Tensor]:
        """(N, L) prompt ids padded with 0, and (N,) lengths."""
        ids = [self.tokenizer.encode(text) for text in self.demos.instructions]
        padded = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = tokens
        lengths = np.asarray([len(tokens) for tokens in ids])
        episode = self.demos.episode
        return torch.from_numpy(padded[episode]), torch.from_numpy(lengths[episode])


class Samples(Frames[TrainConfig]):
    """Frames with tokens as labels."""

    def __init__(self, demos: Demos, config: TrainConfig, base: OpenVLAPolicy | None = None) -> None:
        """``base`` is a policy whose training goes on: its tokens and scales stay what they are."""
        tokenizer = build_tokenizer() if base is None else words_of(base.tokenizer)
        if base is None:
            low, high = action_quantiles(demos.actions)
            self.codec = ActionCodec.from_stats(tokenizer.n_text_tokens + N_BINS, low.tolist(), high.tolist())
        else:
            self.codec = base.codec
        self.model_config = _model_config(config, demos, self.codec) if base is None else base.config
        assert self.model_config.proprio is not None
        super().__init__(demos, config, tokenizer, self.model_config.proprio)
        self.bins = torch.from_numpy(self.codec.encode_bins(demos.actions))

    @classmethod
    def load(cls, paths: Sequence[Path], config: TrainConfig, base: OpenVLAPolicy | None = None) -> "Samples":
        """Read data sets written by `heisd collect`; raises DatasetError, LeakError and BadInput."""
        require_experts(paths)
        return cls(load_demos(paths, ConvTowerConfig().image_size), config, base)

    def build_model(self) -> OpenVLA:
        """A fresh policy of the recipe's shape."""
        return OpenVLA(self.model_config)

    def train_batch(self, step: int, rng: np.random.Generator) -> Batch:
        """The ``step``-th batch, augmented with ``rng``."""
        return self._batch(self.train_indices(step), rng)

    def holdout_batches(self) -> Iterator[Batch]:
        """Frames of held-out training episodes, not augmented."""
        return (self._batch(index, None) for index in self.holdout_indices())

    def _batch(self, index: IntArray, rng: np.random.Generator | None) -> Batch:
        """Frames ``index``, augmented unless ``rng`` is None."""
        where = torch.from_numpy(index)
        bins = self.bins[where]
        fed = bins if rng is None else disturbed_bins(bins, rng, self.config.token_noise_share)
        state = self.states(where, rng)
        input_ids, n_text = self.prompts(where)
        return Batch(
            images=self.images(index, rng),
            input_ids=input_ids,
            n_text=n_text,
            proprio=state,
            fed_tokens=torch.from_numpy(self.codec.tokens_of_bins(fed.numpy())),
            bins=bins,
            event_offset_m=self.event_offset_m[where],
        )


def proprio_scales(demos: Demos) -> ProprioConfig:
    """Mean and spread of where the hand was."""
    position = demos.proprio[:, :3]
    x, y, z = position.mean(axis=0).tolist()
    sx, sy, sz = position.std(axis=0).tolist()
    return ProprioConfig(position_mean_m=(x, y, z), position_std_m=(sx, sy, sz))


def build_tokenizer() -> WordTokenizer:
    """One tokenizer for all suites."""
    return WordTokenizer.build(vocabulary_instructions())


def words_of(tokenizer: PromptTokenizer) -> WordTokenizer:
    """The tokenizer of a policy whose training goes on; BadInput for a published checkpoint's."""
    if not isinstance(tokenizer, WordTokenizer):
        raise BadInput("only a policy that this command made can be trained on, not a published checkpoint")
    return tokenizer


def _model_config(config: TrainConfig, demos: Demos, codec: ActionCodec) -> OpenVLAConfig:
    return OpenVLAConfig(
        cameras=() if config.blind else demos.cameras,
        vision=None if config.blind else ConvTowerConfig(),
        camera_embedding=not config.blind,
        proprio=proprio_scales(demos),
        action_vocab_size=codec.vocab_size,
        decoder=decoder_config(config, codec.vocab_size),
    )


def decoder_config(config: CloningConfig, vocab_size: int) -> DecoderConfig:
    """The recipe's language model."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
    )


def vocabulary_instructions() -> Iterable[str]:
    """Every instruction of the five standard suites, so that one tokenizer serves them all."""
    return [task.instruction for name in VOCABULARY_SUITES for task in suite_info(name).tasks]


def _channels_first(images: ImageArray) -> Tensor:
    """(B, C, H, W, 3) u8 -> (B, C, 3, H, W) float32."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 1, 4, 2, 3).float()
