"""Recorded observations: what latency is measured on, so that every method and machine answers the same questions."""

import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from heisd.errors import BadArtifact, BadInput
from heisd.types import Observation, Proprioception

_PROPRIO = tuple(f.name for f in fields(Proprioception))


def save_observations(path: Path, observations: Sequence[Observation]) -> None:
    """Write N observations of the same cameras as one compressed npz (whole or not at all)."""
    cameras = list(observations[0].images)
    arrays = {f"image.{name}": np.stack([o.images[name] for o in observations]) for name in cameras}
    arrays |= {f"proprio.{name}": np.stack([getattr(o.proprio, name) for o in observations]) for name in _PROPRIO}
    arrays["instruction"] = np.array([o.instruction for o in observations])
    arrays["time_s"] = np.array([o.time_s for o in observations])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.npz")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def load_observations(path: Path) -> list[Observation]:
    """Read them back in order; BadInput when there is no such file, BadArtifact when it is something else."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist: give an .npz of recorded observations, or leave --observations out")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        cameras = [name.removeprefix("image.") for name in arrays if name.startswith("image.")]
        return [
            Observation(
                {camera: arrays[f"image.{camera}"][i] for camera in cameras},
                Proprioception(**{name: arrays[f"proprio.{name}"][i] for name in _PROPRIO}),
                str(arrays["instruction"][i]),
                float(arrays["time_s"][i]),
            )
            for i in range(len(arrays["instruction"]))
        ]
    except (OSError, EOFError, BadZipFile, zlib.error, ValueError, KeyError, IndexError) as error:
        # numpy's own words advise loading pickles.
        why = "no .npz archive of plain arrays" if "pickle" in str(error) else error
        raise BadArtifact(f"{path} is not a file of recorded observations ({why})") from None


def is_first_of_episode(previous: Observation | None, now: Observation) -> bool:
    """Whether an episode begins: its clock does not go on, or the robot was told something else."""
    return previous is None or now.time_s <= previous.time_s or now.instruction != previous.instruction
