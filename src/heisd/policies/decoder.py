"""A Llama decoder whose weights carry the names that transformers gives them.

This is the form that is trained and stored. Inference runs :class:`heisd.policies.runtime.DecoderRuntime`,
which is built from it and computes the same function with a cache. Shapes: B batch, S positions, d width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.config import DecoderConfig


def rotary_table(config: DecoderConfig, n_positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, (n_positions, head_dim) each, halves repeated as transformers does."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float32), config.rope_theta**-half)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary angles to the last axis of ``x``; ``cos`` and ``sin`` broadcast against it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.n_heads = config.n_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, S, d = x.shape
        q, k, v = (
            proj(x).view(B, S, self.n_heads, -1).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, S, d))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Pre-normalised attention and feed-forward, each added to the stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class LlamaModel(nn.Module):
    """Embedding, layers and the last norm (``model.*`` in a checkpoint)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
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
