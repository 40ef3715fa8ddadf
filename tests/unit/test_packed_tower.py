"""The tower as it runs equals the tower as it is trained."""

import pytest
import torch

from heisd.policies.config import ConvTowerConfig
from heisd.policies.packed_tower import MAX_PRODUCT_SIDE, PackedTower, _gelu
from heisd.policies.towers import ConvTower


@pytest.mark.parametrize("channels", [(8, 16), (8, 16, 24, 32)])
@pytest.mark.parametrize("n_images", [1, 2])
def test_packed_and_trained_tower_agree(channels: tuple[int, ...], n_images: int) -> None:
    """Both ways of convolving: maps are larger than MAX_PRODUCT_SIDE at first and smaller behind."""
    torch.manual_seed(0)
    config = ConvTowerConfig(image_size=64, channels=channels, groups=4)
    tower = ConvTower(config)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert MAX_PRODUCT_SIDE < 64 // 4
    pictures = torch.randint(0, 256, (n_images, 64, 64, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected, found = tower(pictures), PackedTower(tower)(pictures)
    assert found.shape == expected.shape == (n_images, config.grid**2, channels[-1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_activation_is_the_librarys() -> None:
    x = torch.linspace(-30, 30, 20_001)
    torch.testing.assert_close(_gelu(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=1e-5, atol=2e-6)
