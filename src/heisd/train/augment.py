"""Image and token augmentation for behaviour cloning. Pure functions of an explicit generator."""

import numpy as np
import torch
from torch import Tensor

from heisd.types import ImageArray

MAX_SHIFT_PX = 3  # of 128; larger shifts would contradict the proprioception token


def shifted(images: ImageArray, rng: np.random.Generator, max_shift_px: int = MAX_SHIFT_PX) -> ImageArray:
    """Random translation with edge replication, drawn per sample and camera.

    ``images`` (B, C, H, W, 3) u8 -> the same shape.
    """
    if max_shift_px == 0:
        return images
    B, C, H, W, _ = images.shape
    out = np.empty_like(images)
    shifts = rng.integers(-max_shift_px, max_shift_px + 1, size=(B, C, 2))
    rows, cols = np.arange(H), np.arange(W)
    for b in range(B):
        for c in range(C):
            dy, dx = shifts[b, c]
            r, k = np.clip(rows + dy, 0, H - 1), np.clip(cols + dx, 0, W - 1)
            out[b, c] = images[b, c].take(r, axis=0).take(k, axis=1)
    return out


def recoloured(images: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Brightness, contrast and tint, drawn per sample and camera; (B, C, 3, H, W) float in 0-255."""
    B, C = images.shape[:2]
    contrast = 1 + strength * 0.3 * (rng.random((B, C, 1, 1, 1)) - 0.5)
    brightness = strength * 50 * (rng.random((B, C, 1, 1, 1)) - 0.5)
    tint = strength * 16 * (rng.random((B, C, 3, 1, 1)) - 0.5)
    scale = torch.from_numpy(contrast.astype(np.float32))
    offset = torch.from_numpy((brightness + tint + 128 * (1 - contrast)).astype(np.float32))
    return images.mul_(scale).add_(offset).clamp_(0, 255)


def disturbed_bins(bins: Tensor, rng: np.random.Generator, share: float = 0.15, reach: int = 12) -> Tensor:
    """Replace a share of teacher-forced tokens by a neighbour, so that greedy decoding survives its own slips.

    ``bins`` (B, 7) in 0-255; the gripper column is left alone.
    """
    hit = torch.from_numpy(rng.random(tuple(bins.shape)) < share)
    hit[:, -1] = False
    step = torch.from_numpy(rng.integers(-reach, reach + 1, size=tuple(bins.shape)))
    return torch.where(hit, (bins + step).clamp(0, 255), bins)


def bin_smoothing(sigma_bins: float, n_bins: int = 256) -> Tensor:
    """(n_bins, n_bins) rows of Gaussian smoothing over neighbouring bins; rows sum to one. The identity for 0."""
    if sigma_bins == 0:
        return torch.eye(n_bins)
    bins = torch.arange(n_bins, dtype=torch.float32)
    return torch.softmax(-((bins[:, None] - bins) ** 2) / (2 * sigma_bins**2), dim=-1)
