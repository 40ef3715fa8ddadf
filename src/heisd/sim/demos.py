"""Demonstrations for training: arrays in memory, pictures decoded once into a memory-mapped cache; and the check."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import UnidentifiedImageError

from heisd.errors import BadInput, DatasetError, HeisdError, LeakError
from heisd.sim import lerobot_format as layout
from heisd.sim.dataset import (
    DatasetSpec,
    EpisodeEntry,
    Provenance,
    column_array,
    compute_stats,
    fingerprint,
    read_entries,
    read_jpegs,
    read_spec,
    read_table,
)
from heisd.sim.frame_cache import Source, decode_into
from heisd.sim.regularity import Regularity, measure
from heisd.sim.splits import require_train
from heisd.types import FloatArray, ImageArray, IntArray

CACHE_DIR = "cache"
ROW_COLUMNS = ("observation.proprio", "action", "action.executed", "phase")


@dataclass(frozen=True, slots=True)
class Demos:
    """N frames of E episodes; episodes are sorted by suite, task and attempt, whatever order they were recorded in."""

    images: ImageArray  # (N, n_cameras, H, W, 3) u8 RGB, a read-only memory map
    cameras: tuple[str, ...]
    proprio: FloatArray  # (N, 25) float32, order of lerobot_format.PROPRIO_PARTS
    actions: FloatArray  # (N, 7) float32 clean labels, environment convention
    executed: FloatArray  # (N, 7) float32
    phase: IntArray  # (N,)
    episode: IntArray  # (N,) 0 … E-1
    task: IntArray  # (N,) 0 … number of different (suite, task) pairs - 1
    instructions: tuple[str, ...]  # (E,)
    provenance: tuple[Provenance, ...]  # (E,)
    fingerprint: str  # hash of everything read

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What reading a data set back has shown."""

    path: str
    suite: str
    n_episodes: int
    n_frames: int
    episodes_by_task: dict[int, int]
    size_mb: float
    fingerprint: str
    regularity: Regularity | None  # how predictable the actions are; None when episodes are damaged
    problems: tuple[str, ...]  # empty: everything is as it should be

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        regularity = None if self.regularity is None else self.regularity.as_dict()
        return asdict(self) | {"regularity": regularity, "is_ok": self.is_ok}


def load_demos(
    paths: Sequence[Path | str], image_size: int, *, cache_dir: Path | str | None = None, workers: int = 2
) -> Demos:
    """Read data sets written by `heisd collect`; pictures are resized to ``image_size`` pixels.

    The decoded pictures go to ``cache_dir`` (default: ``cache/`` in the first data set) under the hash of
    their content and are reused. Raises LeakError when an episode is not from the train split, DatasetError
    for a damaged data set or a full disk, BadInput when the data sets differ in cameras.
    """
    roots = [Path(path) for path in paths]
    cameras = _common_cameras(roots)
    sources = _sorted_sources(roots)
    for source in sources:
        require_train(source.entry.provenance.start)
    content = fingerprint([source.entry for source in sources])
    lengths = [source.entry.length for source in sources]
    cache = Path(cache_dir) if cache_dir is not None else roots[0] / CACHE_DIR
    file = cache / f"images-{'-'.join(cameras)}-{image_size}-{content[:16]}.npy"
    if not file.exists():
        decode_into(file, sources, cameras, image_size, workers)
    tables = pa.concat_tables([read_table(source.root, source.entry, ROW_COLUMNS) for source in sources])
    tasks = [(s.entry.provenance.start.suite, s.entry.provenance.start.task_index) for s in sources]
    numbers = {task: i for i, task in enumerate(dict.fromkeys(tasks))}
    return Demos(
        images=np.load(file, mmap_mode="r", allow_pickle=False),
        cameras=cameras,
        proprio=column_array(tables, "observation.proprio"),
        actions=column_array(tables, "action"),
        executed=column_array(tables, "action.executed"),
        phase=column_array(tables, "phase"),
        episode=np.repeat(np.arange(len(sources)), lengths),
        task=np.repeat([numbers[task] for task in tasks], lengths),
        instructions=tuple(source.entry.provenance.instruction for source in sources),
        provenance=tuple(source.entry.provenance for source in sources),
        fingerprint=content,
    )


def require_experts(paths: Sequence[Path | str]) -> None:
    """BadInput for a data set of a policy's own episodes: nobody who knows better has labelled it."""
    for root in paths:
        if (read_spec(Path(root)).settings or {}).get("unaided"):
            raise BadInput(
                f"{root} holds a policy's own episodes (heisd collect --unaided), from which a draft head learns; "
                "a policy learns from an expert's: collect without --unaided"
            )


def check(path: Path | str) -> CheckReport:
    """Read everything back and compare: hashes, counts, shapes, pictures, statistics, splits.

    Raises DatasetError when the directory is not a data set at all; whatever else is wrong is in the report.
    """
    root = Path(path)
    spec, entries = read_spec(root), read_entries(root)
    damages = [damage for entry in entries for damage in _episode_problems(root, entry, spec)]
    problems = _index_problems(root, entries) + damages
    if not damages:
        problems += _stats_problems(root, entries, spec)
    return CheckReport(
        path=str(root),
        suite=spec.suite,
        n_episodes=len(entries),
        n_frames=sum(entry.length for entry in entries),
        episodes_by_task=dict(sorted(Counter(entry.provenance.start.task_index for entry in entries).items())),
        size_mb=sum(file.stat().st_size for file in root.glob("data/*/*.parquet")) / 1e6,
        fingerprint=fingerprint(entries),
        regularity=_regularity(root, entries) if entries and not damages else None,
        problems=tuple(problems),
    )


