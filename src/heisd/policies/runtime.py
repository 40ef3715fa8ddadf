"""The decoder as it runs: packed weights, a preallocated cache, as few operations a step as possible.

Computes what :class:`heisd.policies.decoder.LlamaDecoder` computes (tests hold the two together). Packing, all
exact up to rounding: the norms' weights and the attention scale are folded into the matrices behind them, and so is
the root of the width, which leaves of a norm a division by the row's length; query, key and value share one matrix,
gate and up another; matrices are stored (inputs, outputs), the faster way round on CPU at one row and at fifty; rotary
pairs become neighbours, so that turning them is one complex product. The last layer finishes only the rows whose next
token is asked for.
Shapes: N rows, d width, H heads, L visible positions.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.cache import KVCache
from heisd.policies.config import DecoderConfig
from heisd.policies.decoder import Layer, LlamaDecoder, rotary_table
from heisd.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's matrices, each (inputs, outputs)."""

    qkv: Tensor  # (d, 3d)
    out: Tensor  # (d, d)
    gate_up: Tensor  # (d, 2f)
    down: Tensor  # (f, d)


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of one forward sit and what they see."""

    rotation: Tensor  # (N, 1, head_dim / 2) complex: the rotary angles
    mask: Tensor | None  # (N, L) additive; None: every row sees all L positions
    start: int  # cache row of the first one


class DecoderRuntime:
    """Inference form of a decoder. Not an nn.Module: it holds no parameters to train, only packed copies."""

    def __init__(self, decoder: LlamaDecoder, capacity: int, dtype: torch.dtype) -> None:
        self.config: DecoderConfig = decoder.config
        self.capacity = capacity
        self.dtype = dtype
        self.device = decoder.lm_head.weight.device
        with torch.no_grad():
            self.embedding = decoder.model.embed_tokens.weight.detach().to(dtype)
            self._layers = [_pack_layer(layer, self.config, dtype) for layer in decoder.model.layers]
            self._head = _fold(decoder.lm_head.weight, decoder.model.norm.weight).to(dtype)
            width = self.config.hidden_size
            self._norm = decoder.model.norm.weight.detach().float() * width**0.5
            # A row's length as the norm takes it is sqrt(|x|^2 + d eps): a hypotenuse.
            self._least_square = width * self.config.rms_eps
            self._least_length = torch.tensor(self._least_square**0.5, device=self.device)
        cos, sin = rotary_table(self.config, capacity)
        half = self.config.head_dim // 2
        self._rotations = torch.complex(cos[:, :half], sin[:, :half])[:, None].to(self.device)
        self._hidden = np.triu(np.full((capacity, capacity), -np.inf, np.float32), 1)
        self._causal = torch.from_numpy(self._hidden).to(self.device, dtype)

    def new_cache(self) -> KVCache:
        """An empty cache of full capacity."""
        config = self.config
        shape = (config.n_layers, 2, config.n_heads, self.capacity, config.head_dim)
        return KVCache(torch.zeros(shape, device=self.device, dtype=self.dtype))

    def rows(self, start: int, n_chain: int, depth: IntArray | None = None, ancestors: BoolArray | None = None) -> Rows:
        """``n_chain`` consecutive rows from cache row ``start``, then the nodes of a tree behind them.

        Args: ``depth`` (T,) of the tree's nodes; ``ancestors`` (T, T) True where a node sees another.
        """
        if depth is None or ancestors is None:
            end = start + n_chain
            mask = None if n_chain == 1 else self._causal[start:end, :end]
            return Rows(self._rotations[start:end], mask, start)
        first_node = start + n_chain
        end = first_node + len(depth)
        # numpy: on a few numbers its operations take a third of torch's time
        positions = first_node + depth
        hidden = np.zeros((end - start, end), np.float32)
        if n_chain:
            positions = np.concatenate([np.arange(start, first_node), positions])
            hidden[:n_chain] = self._hidden[start:first_node, :end]
        np.copyto(hidden[n_chain:, first_node:], -np.inf, where=~ancestors)
        rotation = self._rotations.index_select(0, torch.from_numpy(positions).to(self.device))
        return Rows(rotation, torch.from_numpy(hidden).to(self.device, self.dtype), start)

    def level(self, root: int, n_before: int, depth: Tensor, visible: Tensor) -> Rows:
        """Further nodes of a tree behind ``root`` committed positions, ``n_before`` of whose nodes were read before.

        Args: ``depth`` (N,) of the new nodes; ``visible`` (N, n_before + N) True where one sees a node.
        """
        start = root + n_before
        mask = torch.zeros(len(depth), start + len(depth), device=self.device, dtype=self.dtype)
        mask[:, root:].masked_fill_(~visible, float("-inf"))
        return Rows(self._rotations[root + depth], mask, start)

    def forward(self, x: Tensor, rows: Rows, cache: Tensor, n_wanted: int, states: Tensor | None = None) -> Tensor:
        """(N, d) embeddings -> (n_wanted, vocab) float32 logits behind the last ``n_wanted`` rows.

        Writes the rows' keys and values into ``cache`` (layers, 2, H, capacity, head_dim), and into ``states`` (S, d),
        if given, the hidden states of the last S rows. The logits are computed alike whether states are kept or not.
        """
        n_finished = n_wanted if states is None else max(n_wanted, len(states))
        stream = self.stream(x, rows, cache, n_finished)
        if states is not None:
            states.copy_(self._normed(stream[n_finished - len(states) :]))
        wanted = stream if n_finished == n_wanted else stream[-n_wanted:]
        return self._normed_product(wanted, self._head).float()

    def stream(self, x: Tensor, rows: Rows, cache: Tensor, n_wanted: int) -> Tensor:
        """(N, d) embeddings -> (n_wanted, d) what the last layer leaves behind the last rows, before the last norm."""
        for weights, slot in zip(self._layers[:-1], cache[:-1], strict=True):
            query = self._attend_inputs(x, weights, rows, slot)
            x = self._finish_layer(x, query, weights, rows, slot, len(x))
        weights, slot = self._layers[-1], cache[-1]
        query = self._attend_inputs(x, weights, rows, slot)
        return self._finish_layer(x, query, weights, rows, slot, n_wanted)

    def _normed(self, x: Tensor) -> Tensor:
        """(N, d) stream -> hidden states, as the head sees them."""
        return self._unit(x).mul_(self._norm).to(self.dtype)

    def _unit(self, x: Tensor) -> Tensor:
        """(N, d) -> float32 rows divided by their length."""
        wide = x.float()
        lengths = torch.hypot(torch.linalg.vector_norm(wide, dim=-1, keepdim=True), self._least_length)
        return wide / lengths

    def _attend_inputs(self, x: Tensor, weights: LayerWeights, rows: Rows, slot: Tensor) -> Tensor:
        """Rotated queries (N, H, head_dim); keys and values go into ``slot``."""
        N, H, head_dim = len(x), self.config.n_heads, self.config.head_dim
        qkv = self._normed_product(x, weights.qkv).view(N, 3 * H, head_dim)
        _rotate_in_place(qkv.narrow(1, 0, 2 * H), rows.rotation)
        keys_values = qkv.narrow(1, H, 2 * H).view(N, 2, H, head_dim).permute(1, 2, 0, 3)
        slot.narrow(2, rows.start, N).copy_(keys_values)
        return qkv.narrow(1, 0, H)

    def _finish_layer(
        self, x: Tensor, query: Tensor, weights: LayerWeights, rows: Rows, slot: Tensor, n_rows: int
    ) -> Tensor:
        """Attention and feed-forward of the last ``n_rows`` rows, added to the stream."""
        visible = slot.narrow(2, 0, rows.start + len(x))
        mask = rows.mask
        if n_rows < len(x):
            x, query = x[-n_rows:], query[-n_rows:]
            mask = None if mask is None else mask[-n_rows:]
        keys, values = visible.unbind()
        query = query.transpose(0, 1)
        scores = torch.bmm(query, keys.mT) if mask is None else torch.baddbmm(mask, query, keys.mT)
        mixed = torch.bmm(scores.softmax(-1), values)  # (H, n_rows, head_dim)
        x = torch.mm(mixed.transpose(0, 1).reshape(n_rows, -1), weights.out).add_(x)
        gate_up = self._normed_product(x, weights.gate_up)
        f = self.config.intermediate_size
        inner = F.silu(gate_up.narrow(1, 0, f)).mul_(gate_up.narrow(1, f, f))
        return torch.mm(inner, weights.down).add_(x)

    def _normed_product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """RMS-normalised ``x`` (N, d) times ``matrix`` (d, n)."""
        if len(x) == 1 and x.device.type == "cpu" and x.dtype == torch.float32:
            row = x.view(-1)  # one row has one norm, a plain number: a tenth of the general form's time
            return torch.mm(x * (float(row.dot(row)) + self._least_square) ** -0.5, matrix)
        return torch.mm(self._unit(x).to(self.dtype), matrix)


def _rotate_in_place(x: Tensor, rotation: Tensor) -> None:
    """Turn neighbouring pairs of ``x`` (N, heads, head_dim) by ``rotation`` (N, 1, head_dim / 2), complex."""
    pairs = x.view(*x.shape[:-1], -1, 2)
    if x.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotation)
    else:  # there is no complex bfloat16
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()).mul_(rotation)))


def _fold(weight: Tensor, norm: Tensor) -> Tensor:
    """(outputs, inputs) matrix behind a norm -> (inputs, outputs) with the norm's weight and the root of d inside."""
    return (weight.float() * (norm.float() * math.sqrt(len(norm)))).t().contiguous()


def _paired(weight: Tensor, config: DecoderConfig) -> Tensor:
    """Reorder a projection so that the two numbers turned together (i and i + head_dim / 2) become neighbours.

    Queries and keys are reordered alike, so their products, all that attention uses, don't change.
    """
    split = weight.float().view(config.n_heads, 2, config.head_dim // 2, -1)
    return split.transpose(1, 2).reshape(weight.shape)


def _pack_layer(layer: nn.Module, config: DecoderConfig, dtype: torch.dtype) -> LayerWeights:
    assert isinstance(layer, Layer)
    attention, mlp = layer.self_attn, layer.mlp
    query = _paired(attention.q_proj.weight, config) * config.head_dim**-0.5
    qkv = torch.cat([query, _paired(attention.k_proj.weight, config), attention.v_proj.weight.float()])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return LayerWeights(
        qkv=_fold(qkv, layer.input_layernorm.weight).to(dtype),
        out=attention.o_proj.weight.t().contiguous().to(dtype),
        gate_up=_fold(gate_up, layer.post_attention_layernorm.weight).to(dtype),
        down=mlp.down_proj.weight.t().contiguous().to(dtype),
    )
