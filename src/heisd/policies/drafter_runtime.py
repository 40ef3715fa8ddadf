"""The parallel drafter as it runs: batch one, few operations, each on matrices that lie ready.

Computes what :class:`heisd.policies.drafter.ParallelDrafter` computes (a test holds the two together). On CPU an
operation costs microseconds before it does anything, so everything that does not depend on the input is done once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heisd.policies.drafter import ParallelConfig, ParallelDrafter, ReadBlock
from heisd.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class _Block:
    query: Tensor  # (W, H * hd), scaled for the products and for the norm before it
    key: Tensor  # (H, hd, D)
    value: Tensor  # (H, D, hd)
    out: Tensor  # (H * hd, W)
    mix: Tensor  # (T, T), identity added
    up: Tensor  # (W, inner), scaled for the norm before it
    down: Tensor  # (inner, W)


class ParallelRuntime:
    """Inference form of a :class:`ParallelDrafter`. Holds packed copies: after more training build a new one."""

    def __init__(self, drafter: ParallelDrafter, policy_hash: str = "") -> None:
        """``policy_hash`` is that of the policy whose prompt embeddings the drafter was trained on."""
        self.config: ParallelConfig = drafter.config
        self.policy_hash = policy_hash
        state = {name: value.detach().float() for name, value in drafter.state_dict().items()}
        root = self.config.width**0.5  # rows are divided by their length; their root mean square should be 1
        self._query, self._past, self._bias = state["query"], state["past"], state["bias"]
        self._position, self._summary = state["position"], state["summary"]
        self._head = (state["head"] * root).contiguous()
        self._blocks = [_pack(block, self.config) for block in drafter.blocks]
        self._tables = np.arange(len(self._past))[:, None] * self._past.shape[1]  # where each table begins
        self._past = self._past.flatten(0, 1)
        self.guess = torch.inference_mode()(self._guess)

    def _guess(self, prefix: Tensor, past_bins: IntArray, features: FloatArray) -> Tensor:
        """(T, 256) log-probabilities in bin order, from the prompt alone.

        Args: ``prefix`` (P, D) on the CPU or elsewhere; ``past_bins`` (N_EMBEDDED, T) newest first, MISSING where
        there was none; ``features`` (n_features,).
        """
        config = self.config
        x = prefix.to("cpu", torch.float32)
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).add_(1e-6)
        prompt = torch.addcdiv(self._position[: len(x)], x, lengths, value=config.prefix_width**0.5)
        text = prompt[config.text_start :]
        parts = [torch.from_numpy(features), text.sum(0).div_(len(text))]  # mean() takes five times as long
        if config.has_proprio:
            parts.append(prompt[config.text_start - 1])
        embedded = self._past.index_select(0, torch.from_numpy((past_bins + self._tables).ravel()))
        rows = embedded.view(*past_bins.shape, -1).sum(0).add_(self._query)
        rows.add_(torch.mv(self._summary.t(), torch.cat(parts)))
        for block in self._blocks:
            rows = _run(block, rows, prompt)
        logits: Tensor = torch.addmm(self._bias, _unit(rows), self._head)
        return logits.log_softmax(-1)


def _unit(x: Tensor) -> Tensor:
    """Rows at length 1; the matrices behind are scaled for it."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).add_(1e-6)  # type: ignore[no-any-return]


def _run(block: _Block, x: Tensor, prompt: Tensor) -> Tensor:
    T = len(x)
    H, hd, D = block.key.shape
    query = torch.mm(_unit(x), block.query).view(T, H, hd).transpose(0, 1)  # (H, T, hd)
    looked = torch.bmm(query, block.key).view(H * T, D)
    share = torch.mm(looked, prompt.t()).softmax(-1)
    read = torch.bmm(torch.mm(share, prompt).view(H, T, D), block.value)  # (H, T, hd)
    x = torch.addmm(x, read.transpose(0, 1).reshape(T, H * hd), block.out)
    inner = F.silu(torch.mm(torch.mm(block.mix, _unit(x)), block.up))
    return torch.addmm(x, inner, block.down)


def _pack(block: torch.nn.Module, config: ParallelConfig) -> _Block:
    assert isinstance(block, ReadBlock)
    state = {name: value.detach().float() for name, value in block.state_dict().items()}
    root = config.width**0.5
    return _Block(
        query=(state["query"] * root * config.head_dim**-0.5).contiguous(),
        key=state["key"],
        value=state["value"],
        out=state["out"],
        mix=state["mix"] + torch.eye(config.n_tokens),
        up=(state["up"] * root).contiguous(),
        down=state["down"],
    )
