"""Initial weights of policies trained from scratch."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from heisd.codec import N_BINS

if TYPE_CHECKING:
    from heisd.policies.openvla import OpenVLA

SMOOTHNESS_BINS = 12.0  # neighbouring bins start out this much alike


@torch.no_grad()
def initialise(model: "OpenVLA") -> None:
    """Scale linear layers by their fan-in, damp residual writes by depth, make neighbouring bins alike."""
    decoder = model.language_model
    scale_by_fan_in(decoder, len(decoder.model.layers))
    width = model.config.decoder.hidden_size
    nn.init.normal_(decoder.model.embed_tokens.weight, std=0.5)
    end = model.config.action_vocab_size
    smooth = smooth_rows(N_BINS, width)
    # Rows are in token order, which runs against bin order.
    decoder.model.embed_tokens.weight[end - N_BINS : end] = 0.5 * smooth.flip(0)
    decoder.lm_head.weight[end - N_BINS : end] = width**-0.5 * smooth.flip(0)


@torch.no_grad()
def scale_by_fan_in(stack: nn.Module, n_layers: int) -> None:
    """Draw a stack's linear layers at the scale of their inputs, what writes to the stream damped by depth."""
    damping = 1.0 / math.sqrt(2 * n_layers)
    for name, module in stack.named_modules():
        if isinstance(module, nn.Linear):
            is_residual = name.endswith(("o_proj", "down_proj"))
            std = module.in_features**-0.5 * (damping if is_residual else 1.0)
            nn.init.normal_(module.weight, std=std)


def smooth_rows(n: int, width: int) -> Tensor:
    """(n, width) random rows of unit variance whose correlation falls off over SMOOTHNESS_BINS (Fourier features)."""
    frequency = torch.randn(width) / SMOOTHNESS_BINS
    phase = 2 * math.pi * torch.rand(width)
    return math.sqrt(2.0) * torch.cos(torch.outer(torch.arange(n, dtype=torch.float32), frequency) + phase)