def _common_cameras(roots: Sequence[Path]) -> tuple[str, ...]:
    if not roots:
        raise BadInput("no data set given; name at least one directory written by `heisd collect`")
    found = {root: read_spec(root).cameras for root in roots}
    if len(set(found.values())) > 1:
        shown = "; ".join(f"{root}: {', '.join(cameras)}" for root, cameras in found.items())
        raise BadInput(f"the data sets have different cameras ({shown}); train on sets with the same ones")
    return next(iter(found.values()))


def _sorted_sources(roots: Sequence[Path]) -> list[Source]:
    """Every episode in an order that does not depend on which worker finished first."""

    def order(source: Source) -> tuple[str, int, int, str]:
        origin = source.entry.provenance
        return (origin.start.suite, origin.start.task_index, origin.attempt, source.entry.data_sha256)

    sources = sorted((Source(root, entry) for root in roots for entry in read_entries(root)), key=order)
    if not sources:
        raise DatasetError(f"no episodes in {', '.join(map(str, roots))}; run `heisd collect` first")
    return sources


def _index_problems(root: Path, entries: Sequence[EpisodeEntry]) -> list[str]:
    """Counts in info.json and the chain of global frame indices."""
    info = layout.read_json(root / layout.INFO)
    n_frames = sum(entry.length for entry in entries)
    problems = [
        f"{layout.INFO}: {name} is {info.get(name)}, but the files hold {expected}"
        for name, expected in (("total_episodes", len(entries)), ("total_frames", n_frames))
        if info.get(name) != expected
    ]
    begin = 0
    for entry in entries:
        if entry.from_index != begin:
            problems.append(f"episode {entry.episode_index} begins at frame {entry.from_index}, not {begin}")
        begin = entry.from_index + entry.length
    return problems


def _episode_problems(root: Path, entry: EpisodeEntry, spec: DatasetSpec) -> list[str]:
    """What is wrong with one episode, the first thing found."""
    try:
        _check_episode(root, entry, spec)
    except (HeisdError, UnidentifiedImageError, OSError) as error:
        return [f"episode {entry.episode_index}: {error}"]
    return []


def _check_episode(root: Path, entry: EpisodeEntry, spec: DatasetSpec) -> None:
    """Raises LeakError or DatasetError."""
    require_train(entry.provenance.start)
    if entry.provenance.start.suite != spec.suite:
        raise LeakError(f"it is from {entry.provenance.start.suite}, the data set from {spec.suite}")
    content = (root / entry.data_file).read_bytes()
    if layout.sha256(content) != entry.data_sha256:
        raise DatasetError(f"{entry.data_file} is not the file that was recorded (its hash differs)")
    table = read_table(root, entry)
    if table.schema.remove_metadata() != layout.data_schema(spec.cameras):
        raise DatasetError(f"{entry.data_file} has other columns than it should: {table.schema.names}")
    if table.num_rows != entry.length:
        raise DatasetError(f"{entry.data_file} holds {table.num_rows} frames, the index says {entry.length}")
    _check_columns(table, entry)
    _check_pictures(table, spec)


def _check_columns(table: pa.Table, entry: EpisodeEntry) -> None:
    steps = np.arange(entry.length)
    expected = {
        "frame_index": steps,
        "index": entry.from_index + steps,
        "episode_index": np.full_like(steps, entry.episode_index),
        "task_index": np.full_like(steps, entry.provenance.start.task_index),
    }
    for name, values in expected.items():
        if not np.array_equal(column_array(table, name), values):
            raise DatasetError(f"column {name} is not what the index says")
    for name in layout.VECTORS:
        if not np.isfinite(column_array(table, name)).all():
            raise DatasetError(f"column {name} holds values that are not finite")
    for name in ("action", "action.executed"):
        if np.abs(column_array(table, name)).max() > 1.0:
            raise DatasetError(f"column {name} leaves the range [-1, 1]")


def _check_pictures(table: pa.Table, spec: DatasetSpec) -> None:
    for camera in spec.cameras:
        for t, jpeg in enumerate(read_jpegs(table, camera)):
            shape = layout.decode_jpeg(jpeg).shape
            if shape != (spec.image_size, spec.image_size, 3):
                raise DatasetError(f"frame {t} of camera {camera} has shape {shape}")


def _stats_problems(root: Path, entries: Sequence[EpisodeEntry], spec: DatasetSpec) -> list[str]:
    """Whether stats.json is what the files give (up to rounding)."""
    if not (root / layout.STATS).exists():
        return [f"{layout.STATS} is missing: the recording is not finished"]
    stored, computed = layout.read_json(root / layout.STATS), compute_stats(root, entries, spec.cameras)
    differing = [
        f"{feature}/{name}"
        for feature, values in computed.items()
        for name, value in values.items()
        if not _is_close(stored.get(feature, {}).get(name), value)
    ]
    return [f"{layout.STATS} does not belong to these episodes: {', '.join(differing[:5])}"] if differing else []


def _regularity(root: Path, entries: Sequence[EpisodeEntry]) -> Regularity:
    table = pa.concat_tables([read_table(root, entry, ("action", "observation.proprio")) for entry in entries])
    lengths = [entry.length for entry in entries]
    episode = np.repeat(np.arange(len(entries)), lengths)
    task = np.repeat([entry.provenance.start.task_index for entry in entries], lengths)
    return measure(column_array(table, "action"), column_array(table, "observation.proprio"), episode, task)


def _is_close(stored: Any, computed: Any) -> bool:
    return np.shape(stored) == np.shape(computed) and bool(np.allclose(stored, computed, atol=1e-6))
