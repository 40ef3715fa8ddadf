"""Smaller textures for fast rendering: 4096-pixel originals cost 50 MB and seconds each, for 128-pixel frames.

Only texture files in the scene's XML are exchanged, before it is compiled. Textures have no part in the physics.
"""

import hashlib
import logging
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from heisd.sim.cache import cache_dir, write_atomically

log = logging.getLogger(__name__)

_MAX_SIDE_PX = 512


def with_small_textures(xml: str) -> str:
    """The same scene with every larger texture file replaced by a cached reduction."""
    scene = ElementTree.fromstring(xml)
    for texture in scene.iterfind("asset/texture[@file]"):
        texture.set("file", str(_small(Path(texture.get("file", "")))))
    return ElementTree.tostring(scene, encoding="unicode")


def _small(original: Path) -> Path:
    """A reduction of ``original``; itself when small, when it has an alpha channel, or when nothing can be cached."""
    with Image.open(original) as image:
        # MuJoCo draws a texture with an alpha channel differently (darker) than the same colours without one.
        if max(image.size) <= _MAX_SIDE_PX or image.mode in ("RGBA", "LA"):
            return original
        digest = hashlib.blake2b(original.read_bytes(), digest_size=16).hexdigest()
        reduced = cache_dir() / "textures" / f"{digest}-{_MAX_SIDE_PX}.png"
        if not reduced.is_file():
            factor = _MAX_SIDE_PX / max(image.size)
            size = round(image.width * factor), round(image.height * factor)
            smaller = image.convert("RGB").resize(size, Image.Resampling.BOX)
            try:
                write_atomically(reduced, lambda path: smaller.save(path, format="PNG"))
            except OSError as error:
                log.warning("cannot cache small textures in %s (%s); scenes load slowly", reduced.parent, error)
                return original
    return reduced
