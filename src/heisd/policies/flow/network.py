"""A pi0-shaped network (arXiv 2410.24164) at any size: a prefix that sees, an action expert that denoises chunks.

Three blocks of positions, each seeing itself and those before it: [patches of every camera, text] in the language
model; [state] and [H noisy actions] in the action expert, which is a second, narrower stack of layers with its own
weights. The stacks meet in attention alone: in every layer the expert's queries read the language model's keys and
values. Nothing in the prefix depends on state, noise or level, so its keys and values are computed once.

The names below are those of LeRobot's pi0 (``language_model``, ``action_expert`` for ``gemma_expert.model``,
``state_proj``, ``action_in_proj``, ``action_time_mlp_in``, ``action_time_mlp_out``, ``action_out_proj``; docs/flow.md).
This is the form that is trained and stored; :mod:`heisd.policies.flow.policy` runs it fast.
Shapes: B batch, P prefix positions, H horizon, A action numbers, M draws of noise, d and w widths, G heads of keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies import proprio
from heisd.policies.config import DecoderConfig, LayerShape
from heisd.policies.decoder import Layer, rotary_table, rotate, split_heads
from heisd.policies.flow.config import FlowConfig
from heisd.policies.flow.schedule import time_features
from heisd.policies.initialise import scale_by_fan_in
from heisd.policies.seeing import SeeingNetwork

KeysValues = tuple[tuple[Tensor, Tensor], ...]  # per layer: keys and values, (B, G, positions, head_dim)


class KeysValuesAttention(nn.Module):
    """The part of an attention that others read."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        width = shape.n_kv_heads * shape.head_dim
        self.head_dim = shape.head_dim
        self.k_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, d) -> turned keys, and values."""
        k, v = split_heads(self.k_proj(x), self.head_dim), split_heads(self.v_proj(x), self.head_dim)
        return rotate(k, cos, sin).to(v.dtype), v


class LastPrefixLayer(nn.Module):
    """The language model's last layer: only its keys and values are ever read, so that is all it has."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.self_attn = KeysValuesAttention(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, d) -> keys and values."""
        return self.self_attn(self.input_layernorm(x), cos, sin)  # type: ignore[no-any-return]


