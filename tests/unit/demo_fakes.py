"""Synthetic demonstrations: smooth random motion, coloured pictures, no simulator."""

from pathlib import Path

import numpy as np

from heisd.sim.dataset import DatasetSpec, Episode, Provenance
from heisd.sim.dataset_writer import DatasetWriter
from heisd.sim.lerobot_format import encode_jpeg
from heisd.sim.splits import EpisodeStart

SIZE = 16
SUITE = "libero_object"
SPEC = DatasetSpec(SUITE, ("pick up the soup", "pick up the milk"), image_size=SIZE, settings={"seed": 0})


def colour(task: int, number: int, step: int, camera: int) -> tuple[int, int, int]:
    """A colour that identifies a picture, coarse enough to survive JPEG."""
    return (40 + 60 * task + 30 * camera, 20 + 20 * (number % 10), 10 + 8 * (step % 25))


def make_episode(task: int = 0, number: int = 0, length: int = 12, *, start: EpisodeStart | None = None) -> Episode:
    """A demonstration that depends only on its arguments."""
    rng = np.random.default_rng([task, number, length])
    pictures = {
        camera: [
            encode_jpeg(np.full((SIZE, SIZE, 3), colour(task, number, t, c), dtype=np.uint8)) for t in range(length)
        ]
        for c, camera in enumerate(SPEC.cameras)
    }
    actions = np.clip(0.3 * rng.normal(size=(length, 7)), -1, 1).astype(np.float32)
    actions[:, 6] = np.where(np.arange(length) < length // 2, -1, 1)
    proprio = rng.normal(size=(length, 25)).cumsum(axis=0).astype(np.float32)
    proprio[:, 3:7] /= np.linalg.norm(proprio[:, 3:7], axis=1, keepdims=True)
    start = start or EpisodeStart(SUITE, task, None, 1_000_000 + number)
    provenance = Provenance(start, SPEC.instructions[task], number, 0.02, {"speed": 0.8, "offset": [0.0, 1.0]}, 0, 0.1)
    executed = np.clip(actions + 0.05, -1, 1)
    return Episode(pictures, proprio, actions, executed, np.arange(length) // 4, provenance)


def make_dataset(root: Path, n_episodes: int = 4) -> Path:
    """A finished data set; episodes alternate between two tasks."""
    with DatasetWriter(root, SPEC) as writer:
        for i in range(n_episodes):
            writer.append(make_episode(i % 2, i // 2, 10 + i))
    return root
