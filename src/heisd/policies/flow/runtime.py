"""A flow-matching network as it runs at batch one: packed layers, one static block of keys and values.

Rows of the block: the prefix, the state behind it, then the noisy actions of one forward, which the next forward
overwrites. Several chunks (candidates, noise levels) are rows of one forward that do not see each other. Folded away:
everything between a noisy action and the activation of its embedding is one matrix, the part that depends on the level
one vector a level, computed once (Realtime-VLA, arXiv 2510.26742, does both).
Shapes: P prefix positions, N chunks, H horizon, A action numbers, d and w widths.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.flow.network import FlowNetwork, LastPrefixLayer
from heisd.policies.flow.schedule import time_features
from heisd.policies.packed import PackedLayers, Rows, fold, pack_keys_values


class PrefixRuntime(PackedLayers):
    """Embeddings -> keys and values; what nobody reads of the last layer is not computed."""

    def __init__(self, network: FlowNetwork, rotations: Tensor, dtype: torch.dtype) -> None:
        layers, shape = list(network.language_model.layers), network.config.decoder.layer_shape
        embedding = network.language_model.embed_tokens.weight
        super().__init__(layers[:-1], shape, rotations, embedding.device, dtype)
        self.embedding = embedding.detach().to(dtype)
        last = layers[-1]
        assert isinstance(last, LastPrefixLayer)
        with torch.no_grad():
            self._last = pack_keys_values(last.self_attn, last.input_layernorm, shape, dtype)

    def fill(self, x: Tensor, data: Tensor) -> None:
        """Read (P, d) embeddings, all of which see each other, into the first P positions."""
        rows = Rows(self._rotations[: len(x)], None, 0)
        for weights, slot in zip(self._layers, data[:-1], strict=True):
            query = self._attend_inputs(x, weights, rows, slot)
            x = self._finish_layer(x, query, weights, rows, slot, len(x))
        projected = self.normed_product(x, self._last).view(len(x), -1, self.shape.head_dim)
        self.store(projected, 0, rows, data[-1])


class ExpertRuntime(PackedLayers):
    """State and noisy actions behind a prefix."""

    def __init__(self, network: FlowNetwork, rotations: Tensor, dtype: torch.dtype) -> None:
        layers, shape = list(network.action_expert.layers), network.config.expert_shape
        super().__init__(layers, shape, rotations, network.action_in_proj.weight.device, dtype)
        self._horizon = network.config.horizon
        with torch.no_grad():
            self._state, self._state_bias = _linear(network.state_proj, dtype)
            self._out_bias = network.action_out_proj.bias.detach().to(dtype)
            self._out = fold(network.action_out_proj.weight, network.action_expert.norm.weight).to(dtype)
            self._embed_out, self._embed_out_bias = _linear(network.action_time_mlp_out, dtype)
            mixing = network.action_time_mlp_in.weight.float()
            of_action, self._of_level = mixing[:, : shape.hidden_size], mixing[:, shape.hidden_size :]
            into = network.action_in_proj
            self._embed = (of_action @ into.weight.float()).t().contiguous().to(dtype)  # (A, w)
            self._embed_bias = of_action @ into.bias.float() + network.action_time_mlp_in.bias.float()
        self.level_bias = lru_cache(maxsize=256)(self._level_bias)
        self._places = lru_cache(maxsize=64)(self._rows)

    def velocity(
        self, x: Tensor, level_bias: Tensor, n_prefix: int, data: Tensor, state: Tensor | None = None
    ) -> Tensor:
        """(N, H, A) noisy chunks -> (N, H, A) velocities, all in one forward.

        Args: ``level_bias`` (w,) of :meth:`level_bias` for one level, or (N * H, w) with each row's own; ``n_prefix``
        positions of the prefix in ``data``; ``state`` (n_features,) is read in the same forward and stays behind the
        prefix, so that later forwards for the same observation go without it.
        """
        n_rows = x.shape[0] * x.shape[1]
        h = F.silu(torch.addmm(level_bias, x.reshape(n_rows, -1), self._embed))
        h = torch.addmm(self._embed_out_bias, h, self._embed_out)
        if state is not None:
            h = torch.cat([torch.addmm(self._state_bias, state[None], self._state), h])
        h = self.stream(h, self._places(n_prefix, x.shape[0], state is not None), data, n_rows)
        return (self.normed_product(h, self._out) + self._out_bias).view(x.shape)

    def _level_bias(self, t: float) -> Tensor:
        """(w,) what a noise level adds to every action's embedding, before its activation."""
        features = time_features(torch.tensor(t, device=self.device), self.shape.hidden_size)
        bias: Tensor = self._of_level @ features + self._embed_bias
        return bias.to(self.dtype)

    def _rows(self, n_prefix: int, n_chunks: int, has_state: bool) -> Rows:
        """Rows of ``n_chunks`` chunks that stand at the same positions; each sees prefix, state and itself."""
        first, H = n_prefix + 1, self._horizon
        start = n_prefix if has_state else first
        rotation = torch.cat([self._rotations[start:first], self._rotations[first : first + H].repeat(n_chunks, 1, 1)])
        if n_chunks == 1 and not has_state:
            return Rows(rotation, None, start)
        # Blocks: the state sees what is before it, a chunk also itself.
        block = torch.arange(n_chunks, device=self.device).repeat_interleave(H)
        hidden = torch.zeros(n_chunks * H, first + n_chunks * H, dtype=torch.bool, device=self.device)
        hidden[:, first:] = block[:, None] != block
        if has_state:
            of_state = torch.arange(hidden.shape[1], device=self.device) >= first
            hidden = torch.cat([of_state[None], hidden])
        mask = torch.zeros(hidden.shape, device=self.device, dtype=self.dtype)
        return Rows(rotation, mask.masked_fill_(hidden, float("-inf")), start)


def level_rows(biases: Sequence[Tensor], n_candidates: int, horizon: int) -> Tensor:
    """(K) biases of K levels -> one row for every action of C candidates at K levels each, (C * K * H, w)."""
    return torch.stack(list(biases)).repeat_interleave(horizon, 0).repeat(n_candidates, 1)


def _linear(layer: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return layer.weight.detach().t().contiguous().to(dtype), layer.bias.detach().to(dtype)
