"""A Llama decoder whose weights carry the names that transformers gives them.

This is the form that is trained and stored. Inference runs :class:`heisd.policies.runtime.DecoderRuntime`,
which is built from it and computes the same function with a cache. Shapes: B batch, S positions, d width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.config import DecoderConfig, LayerShape


def rotary_table(config: DecoderConfig, n_positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, (n_positions, head_dim) each, halves repeated as transformers does."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float32), config.rope_theta**-half)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary angles to the last axis of ``x``; ``cos`` and ``sin`` broadcast against it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, S, heads * head_dim) -> (B, heads, S, head_dim)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)  # type: ignore[no-any-return, no-untyped-call]


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        d, n_query, n_kv = shape.hidden_size, shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        self.head_dim, self.is_grouped = shape.head_dim, shape.n_kv_heads != shape.n_heads
        self.q_proj = nn.Linear(d, n_query, bias=False)
        self.k_proj, self.v_proj = nn.Linear(d, n_kv, bias=False), nn.Linear(d, n_kv, bias=False)
        self.o_proj = nn.Linear(n_query, d, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, d) -> queries, keys and values, (B, heads, S, head_dim), the first two turned to their positions."""
        q, k, v = (split_heads(proj(x), self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, d). ``mask`` True where a query sees a key; None: causal."""
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.is_grouped
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        d, f = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Pre-normalised attention and feed-forward, each added to the stream."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.finish(x, *self.project(x, cos, sin), mask=None)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first half: queries, keys and values of the stream, (B, heads, S, head_dim)."""
        return self.self_attn.project(self.input_layernorm(x), cos, sin)

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The second half. Keys and values may be of more positions than the stream; ``mask`` as in Attention."""
        x = x + self.self_attn.mix(q, k, v, mask)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class LlamaModel(nn.Module):
    """Embedding, layers and the last norm (``model.*`` in a checkpoint)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config.layer_shape) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_eps)


class LlamaDecoder(nn.Module):
    """The decoder with its head (``language_model.*`` in an OpenVLA checkpoint)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def embed(self, token_ids: Tensor) -> Tensor:
        """(…,) int64 ids -> (…, d)."""
        return self.model.embed_tokens(token_ids)  # type: ignore[no-any-return]

    def hidden(self, embeddings: Tensor) -> Tensor:
        """(B, S, d) embeddings at positions 0…S-1, causal -> (B, S, d) states behind the last norm."""
        cos, sin = (t.to(embeddings.device) for t in rotary_table(self.config, embeddings.shape[1]))
        x = embeddings
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, S, d) embeddings -> (B, S, vocab_size) logits."""
        return self.lm_head(self.hidden(embeddings))  # type: ignore[no-any-return]