class PrefixModel(nn.Module):
    """Embedding of words, and the layers that turn a prefix into keys and values."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        shape = config.layer_shape
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        whole = [Layer(shape) for _ in range(config.n_layers - 1)]
        self.layers = nn.ModuleList([*whole, LastPrefixLayer(shape)])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> KeysValues:
        """(B, P, d) embeddings -> keys and values of every layer."""
        found = []
        for layer in cast(Sequence[Layer], self.layers[:-1]):
            q, k, v = layer.project(x, cos, sin)
            x = layer.finish(x, q, k, v, mask)
            found.append((k, v))
        return (*found, self.layers[-1](x, cos, sin))


class ActionExpert(nn.Module):
    """The second stack, as many layers as the language model has."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        shape = config.expert_shape
        self.layers = nn.ModuleList(Layer(shape) for _ in range(config.decoder.n_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, before: KeysValues, mask: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """Rows (B, S, w) behind ``before``, all of which see each other -> states, and all keys and values so far."""
        found = []
        for layer, (keys, values) in zip(cast(Sequence[Layer], self.layers), before, strict=True):
            q, k, v = layer.project(x, cos, sin)
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            x = layer.finish(x, q, k, v, mask)
            found.append((k, v))
        return self.norm(x), tuple(found)


@dataclass(frozen=True, slots=True)
class Condition:
    """What noisy actions read: the prefix and, behind it, the state."""

    keys_values: KeysValues  # positions P + 1, padding among them
    is_visible: Tensor  # (B, P + 1) bool
    n_before: Tensor  # (B,) true positions before the actions
    state: Tensor  # (B, w) what the expert made of the state token; read by auxiliary losses alone


class FlowNetwork(SeeingNetwork):
    """The whole network."""

    def __init__(self, config: FlowConfig, *, is_fresh: bool = True) -> None:
        """``is_fresh=False`` skips the initial weights of a policy that is about to be loaded."""
        super().__init__()
        self.config = config
        w = config.expert.hidden_size
        self.language_model = PrefixModel(config.decoder)
        self.open_eyes(config)
        self.action_expert = ActionExpert(config)
        self.state_proj = nn.Linear(proprio.n_features(config.proprio), w)
        self.action_in_proj = nn.Linear(config.action_size, w)
        self.action_time_mlp_in = nn.Linear(2 * w, w)
        self.action_time_mlp_out = nn.Linear(w, w)
        self.action_out_proj = nn.Linear(w, config.action_size)
        if is_fresh:
            scale_by_fan_in(self.language_model, config.decoder.n_layers)
            scale_by_fan_in(self.action_expert, config.decoder.n_layers)
            nn.init.normal_(self.language_model.embed_tokens.weight, std=0.5)

    def prefix(self, images: Tensor, input_ids: Tensor, n_text: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, P, d) of patches and text, and (B, P) True where a position is no padding.

        Args: ``images`` (B, C, 3, H, W) pixels, ignored by a blind policy; ``input_ids`` (B, L), BOS first, padded on
        the right with anything; ``n_text`` (B,) true lengths.
        """
        words = self.language_model.embed_tokens(input_ids)
        is_text = torch.arange(input_ids.shape[1], device=input_ids.device) < n_text[:, None]
        if not self.config.cameras:
            return words, is_text
        patches = self.patches(images).to(words.dtype)
        is_patch = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        return torch.cat([patches, words], 1), torch.cat([is_patch, is_text], 1)

    def prefix_keys_values(self, embeddings: Tensor, is_visible: Tensor) -> KeysValues:
        """Keys and values of every layer; every position sees every other one that is no padding."""
        cos, sin = self._angles(embeddings.shape[1], embeddings.device)
        return self.language_model(embeddings, cos, sin, is_visible[:, None, None])  # type: ignore[no-any-return]

    def condition(self, prefix: KeysValues, is_visible: Tensor, state: Tensor) -> Condition:
        """Read the state behind the prefix. Args: ``is_visible`` (B, P); ``state`` (B, n_features)."""
        n_before = is_visible.sum(1)
        cos, sin = self._angles(is_visible.shape[1] + 1, state.device)
        cos, sin = cos[n_before][:, None, None], sin[n_before][:, None, None]
        is_visible = F.pad(is_visible, (0, 1), value=True)
        row = self.state_proj(state)[:, None]
        made, keys_values = self.action_expert(row, cos, sin, prefix, is_visible[:, None, None])
        return Condition(keys_values, is_visible, n_before + 1, made[:, 0])

    def velocity(self, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, M, H, A) of ``x`` (B, M, H, A) at levels ``t`` (B, M); the M chunks do not see each other."""
        B, M, H, _ = x.shape
        positions = (condition.n_before[:, None] + torch.arange(H, device=x.device)).repeat(1, M)
        cos, sin = self._angles(condition.is_visible.shape[1] + H, x.device)
        cos, sin = cos[positions][:, None], sin[positions][:, None]
        chunk = torch.arange(M, device=x.device).repeat_interleave(H)
        own = (chunk == chunk[:, None]).expand(B, -1, -1)
        before = condition.is_visible[:, None].expand(-1, M * H, -1)
        rows, mask = self.embed_actions(x, t).flatten(1, 2), torch.cat([before, own], -1)[:, None]
        made, _ = self.action_expert(rows, cos, sin, condition.keys_values, mask)
        return self.action_out_proj(made).unflatten(1, (M, H))  # type: ignore[no-any-return]

    def embed_actions(self, x: Tensor, t: Tensor) -> Tensor:
        """Noisy actions (…, H, A) at levels (…,) -> (…, H, w)."""
        actions = self.action_in_proj(x)
        level = time_features(t, actions.shape[-1])[..., None, :].expand_as(actions).to(actions.dtype)
        return self.action_time_mlp_out(F.silu(self.action_time_mlp_in(torch.cat([actions, level], -1))))  # type: ignore[no-any-return]

    def _angles(self, n_positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        cos, sin = rotary_table(self.config.decoder, n_positions)
        return cos.to(device), sin.to(device)
