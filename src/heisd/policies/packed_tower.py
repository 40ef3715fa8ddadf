"""The convolutional tower as it runs: the same numbers up to rounding, in less time on CPU.

Small feature maps are convolved as one matrix product (a convolution reorders its weights at every call, and behind a
few pixels that costs more than the arithmetic), and the activation, x sigmoid(2 c (x + 0.044715 x^3)) with
c = sqrt(2 / pi), takes half the time of the library's form of it. A test holds tower and runtime together.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.towers import ConvTower

MAX_PRODUCT_SIDE = 8  # cells of a feature map; larger ones are faster as convolutions
_TWICE_C = 2.0 * math.sqrt(2.0 / math.pi)  # Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2


@dataclass(frozen=True, slots=True)
class _Stage:
    convolution: nn.Conv2d
    norm: nn.GroupNorm
    matrix: Tensor  # (kernel * kernel * inputs, outputs)
    bias: Tensor  # (outputs,)


class PackedTower:
    """Inference form of a :class:`ConvTower`; holds copies of its last kernels: after more training build a new one."""

    def __init__(self, tower: ConvTower) -> None:
        self._tower = tower
        modules = list(tower.stem)
        self._stages = [_stage(*modules[i : i + 2]) for i in range(0, len(modules), 3)]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) pixels 0-255 of any dtype, channels last in memory -> (B, tokens, width)."""
        tower = self._tower
        x = images.to(tower.position_embedding.dtype) * tower.scale + tower.shift
        for stage in self._stages:
            x = _convolve(stage, x) if x.shape[-1] > MAX_PRODUCT_SIDE else _product(stage, x)
            x = _gelu(F.group_norm(x, stage.norm.num_groups, stage.norm.weight, stage.norm.bias, stage.norm.eps))
        return x.flatten(2).transpose(1, 2) + tower.position_embedding


def _stage(convolution: nn.Module, norm: nn.Module) -> _Stage:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.GroupNorm)
    assert convolution.bias is not None
    matrix = convolution.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    return _Stage(convolution, norm, matrix, convolution.bias.detach())


def _convolve(stage: _Stage, x: Tensor) -> Tensor:
    convolution = stage.convolution
    return F.conv2d(x, convolution.weight, convolution.bias, convolution.stride, convolution.padding)


def _product(stage: _Stage, x: Tensor) -> Tensor:
    """The same convolution of every window at once: (B, C, H, W) -> (B, outputs, h, w), channels last."""
    (kernel, _), (stride, _) = stage.convolution.kernel_size, stage.convolution.stride
    pad = kernel // 2
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (B, h, w, C, kernel, kernel)
    B, h, w = windows.shape[:3]
    rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(B * h * w, -1)
    return torch.addmm(stage.bias, rows, stage.matrix).view(B, h, w, -1).permute(0, 3, 1, 2)


def _gelu(x: Tensor) -> Tensor:
    inner = (x * x).mul_(0.044715 * _TWICE_C).add_(_TWICE_C)
    return inner.mul_(x).sigmoid_().mul_(x)
