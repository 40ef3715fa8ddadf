"""The data set on disk: LeRobot's layout, what survives a kill, what is refused."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from demo_fakes import SIZE, SPEC, SUITE, make_dataset, make_episode

from heisd.errors import DatasetError, LeakError
from heisd.sim import lerobot_format as layout
from heisd.sim.dataset import (
    column_array,
    flatten_proprio,
    lerobot_state,
    read_entries,
    read_jpegs,
    read_table,
    unflatten_proprio,
)
from heisd.sim.dataset_writer import DatasetWriter
from heisd.sim.demos import check
from heisd.sim.splits import EpisodeStart


def test_round_trip_keeps_every_number(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "set", 3)
    entries = read_entries(root)
    for i, entry in enumerate(entries):
        written, table = make_episode(i % 2, i // 2, 10 + i), read_table(root, entry)
        assert entry.provenance == written.provenance
        np.testing.assert_array_equal(column_array(table, "observation.proprio"), written.proprio)
        np.testing.assert_array_equal(column_array(table, "action"), written.actions)
        np.testing.assert_array_equal(column_array(table, "action.executed"), written.executed.astype(np.float32))
        np.testing.assert_array_equal(column_array(table, "phase"), written.phase)
        np.testing.assert_allclose(column_array(table, "timestamp"), np.arange(10 + i) / 20, rtol=1e-6)
        assert read_jpegs(table, "wrist") == list(written.jpegs["wrist"])


def test_directory_is_lerobot_v3(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 4)
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"], info["splits"]) == (20, 4, 46, {"train": "0:4"})
    assert info["features"]["observation.images.agentview"]["shape"] == [SIZE, SIZE, 3]
    assert info["features"]["observation.state"]["shape"] == [8]
    last = pq.read_table(root / info["data_path"].format(chunk_index=0, file_index=3))
    assert set(last.schema.names) == set(info["features"])
    assert column_array(last, "index").tolist() == list(range(33, 46))
    meta = pq.read_table(root / "meta/episodes/chunk-000/file-003.parquet").to_pylist()[0]
    assert (meta["dataset_from_index"], meta["dataset_to_index"], meta["length"]) == (33, 46, 13)
    assert meta["tasks"] == ["pick up the milk"]
    tasks = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    assert tasks == {"task_index": [0, 1], "task": ["pick up the soup", "pick up the milk"]}


def test_stats_are_those_of_all_frames(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 4)
    stats = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate([make_episode(i % 2, i // 2, 10 + i).actions for i in range(4)]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["q99"], np.quantile(actions, 0.99, axis=0), atol=1e-6)
    picture = stats["observation.images.wrist"]
    assert np.shape(picture["mean"]) == (3, 1, 1)
    assert 0 < picture["mean"][0][0][0] < 1


def test_pooled_image_statistics_equal_those_of_the_whole(rng: np.random.Generator) -> None:
    parts = [rng.integers(0, 256, size=(n, 4, 4, 3), dtype=np.uint8) for n in (1, 3, 7)]
    pooled = layout.pool_image_stats([layout.image_stats(part) for part in parts])
    whole = layout.image_stats(np.concatenate(parts))
    for name in whole:
        np.testing.assert_allclose(pooled[name], whole[name], atol=1e-12)


def test_state_uses_robosuites_quaternion_convention(rng: np.random.Generator) -> None:
    """q and -q are the same rotation but different states: nothing may canonicalise the sign."""
    proprio = make_episode(length=2).proprio
    proprio[0, 3:7] = [0.99, -0.028, 0.0, -9.4e-5]
    proprio[1, 3:7] = -proprio[0, 3:7]
    state = lerobot_state(proprio)
    assert state.shape == (2, 8)
    assert np.linalg.norm(state[0, 3:6]) > np.pi * 0.98
    assert state[0, 3] * state[1, 3] < 0
    np.testing.assert_array_equal(state[:, :3], proprio[:, :3])
    row = rng.normal(size=25).astype(np.float32)
    np.testing.assert_array_equal(flatten_proprio(unflatten_proprio(row)), row)


@pytest.mark.parametrize(
    "start",
    [
        EpisodeStart(SUITE, 0, 30, None),
        EpisodeStart(SUITE, 0, 45, None),
        EpisodeStart(SUITE, 0, None, 2_000_000),
        EpisodeStart(SUITE, 0, None, 3_500_000),
        EpisodeStart(SUITE, 0, None, 4_000_000),
    ],
)
def test_writer_refuses_every_start_outside_train(tmp_path: Path, start: EpisodeStart) -> None:
    with DatasetWriter(tmp_path, SPEC) as writer, pytest.raises(LeakError, match="may not enter"):
        writer.append(make_episode(start=start))
    assert read_entries(tmp_path) == []


def test_appending_continues_an_existing_set(tmp_path: Path) -> None:
    make_dataset(tmp_path, 2)
    with DatasetWriter(tmp_path, SPEC) as writer:
        entry = writer.append(make_episode(0, 9, 5))
    assert (entry.episode_index, entry.from_index) == (2, 21)
    assert check(tmp_path).problems == ()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, 1)
    with pytest.raises(DatasetError, match="image_size: 16 there, 64 asked for"):
        DatasetWriter(tmp_path, replace(SPEC, image_size=64))


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, SPEC), pytest.raises(DatasetError, match="another process"):
        DatasetWriter(tmp_path, SPEC)
    DatasetWriter(tmp_path, SPEC).__exit__(None, None, None)


def test_wrong_shapes_and_nan_are_refused(tmp_path: Path) -> None:
    episode = make_episode()
    with DatasetWriter(tmp_path, SPEC) as writer:
        with pytest.raises(DatasetError, match="shapes"):
            writer.append(replace(episode, actions=episode.actions[:, :6]))
        with pytest.raises(DatasetError, match="shapes"):
            writer.append(replace(episode, jpegs={"agentview": episode.jpegs["agentview"]}))
        with pytest.raises(DatasetError, match="finite"):
            writer.append(replace(episode, proprio=np.full_like(episode.proprio, np.nan)))
    assert read_entries(tmp_path) == []


@pytest.mark.parametrize("fails_at", range(6))
def test_full_disk_leaves_the_set_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """Whichever file of an append meets the full disk, the set reads as before or with the whole episode."""
    make_dataset(tmp_path, 2)
    writer, calls = DatasetWriter(tmp_path, SPEC), iter(range(100))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DatasetError, match="no space left"), writer:
        writer.append(make_episode(0, 5))
    monkeypatch.undo()
    assert len(read_entries(tmp_path)) in (2, 3)
    assert not list(tmp_path.rglob("*.unfinished"))
    with DatasetWriter(tmp_path, SPEC) as again:
        again.append(make_episode(1, 6))
    assert check(tmp_path).problems == ()


class PowerCut(BaseException):
    """Ends everything: no handler is meant to catch it."""


@pytest.mark.parametrize("cut_at", range(6))
def test_a_power_cut_at_any_sync_leaves_the_set_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    """Of a file that was not synced yet, half may be there afterwards."""
    make_dataset(tmp_path, 2)
    writer, calls = DatasetWriter(tmp_path, SPEC), iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(calls) == cut_at:
            with contextlib.suppress(OSError):  # a directory cannot be shortened
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise PowerCut

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PowerCut):
        writer.append(make_episode(0, 5))
    monkeypatch.undo()
    writer._lock.close()  # as the end of its process would
    assert len(read_entries(tmp_path)) in (2, 3)
    with DatasetWriter(tmp_path, SPEC) as again:
        again.append(make_episode(1, 6))
    assert check(tmp_path).problems == ()


KILLED_WRITER = """
import sys; sys.path.insert(0, {here!r})
from demo_fakes import SPEC, make_episode
from heisd.sim.dataset_writer import DatasetWriter
writer = DatasetWriter({root!r}, SPEC)
print("ready", flush=True)
for i in range(10_000):
    writer.append(make_episode(i % 2, i // 2, 10))
"""


@pytest.mark.parametrize("delay_s", [0.05, 0.13, 0.21])
def test_kill_at_any_moment_leaves_a_readable_set(tmp_path: Path, delay_s: float) -> None:
    code = KILLED_WRITER.format(here=str(Path(__file__).parent), root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    n = len(read_entries(tmp_path))
    with DatasetWriter(tmp_path, SPEC) as writer:
        assert len(writer.entries) == n
        writer.append(make_episode(0, 20_000))
    report = check(tmp_path)
    assert (report.n_episodes, report.problems) == (n + 1, ())


def test_leftovers_of_a_kill_are_swept_and_never_read(tmp_path: Path) -> None:
    make_dataset(tmp_path, 2)
    orphan = tmp_path / "data/chunk-000/file-002.parquet"
    torn = tmp_path / "meta/episodes/chunk-000/file-002.parquet.unfinished"
    orphan.write_bytes(b"PAR1 torn")
    torn.write_bytes(b"PAR1")
    assert len(read_entries(tmp_path)) == 2
    DatasetWriter(tmp_path, SPEC).__exit__(None, None, None)
    assert not orphan.exists()
    assert not torn.exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no demonstration data set"):
        read_entries(tmp_path / "nowhere")
    make_dataset(tmp_path, 3)
    (tmp_path / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"file-001.parquet is missing"):
        read_entries(tmp_path)
    (tmp_path / "meta/episodes/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DatasetError, match="metadata of episode 1 is missing"):
        read_entries(tmp_path)


def test_lerobot_opens_the_directory(tmp_path: Path) -> None:
    pytest.importorskip("lerobot", reason="needs the extra `lerobot`")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = make_dataset(tmp_path / "set", 3)
    dataset = LeRobotDataset("local/test", root=root)
    assert (dataset.num_episodes, dataset.num_frames) == (3, 33)
    item = dataset[12]
    assert item["task"] == "pick up the milk"
    assert tuple(item["observation.images.wrist"].shape) == (3, SIZE, SIZE)
    np.testing.assert_allclose(item["action"].numpy(), make_episode(1, 0, 11).actions[2])
