"""The parallel drafter: all seven tokens of an action in one pass over the target's prompt embeddings.

It needs nothing that the language model computes, so its guesses are ready before the prefill and are checked inside
it. Seven learned queries, one a token, carry the last executed tokens, what moved, and a summary of the prompt; they
read the prompt embeddings by cross-attention (:class:`ReadBlock`) and end in 256 bin logits each.

Behind settled tokens its guesses at the others stay what they were. A second network that corrected them by what had
been settled and by the target's hidden state was built and taken out again: it cost more time than it saved.

The form that is trained; :mod:`heisd.policies.drafter_runtime` computes the same in as few operations as possible.
Shapes: B batch, P prompt positions, D their width, T tokens of an action, W the drafter's width.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.codec import N_BINS
from heisd.policies.config import Frozen
from heisd.policies.proprio import FLAT_SIZE
from heisd.types import FloatArray, IntArray

N_PAST = 3  # executed actions whose values are features
N_EMBEDDED = 2  # of these, the newest: their tokens are also embedded
MISSING = N_BINS  # stands for the bin of a token that does not exist
STEP_M, FINGER_M, FINGER_M_S = 0.01, 0.04, 0.1  # scales of motion features
_FINGER_SCALES = np.array([FINGER_M, FINGER_M, FINGER_M_S, FINGER_M_S])
_NORM_EPS = 1e-6


class ParallelConfig(Frozen):
    """Shape of a parallel drafter. The first four follow from the policy."""

    prefix_width: int  # D
    max_prefix: int  # positions of the longest prompt
    text_start: int  # position of the first text token
    has_proprio: bool  # whether the position before it is the proprioception token
    n_tokens: int = 7  # T
    width: int = 192  # W
    n_heads: int = 4
    n_blocks: int = 2
    inner: int = 384  # of the feed-forward

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.n_heads

    @property
    def n_summary(self) -> int:
        """Numbers of a prompt's summary: motion, mean of the text, and the proprioception token if there is one."""
        return n_features(self.n_tokens) + self.prefix_width * (2 if self.has_proprio else 1)


def n_features(n_tokens: int) -> int:
    """Length of :func:`motion_features`."""
    return N_PAST * (n_tokens + 1) + 3 + 2 + 2 + 7


def motion_features(past_bins: IntArray, now: FloatArray, before: FloatArray) -> FloatArray:
    """What was done and what moved, each number of the order of 1: (…, n_features) float32.

    Args:
        past_bins: (…, N_PAST, T) bins 0-255 of the last executed actions, newest first; MISSING where there was none.
        now: (…, 25) flat proprioception.
        before: (…, 25) that of the control step before; equal to ``now`` at the first.
    """
    is_there = past_bins != MISSING
    values = (past_bins / ((N_BINS - 1) / 2) - 1.0) * is_there
    moved = (now - before) / STEP_M
    fingers = now[..., 7:11] / _FINGER_SCALES
    parts = [
        values.reshape(*values.shape[:-2], -1),
        is_there[..., 0],
        _within(moved[..., 0:3], 5.0),
        fingers[..., 0:2],
        _within(fingers[..., 2:4], 3.0),
        _within(now[..., 18:FLAT_SIZE], 3.0),
    ]
    features: FloatArray = np.concatenate(parts, axis=-1, dtype=np.float32)
    return features if np.isfinite(features).all() else np.nan_to_num(features)


def _within(values: FloatArray, limit: float) -> FloatArray:
    """np.clip takes several times as long on a handful of numbers."""
    return np.minimum(np.maximum(values, -limit), limit)


def normed(x: Tensor) -> Tensor:
    """Every row at unit root mean square, without a weight: it would be folded into the matrix behind."""
    return x * x.shape[-1] ** 0.5 / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + _NORM_EPS)  # type: ignore[no-any-return]


class ReadBlock(nn.Module):
    """Queries read the prompt, exchange what they found, and think: attention, mixing, feed-forward, each added.

    Keys and values are not computed for every prompt position; their matrices are applied on the queries' side of
    the products, which is the same function and, with seven queries and forty positions, a fraction of the work.
    """

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__()
        H, hd, W, D = config.n_heads, config.head_dim, config.width, config.prefix_width
        self.query = nn.Parameter(torch.randn(W, H * hd) * W**-0.5)
        self.key = nn.Parameter(torch.randn(H, hd, D) * D**-0.5)
        self.value = nn.Parameter(torch.randn(H, D, hd) * D**-0.5)
        self.out = nn.Parameter(torch.randn(H * hd, W) * W**-0.5 * 0.5)
        self.mix = nn.Parameter(torch.zeros(config.n_tokens, config.n_tokens))
        self.up = nn.Parameter(torch.randn(W, config.inner) * W**-0.5)
        self.down = nn.Parameter(torch.randn(config.inner, W) * config.inner**-0.5 * 0.5)

    def forward(self, x: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
        """(B, T, W) queries, (B, P, D) normalised prompt, (B, P) True where it is one -> (B, T, W)."""
        H, hd, _ = self.key.shape
        query = (normed(x) @ self.query).unflatten(-1, (H, hd)) * hd**-0.5  # type: ignore[no-untyped-call]
        scores = torch.einsum("bthd,bpd->bthp", torch.einsum("bthe,hed->bthd", query, self.key), prompt)
        share = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
        read = torch.einsum("bthp,bpd->bthd", share, prompt)
        x = x + torch.einsum("bthd,hde->bthe", read, self.value).flatten(2) @ self.out
        h = normed(x)
        return x + F.silu((h + self.mix @ h) @ self.up) @ self.down


class ParallelDrafter(nn.Module):
    """Prompt embeddings and the past -> 256 logits for every token of the action."""

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__()
        self.config = config
        T, W = config.n_tokens, config.width
        self.query = nn.Parameter(torch.randn(T, W) * 0.5)
        self.past = nn.Parameter(torch.randn(N_EMBEDDED, N_BINS + 1, W) * 0.2)
        self.position = nn.Parameter(torch.randn(config.max_prefix, config.prefix_width) * 0.2)
        self.summary = nn.Parameter(torch.randn(config.n_summary, W) * config.n_summary**-0.5)
        self.blocks = nn.ModuleList(ReadBlock(config) for _ in range(config.n_blocks))
        self.head = nn.Parameter(torch.randn(W, N_BINS) * W**-0.5 * 0.5)
        self.bias = nn.Parameter(torch.zeros(T, N_BINS))

    def forward(self, prefix: Tensor, mask: Tensor, past_bins: Tensor, features: Tensor) -> Tensor:
        """States of all tokens, (B, T, W); :meth:`logits` reads them.

        Args: ``prefix`` (B, P, D) padded on the right; ``mask`` (B, P) True where a position exists; ``past_bins``
        (B, N_EMBEDDED, T) newest first, MISSING where there was none; ``features`` (B, n_features).
        """
        config = self.config
        prompt = normed(prefix) + self.position[: prefix.shape[1]]
        text = mask.clone()
        text[:, : config.text_start] = False
        parts = [features, (prompt * text[..., None]).sum(1) / text.sum(1, keepdim=True)]
        if config.has_proprio:
            parts.append(prompt[:, config.text_start - 1])
        x = self.query + (torch.cat(parts, -1) @ self.summary)[:, None]
        for table, bins in zip(self.past, past_bins.unbind(1), strict=True):
            x = x + table[bins]
        for block in self.blocks:
            x = block(x, prompt, mask)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """(…, T, W) states -> (…, T, 256) logits in bin order."""
        return normed(states) @ self.head + self.bias
