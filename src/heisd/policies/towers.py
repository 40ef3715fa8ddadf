"""Vision towers: images -> patch tokens. The names of their weights are those of published checkpoints."""

from typing import Any

import torch
from torch import Tensor, nn

from heisd.policies.config import ConvTowerConfig, VitTowersConfig


class ConvTower(nn.Module):
    """The bundled model's stem: convolutions down to a small grid, one token a cell, plus where it is."""

    def __init__(self, config: ConvTowerConfig) -> None:
        super().__init__()
        self.scale = 1.0 / (255.0 * config.std)
        self.shift = -config.mean / config.std
        layers: list[nn.Module] = []
        inputs = 3
        for i, outputs in enumerate(config.channels):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            layers += [
                nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2),
                nn.GroupNorm(config.groups, outputs),
                nn.GELU(approximate="tanh"),
            ]
            inputs = outputs
        # Pictures arrive with channels last; the same layout in the weights halves the time of the stem on CPU.
        self.stem = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(config.grid**2, config.width))
        self.width, self.n_tokens = config.width, config.grid**2

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) pixels 0-255 of any dtype -> (B, tokens, width)."""
        x = images.to(self.position_embedding.dtype) * self.scale + self.shift
        return self.stem(x).flatten(2).transpose(1, 2) + self.position_embedding  # type: ignore[no-any-return]


class VitTowers(nn.Module):
    """One or two timm ViTs; patch tokens of the second-to-last block, un-normed, fused on the channel axis."""

    featurizer: Any

    def __init__(self, config: VitTowersConfig) -> None:
        super().__init__()
        names = ("featurizer", "fused_featurizer")
        self.towers = names[: len(config.names)]
        for attribute, name in zip(self.towers, config.names, strict=True):
            setattr(self, attribute, _create_vit(name, config.image_size))
        self.config = config
        self.n_tokens = int(self.featurizer.patch_embed.num_patches)
        self.width = sum(int(getattr(self, attribute).embed_dim) for attribute in self.towers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) pixels 0-255 -> (B, tokens, width)."""
        features = []
        for attribute, mean, std in zip(self.towers, self.config.means, self.config.stds, strict=True):
            vit = getattr(self, attribute)
            pixels = images.to(vit.patch_embed.proj.weight.dtype) / 255.0
            scale = pixels.new_tensor([mean, std])[..., None, None]
            features.append(patch_features(vit, (pixels - scale[0]) / scale[1]))
        return torch.cat(features, dim=-1)


def patch_features(vit: Any, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) normalised pixels -> (B, tokens, width): what OpenVLA takes from a tower."""
    outputs = vit.get_intermediate_layers(pixels, n={len(vit.blocks) - 2})
    return outputs[0]  # type: ignore[no-any-return]


def _create_vit(name: str, image_size: int) -> nn.Module:
    import timm

    vit: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size)
    return vit
