"""A flow-matching policy as a target: ``encode``, ``prefill``, ``denoise``, ``inpaint``, ``endpoints``. Batch one."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.policies import proprio
from heisd.policies.flow.inpaint import guided, training_form
from heisd.policies.flow.network import FlowNetwork
from heisd.policies.flow.runtime import ExpertRuntime, PrefixRuntime, level_rows
from heisd.policies.flow.schedule import endpoint, euler_times, integrate, noised
from heisd.policies.guidance import Guide
from heisd.policies.images import ImageStack
from heisd.policies.packed import rotation_table
from heisd.policies.seeing import packed_tower
from heisd.policies.tokenizer import PromptTokenizer
from heisd.scene import Scene
from heisd.types import FloatArray, ImageArray, Observation

GLANCE_SIDE = 16  # of the grid on which pictures are compared
_FLAT = 0.05  # length of a centred glance: below, a picture is one grey
MAX_CHUNKS = 16  # candidates times noise levels that one forward checks


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What the policy's keys and values hold; valid until its next ``prefill``."""

    n_positions: int
    glances: FloatArray  # (C, G) of the pictures they were computed from, see :func:`glance`


@dataclass(frozen=True, slots=True, eq=False)
class FlowContext:
    """One encoded observation."""

    instruction: str
    embeddings: Tensor  # (P, d): patches of every camera, then text
    n_patches: int
    state: Tensor  # (n_features,) what the robot knows of itself
    glances: FloatArray  # (C, G) one row a camera, see :func:`glance`
    prefix_similarity: float  # to the cached prefix's pictures, in [-1, 1]; NaN: none cached, or blind

    @property
    def vision_key(self) -> FloatArray:
        """(d,) float32 mean of all projected patches; empty for a blind policy."""
        if not self.n_patches:
            return np.empty(0, dtype=np.float32)
        return np.asarray(self.embeddings[: self.n_patches].float().mean(dim=0).numpy(force=True))


