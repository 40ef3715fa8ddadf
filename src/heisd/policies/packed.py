"""Transformer layers as they run: packed weights, keys and values in preallocated memory, few operations a row.

Computes what :class:`heisd.policies.decoder.Layer` computes (tests hold the two together). Packing, all exact up to
rounding: the norms' weights and the attention scale are folded into the matrices behind them, and so is the root of the
width, which leaves of a norm a division by the row's length; query, key and value share one matrix, gate and up
another; matrices are stored (inputs, outputs), the faster way round on CPU at one row and at fifty; rotary pairs become
neighbours, so that turning them is one complex product.
Shapes: N rows, d width, H heads, G heads of keys and values, L visible positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.config import DecoderConfig, LayerShape
from heisd.policies.decoder import Layer, rotary_table


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's matrices, each (inputs, outputs)."""

    qkv: Tensor  # (d, (H + 2G) head_dim)
    out: Tensor  # (H head_dim, d)
    gate_up: Tensor  # (d, 2f)
    down: Tensor  # (f, d)


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of one forward sit and what they see."""

    rotation: Tensor  # (N, 1, head_dim / 2) complex: the rotary angles
    mask: Tensor | None  # (N, L) additive; None: every row sees all L positions
    start: int  # cache row of the first one


class PackedLayers:
    """Inference form of a stack of layers. Not an nn.Module: it holds no parameters to train, only packed copies."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        shape: LayerShape,
        rotations: Tensor,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """``rotations`` (capacity, 1, head_dim / 2) complex, see :func:`rotation_table`."""
        self.shape, self.device, self.dtype = shape, device, dtype
        self._is_grouped = shape.n_kv_heads != shape.n_heads
        self._rotations = rotations.to(device)
        # A row's length as the norm takes it is sqrt(|x|^2 + d eps): a hypotenuse.
        self._least_square = shape.hidden_size * shape.rms_eps
        self._least_length = torch.tensor(self._least_square**0.5, device=device)
        with torch.no_grad():
            self._layers = [_pack_layer(layer, shape, dtype) for layer in layers]

    @property
    def capacity(self) -> int:
        """Positions there are rotary angles for."""
        return len(self._rotations)

    def new_data(self, n_layers: int) -> Tensor:
        """Zeros for keys and values of ``n_layers`` layers: (layers, 2, G, capacity, head_dim)."""
        shape = (n_layers, 2, self.shape.n_kv_heads, self.capacity, self.shape.head_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def stream(self, x: Tensor, rows: Rows, cache: Tensor, n_wanted: int) -> Tensor:
        """(N, d) embeddings -> (n_wanted, d) what the last layer leaves behind the last rows, before any last norm.

        Writes the rows' keys and values into ``cache`` (layers, 2, G, capacity, head_dim).
        """
        for weights, slot in zip(self._layers[:-1], cache[:-1], strict=True):
            query = self._attend_inputs(x, weights, rows, slot)
            x = self._finish_layer(x, query, weights, rows, slot, len(x))
        weights, slot = self._layers[-1], cache[-1]
        query = self._attend_inputs(x, weights, rows, slot)
        return self._finish_layer(x, query, weights, rows, slot, n_wanted)

    def normed_product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """RMS-normalised ``x`` (N, d) times ``matrix`` (d, n), in which the norm's weight is folded."""
        if len(x) == 1 and x.device.type == "cpu" and x.dtype == torch.float32:
            row = x.view(-1)  # one row has one norm, a plain number: a tenth of the general form's time
            return torch.mm(x * (float(row.dot(row)) + self._least_square) ** -0.5, matrix)
        return torch.mm(self.unit(x).to(self.dtype), matrix)

    def unit(self, x: Tensor) -> Tensor:
        """(N, d) -> float32 rows divided by their length."""
        wide = x.float()
        lengths = torch.hypot(torch.linalg.vector_norm(wide, dim=-1, keepdim=True), self._least_length)
        return wide / lengths

    def _attend_inputs(self, x: Tensor, weights: LayerWeights, rows: Rows, slot: Tensor) -> Tensor:
        """Rotated queries (N, H, head_dim); keys and values go into ``slot``."""
        H, G = self.shape.n_heads, self.shape.n_kv_heads
        qkv = self.normed_product(x, weights.qkv).view(len(x), H + 2 * G, self.shape.head_dim)
        self.store(qkv, H, rows, slot)
        return qkv.narrow(1, 0, H)

    def store(self, projected: Tensor, n_before: int, rows: Rows, slot: Tensor) -> None:
        """Turn queries and keys of (N, n_before + 2G, head_dim) in place; keys and values go into ``slot``."""
        N, G = len(projected), self.shape.n_kv_heads
        _rotate_in_place(projected.narrow(1, 0, n_before + G), rows.rotation)
        keys_values = projected.narrow(1, n_before, 2 * G).view(N, 2, G, self.shape.head_dim).permute(1, 2, 0, 3)
        slot.narrow(2, rows.start, N).copy_(keys_values)

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
        if self._is_grouped:  # queries that share keys are rows of one product
            query = query.reshape(len(keys), -1, self.shape.head_dim)
            mask = None if mask is None else mask.repeat(self.shape.n_heads // len(keys), 1)
        scores = torch.bmm(query, keys.mT) if mask is None else torch.baddbmm(mask, query, keys.mT)
        mixed = torch.bmm(scores.softmax(-1), values)  # (H, n_rows, head_dim)
        if self._is_grouped:
            mixed = mixed.view(self.shape.n_heads, n_rows, -1)
        x = torch.mm(mixed.transpose(0, 1).reshape(n_rows, -1), weights.out).add_(x)
        gate_up = self.normed_product(x, weights.gate_up)
        f = self.shape.intermediate_size
        inner = F.silu(gate_up.narrow(1, 0, f)).mul_(gate_up.narrow(1, f, f))
        return torch.mm(inner, weights.down).add_(x)


def rotation_table(config: DecoderConfig, n_positions: int) -> Tensor:
    """Rotary angles as complex numbers, (n_positions, 1, head_dim / 2)."""
    cos, sin = rotary_table(config, n_positions)
    half = config.head_dim // 2
    return torch.complex(cos[:, :half], sin[:, :half])[:, None]


def fold(weight: Tensor, norm: Tensor) -> Tensor:
    """(outputs, inputs) matrix behind a norm -> (inputs, outputs) with the norm's weight and the root of d inside."""
    return (weight.float() * (norm.float() * math.sqrt(len(norm)))).t().contiguous()


def paired(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder a projection so that the two numbers turned together (i and i + head_dim / 2) become neighbours.

    Queries and keys are reordered alike, so their products, all that attention uses, don't change.
    """
    split = weight.float().view(-1, 2, head_dim // 2, weight.shape[1])
    return split.transpose(1, 2).reshape(weight.shape)


def pack_keys_values(attention: nn.Module, norm: nn.RMSNorm, shape: LayerShape, dtype: torch.dtype) -> Tensor:
    """(d, 2G head_dim): the keys' and values' matrices of an attention, with the norm in front of it inside."""
    weights = dict(attention.named_parameters())
    both = torch.cat([paired(weights["k_proj.weight"], shape.head_dim), weights["v_proj.weight"].float()])
    return fold(both, norm.weight).to(dtype)


def _rotate_in_place(x: Tensor, rotation: Tensor) -> None:
    """Turn neighbouring pairs of ``x`` (N, heads, head_dim) by ``rotation`` (N, 1, head_dim / 2), complex."""
    pairs = x.view(*x.shape[:-1], -1, 2)
    if x.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotation)
    else:  # there is no complex bfloat16
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()).mul_(rotation)))


def _pack_layer(layer: nn.Module, shape: LayerShape, dtype: torch.dtype) -> LayerWeights:
    assert isinstance(layer, Layer)
    attention, mlp = layer.self_attn, layer.mlp
    query = paired(attention.q_proj.weight, shape.head_dim) * shape.head_dim**-0.5
    qkv = torch.cat([query, paired(attention.k_proj.weight, shape.head_dim), attention.v_proj.weight.float()])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return LayerWeights(
        qkv=fold(qkv, layer.input_layernorm.weight).to(dtype),
        out=attention.o_proj.weight.t().contiguous().to(dtype),
        gate_up=fold(gate_up, layer.post_attention_layernorm.weight).to(dtype),
        down=mlp.down_proj.weight.t().contiguous().to(dtype),
    )
