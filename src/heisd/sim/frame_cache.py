"""Pictures of demonstrations, decoded once into a file that training maps into memory."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heisd.errors import DatasetError
from heisd.files import TEMP_SUFFIX
from heisd.sim import lerobot_format as layout
from heisd.sim.dataset import EpisodeEntry, read_jpegs, read_table
from heisd.types import ImageArray

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """One episode in one data set."""

    root: Path
    entry: EpisodeEntry


def decode_into(file: Path, sources: Sequence[Source], cameras: tuple[str, ...], image_size: int, workers: int) -> None:
    """Decode every picture into ``file`` (.npy), which appears only when it is complete."""
    n_frames = sum(source.entry.length for source in sources)
    shape = (n_frames, len(cameras), image_size, image_size, 3)
    log.info("decoding %d frames into %s (%.0f MB)", n_frames, file, np.prod(shape) / 1e6)
    temp = file.with_name(file.name + TEMP_SUFFIX)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(temp, mode="w+", dtype=np.uint8, shape=shape)
        begins = np.cumsum([0, *(source.entry.length for source in sources)])
        jobs = [(source, images[b : b + source.entry.length]) for source, b in zip(sources, begins, strict=False)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda job: _decode_episode(job[0], job[1], cameras, image_size), jobs))
        images.flush()
        temp.replace(file)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise DatasetError(
            f"cannot write the picture cache {file} ({np.prod(shape) / 1e6:.0f} MB): {error}; "
            "free some space or choose another cache_dir"
        ) from error


def _decode_episode(source: Source, target: ImageArray, cameras: tuple[str, ...], image_size: int) -> None:
    """Fill (T, n_cameras, H, W, 3) ``target``."""
    table = read_table(source.root, source.entry, [layout.image_key(camera) for camera in cameras])
    for c, camera in enumerate(cameras):
        for t, jpeg in enumerate(read_jpegs(table, camera)):
            target[t, c] = layout.decode_jpeg(jpeg, image_size)