class FlowPolicy:
    """Runs a :class:`FlowNetwork`. The layers are packed now: after more training build a new policy.

    There is one block of keys and values: a prefill overwrites the one before. An engine that speculates relies on it
    from one control step to another, so it needs a policy of its own. Chunks are normalised
    (``ActionCodec.normalise_chunk``) and float32. Raises BadInput for a codec of another action size.
    """

    def __init__(
        self,
        model: FlowNetwork,
        tokenizer: PromptTokenizer,
        codec: ActionCodec,
        *,
        dtype: torch.dtype = torch.float32,
        max_chunks: int = MAX_CHUNKS,
        policy_hash: str = "",
    ) -> None:
        """``policy_hash`` is the identity that draft heads and stores are checked against."""
        model = model.eval()
        self.model = model if model.state_proj.weight.dtype == dtype else copy.deepcopy(model).to(dtype)
        self.config, self.tokenizer, self.codec = model.config, tokenizer, codec
        if codec.length != self.config.action_size:
            raise BadInput(f"the codec's actions have {codec.length} numbers, the policy's {self.config.action_size}")
        self.dtype, self.policy_hash = dtype, policy_hash
        self._images, self._tower = ImageStack(self.config), packed_tower(self.model)
        n_patches = model.vision_backbone.n_tokens * len(self.config.cameras) if self.config.cameras else 0
        self.max_prefix, self.max_chunks = n_patches + self.config.max_text_tokens, max_chunks
        rotations = rotation_table(self.config.decoder, self.max_prefix + 1 + max_chunks * self.config.horizon)
        self._prefix_layers = PrefixRuntime(self.model, rotations, dtype)
        self._expert = ExpertRuntime(self.model, rotations, dtype)
        self._data = self._prefix_layers.new_data(self.config.decoder.n_layers)
        self._prefix: Prefix | None = None
        self._words = lru_cache(maxsize=256)(self._embed_prompt)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._expert.device

    @property
    def horizon(self) -> int:
        """Actions of a chunk."""
        return self.config.horizon

    @torch.inference_mode()
    def encode(self, observation: Observation) -> FlowContext:
        """One pass of the towers and the projector; the prompt's embeddings are looked up."""
        embeddings, n_patches = self._words(observation.instruction), 0
        if self.config.cameras:
            patches = self.model.patches(self._images(observation.images)[None].to(self.device), self._tower)[0]
            embeddings, n_patches = torch.cat([patches, embeddings]), len(patches)
        return self._context(observation, embeddings, n_patches)

    @torch.inference_mode()
    def refreshed(self, context: FlowContext, observation: Observation) -> FlowContext:
        """The encoded pictures of ``context`` with all else of ``observation``; no pass of the towers.

        How much the raw pictures resemble the prefix's is told of today's: a dark camera needs no network to be seen.
        """
        embeddings, n_patches = context.embeddings, context.n_patches
        if observation.instruction != context.instruction:
            embeddings = torch.cat([embeddings[:n_patches], self._words(observation.instruction)])
        return self._context(observation, embeddings, n_patches)

    def _context(self, observation: Observation, embeddings: Tensor, n_patches: int) -> FlowContext:
        glances = np.stack([glance(observation.images[name]) for name in self.config.cameras] or [np.empty(0)])
        features = proprio.features(proprio.flatten(observation.proprio), self.config.proprio)
        state = torch.from_numpy(features).to(self.device, self.dtype)
        similarity = _similarity(glances, self._prefix) if n_patches else float("nan")
        return FlowContext(observation.instruction, embeddings, n_patches, state, glances, similarity)

    @torch.inference_mode()
    def prefill(self, context: FlowContext) -> Prefix:
        """Compute the prefix's keys and values."""
        self._prefix_layers.fill(context.embeddings, self._data)
        self._prefix = Prefix(len(context.embeddings), context.glances)
        return self._prefix

    @torch.inference_mode()
    def denoise(self, prefix: Prefix, context: FlowContext, noise: FloatArray, n_steps: int) -> FloatArray:
        """A chunk (H, A) from ``noise`` (H, A), by ``n_steps`` Euler steps behind the cached prefix.

        Raises BadInput for a prefix that another prefill has overwritten.
        """
        self._require(prefix)
        n, data = prefix.n_positions, self._data
        biases = [self._expert.level_bias(t) for t in euler_times(n_steps)]
        start = torch.from_numpy(noise).to(self.device, self.dtype)[None]

        def velocity(x: Tensor, i: int) -> Tensor:
            return self._expert.velocity(x, biases[i], n, data, None if i else context.state)

        return np.asarray(integrate(velocity, start, n_steps)[0].float().numpy(force=True))

    @torch.inference_mode(False)
    def inpaint(
        self, prefix: Prefix, context: FlowContext, noise: FloatArray, n_steps: int, guide: Guide
    ) -> FloatArray:
        """As :meth:`denoise`, pulled towards ``guide`` at every step (RTC): each takes a forward and a pass back.

        Raises BadInput for a prefix that another prefill has overwritten.
        """
        self._require(prefix)
        with torch.no_grad():
            before = training_form(self._data, prefix.n_positions)
            is_visible = torch.ones((1, prefix.n_positions), dtype=torch.bool, device=self.device)
            condition = self.model.condition(before, is_visible, context.state.clone()[None])
        start, times = torch.from_numpy(noise).to(self.device, self.dtype), euler_times(n_steps)

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.model.velocity(condition, x[None, None], torch.full((1, 1), t, device=self.device))[0, 0]

        made = integrate(guided(velocity, times, guide, start), start, n_steps)
        return np.asarray(made.float().numpy(force=True))

    @torch.inference_mode()
    def endpoints(
        self, prefix: Prefix, context: FlowContext, drafts: FloatArray, noise: FloatArray, levels: Sequence[float]
    ) -> FloatArray:
        """Where the expert thinks the drafts should be, (C, K, H, A), in ONE forward behind the cached prefix.

        Each of C ``drafts`` (C, H, A) is noised to each of K ``levels`` and taken back by one prediction (FLASH,
        endpoint estimates). The prefix may be of an earlier observation; the state is the context's. ``noise`` is
        (H, A), shared by all levels, or (K, H, A). Raises BadInput for a prefix that was overwritten, and for more
        chunks than the policy has room for.
        """
        self._require(prefix)
        C, K = len(drafts), len(levels)
        if self.max_chunks < C * K:
            raise BadInput(f"{C} drafts at {K} levels are {C * K} chunks; at most {self.max_chunks} fit (max_chunks)")
        n, data, H = prefix.n_positions, self._data, self.config.horizon
        draft = torch.from_numpy(drafts).to(self.device, self.dtype)[:, None]
        t = torch.tensor(levels, device=self.device, dtype=self.dtype)[:, None, None]
        x = noised(draft, torch.from_numpy(noise).to(self.device, self.dtype), t)  # (C, K, H, A)
        biases = level_rows([self._expert.level_bias(level) for level in levels], C, H)
        v = self._expert.velocity(x.flatten(0, 1), biases, n, data, context.state).view(x.shape)
        return np.asarray(endpoint(x, v, t).float().numpy(force=True))

    def _require(self, prefix: Prefix) -> None:
        if prefix is not self._prefix:
            raise BadInput("this prefix was overwritten by a later prefill; a policy caches one prefix at a time")

    def _embed_prompt(self, instruction: str) -> Tensor:
        ids = self.tokenizer.encode(instruction)
        if len(ids) > self.config.max_text_tokens:
            raise BadInput(
                f"the prompt of {instruction!r} has {len(ids)} tokens; "
                f"this policy reads at most {self.config.max_text_tokens}"
            )
        return self._prefix_layers.embedding[torch.tensor(ids)]


def glance(picture: ImageArray) -> FloatArray:
    """A picture at a glance: its grey values on a coarse grid, centred, of length 1; zeros for one without texture.

    The product of two glances is their correlation: 1 for the same picture, 0 for a camera that went dark.
    """
    grey = Scene.of(picture, GLANCE_SIDE).grey.ravel()
    centred = grey - grey.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > _FLAT else np.zeros_like(centred)


def _similarity(glances: FloatArray, prefix: Prefix | None) -> float:
    """Smallest correlation of a camera's picture with that of the prefix: one that changed is enough."""
    return float("nan") if prefix is None else float((glances * prefix.glances).sum(axis=1).min())
