"""Camera pictures -> the tensor a policy's towers take."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from heisd.errors import BadInput
from heisd.policies.config import SeeingConfig, VitTowersConfig
from heisd.types import ImageArray


class ImageStack:
    """Checks, orders, and (for timm towers) resizes and crops the cameras' pictures."""

    def __init__(self, config: SeeingConfig) -> None:
        self.cameras = config.cameras
        self.vision = config.vision
        self.size_px = 0 if config.vision is None else config.vision.image_size

    def __call__(self, images: Mapping[str, ImageArray]) -> Tensor:
        """Camera name -> (H, W, 3) u8 becomes (C, 3, size, size) u8 (channels last in memory).

        Raises BadInput for a missing camera or a picture that isn't (H, W, 3) u8 (of the tower's size, for the
        bundled policies, which don't resize).
        """
        pictures = [self._checked(camera, images) for camera in self.cameras]
        if isinstance(self.vision, VitTowersConfig):
            pictures = [openvla_picture(p, self.size_px, self.vision.centre_crop_area) for p in pictures]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    def _checked(self, camera: str, images: Mapping[str, ImageArray]) -> ImageArray:
        if camera not in images:
            raise BadInput(f"the policy needs camera {camera!r}; the observation has {sorted(images)}")
        picture = images[camera]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise BadInput(f"camera {camera!r} gave {picture.dtype} {picture.shape}; expected uint8 (H, W, 3)")
        is_resized = isinstance(self.vision, VitTowersConfig)
        if not is_resized and picture.shape[:2] != (self.size_px, self.size_px):
            raise BadInput(
                f"camera {camera!r} is {picture.shape[1]}x{picture.shape[0]}; this policy was trained on "
                f"{self.size_px}x{self.size_px}: render at that size"
            )
        return picture


def openvla_picture(picture: ImageArray, size_px: int, crop_area: float | None) -> ImageArray:
    """OpenVLA's evaluation path: Lanczos to the tower's size, then optionally the centre crop, resized back.

    ``crop_area`` is the share of the area kept (0.9 for checkpoints trained with random crops).
    """
    from PIL import Image

    resized = Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.LANCZOS)
    if crop_area is not None:
        margin = size_px * (1.0 - crop_area**0.5) / 2.0
        box = (margin, margin, size_px - margin, size_px - margin)
        resized = resized.resize((size_px, size_px), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)
