"""What every policy sees with: vision towers, a projector, and which camera a patch came from.

The names are those of published OpenVLA checkpoints (``vision_backbone``, ``projector``) and sit at the root of a
network, so that one policy's eyes are another's by name.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.policies.config import ConvTowerConfig, SeeingConfig, VitTowersConfig
from heisd.policies.packed_tower import PackedTower
from heisd.policies.towers import ConvTower, VitTowers


class Projector(nn.Module):
    """Patch features -> decoder width: two layers behind one tower, three (4x wide) behind two."""

    def __init__(self, width: int, hidden_size: int, *, is_fused: bool) -> None:
        super().__init__()
        self.is_fused = is_fused
        inner = 4 * width if is_fused else hidden_size
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, hidden_size)
        if is_fused:
            self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        x = self.fc2(F.gelu(self.fc1(patches)))
        return self.fc3(F.gelu(x)) if self.is_fused else x  # type: ignore[no-any-return]


class SeeingNetwork(nn.Module):
    """Base of the networks that see; a blind one has none of the parts."""

    vision_backbone: ConvTower | VitTowers
    projector: Projector
    camera_embedding: nn.Parameter

    def open_eyes(self, config: SeeingConfig) -> None:
        """Make the parts, in the order in which they have always drawn their initial weights."""
        d = config.decoder.hidden_size
        if config.vision is not None:
            self.vision_backbone = _build_towers(config.vision)
            is_fused = isinstance(config.vision, VitTowersConfig) and len(config.vision.names) == 2
            self.projector = Projector(self.vision_backbone.width, d, is_fused=is_fused)
        if config.camera_embedding and config.cameras:
            self.camera_embedding = nn.Parameter(torch.zeros(len(config.cameras), d))

    def patches(self, images: Tensor, tower: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, C, 3, H, W) pixels 0-255 -> (B, C * tokens, d) projected patches, in camera order.

        ``tower`` runs in place of the network's own (:func:`packed_tower`).
        """
        B, C = images.shape[:2]
        seen = (tower or self.vision_backbone)(images.flatten(0, 1))
        projected = self.projector(seen).unflatten(0, (B, C))
        if hasattr(self, "camera_embedding"):
            projected = projected + self.camera_embedding[:, None]
        return projected.flatten(1, 2)  # type: ignore[no-any-return]


def packed_tower(network: SeeingNetwork) -> Callable[[Tensor], Tensor] | None:
    """The fast form of a network's tower for inference; None where there is none (it is of float32 on CPU)."""
    tower = getattr(network, "vision_backbone", None)
    if not isinstance(tower, ConvTower):
        return None
    runs_here = tower.position_embedding.device.type == "cpu" and tower.position_embedding.dtype == torch.float32
    return PackedTower(tower) if runs_here else None


def _build_towers(config: ConvTowerConfig | VitTowersConfig) -> ConvTower | VitTowers:
    return ConvTower(config) if isinstance(config, ConvTowerConfig) else VitTowers(config)
