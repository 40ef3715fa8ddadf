"""Reading demonstrations for training, checking them, and how predictable they are."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo_fakes import SPEC, SUITE, colour, make_dataset, make_episode
from hypothesis import given, settings
from hypothesis import strategies as st

from heisd.errors import BadInput, DatasetError, LeakError
from heisd.sim.dataset_writer import DatasetWriter
from heisd.sim.demos import check, load_demos
from heisd.sim.regularity import accepted_prefix, default_codec, measure, nearest_in_other_episodes, token_entropy


def test_frames_and_numbers_stay_together(tmp_path: Path) -> None:
    demos = load_demos([make_dataset(tmp_path, 4)], 8)
    assert demos.images.shape == (46, 2, 8, 8, 3)
    assert demos.instructions == ("pick up the soup", "pick up the soup", "pick up the milk", "pick up the milk")
    for e, origin in enumerate(demos.provenance):
        rows = np.flatnonzero(demos.episode == e)
        task, number = origin.start.task_index, origin.attempt
        written = make_episode(task, number, len(rows))
        np.testing.assert_array_equal(demos.actions[rows], written.actions)
        np.testing.assert_array_equal(demos.proprio[rows], written.proprio)
        for t, row in enumerate(rows):
            for camera in range(2):
                shown = demos.images[row, camera].reshape(-1, 3).mean(axis=0)
                np.testing.assert_allclose(shown, colour(task, number, t, camera), atol=4)


def test_order_of_recording_does_not_matter(tmp_path: Path) -> None:
    episodes = [make_episode(i % 2, i // 2, 10) for i in range(4)]
    for name, order in (("a", [0, 1, 2, 3]), ("b", [3, 1, 0, 2])):
        with DatasetWriter(tmp_path / name, SPEC) as writer:
            for i in order:
                writer.append(episodes[i])
    first, second = load_demos([tmp_path / "a"], 8), load_demos([tmp_path / "b"], 8)
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.images, second.images)


def test_cache_is_made_once_and_follows_the_content(tmp_path: Path) -> None:
    root, cache = make_dataset(tmp_path / "set", 2), tmp_path / "cache"
    load_demos([root], 8, cache_dir=cache)
    (file,) = cache.iterdir()
    stamp = file.stat().st_mtime_ns
    load_demos([root], 8, cache_dir=cache)
    assert file.stat().st_mtime_ns == stamp
    with DatasetWriter(root, SPEC) as writer:
        writer.append(make_episode(0, 7))
    assert len(load_demos([root], 8, cache_dir=cache).images) == 33
    assert len(list(cache.iterdir())) == 2


def test_images_are_read_only_and_mapped(tmp_path: Path) -> None:
    demos = load_demos([make_dataset(tmp_path, 1)], 8)
    assert isinstance(demos.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        demos.images[0] = 0


def rewrite_meta(root: Path, index: int, **values: object) -> None:
    """Change cells of an episode's metadata, as somebody editing the file would."""
    path = root / f"meta/episodes/chunk-000/file-{index:03d}.parquet"
    table = pq.read_table(path)
    for name, value in values.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array([value], field.type))
    pq.write_table(table, path)


def test_evaluation_starts_are_refused_when_loading(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 2)
    rewrite_meta(root, 1, seed=3_000_005, split="train")
    with pytest.raises(LeakError, match="test split"):
        load_demos([root], 8)
    assert any("test split" in problem for problem in check(root).problems)


def test_check_of_a_good_set(tmp_path: Path) -> None:
    report = check(make_dataset(tmp_path, 4))
    assert report.is_ok
    assert report.as_dict()["problems"] == ()
    assert (report.suite, report.n_episodes, report.n_frames) == (SUITE, 4, 46)
    assert report.episodes_by_task == {0: 2, 1: 2}


def test_check_finds_a_flipped_bit(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 2)
    file = root / "data/chunk-000/file-001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "hash" in check(root).problems[0]


def test_check_finds_stale_statistics_and_counts(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 2)
    for name, path in (("stats", "meta/stats.json"), ("total_frames", "meta/info.json")):
        text = (root / path).read_text()
        value = json.loads(text)
        value |= {"action": value["phase"]} if name == "stats" else {"total_frames": 5}
        (root / path).write_text(json.dumps(value))
        assert any(name in problem for problem in check(root).problems)
        (root / path).write_text(text)
    assert check(root).is_ok


def test_check_of_an_unfinished_set_says_so_and_still_measures(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 2)
    (root / "meta/stats.json").unlink()
    report = check(root)
    assert report.problems == ("meta/stats.json is missing: the recording is not finished",)
    assert report.regularity is not None


def test_truncated_data_file_is_one_clear_error(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, 2)
    file = root / "data/chunk-000/file-000.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"cannot read .*file-000.parquet"):
        load_demos([root], 8)


def test_nothing_to_load_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no data set"):
        load_demos([], 8)
    with DatasetWriter(tmp_path, SPEC):
        pass
    with pytest.raises(DatasetError, match="no episodes"):
        load_demos([tmp_path], 8)


def test_entropy_has_its_textbook_values(rng: np.random.Generator) -> None:
    tokens = np.stack([np.zeros(4096), np.arange(4096) % 2, np.arange(4096) % 256], axis=1)
    np.testing.assert_allclose(token_entropy(tokens), [0, 1, 8], atol=1e-12)
    skewed = (rng.random((100_000, 1)) < 0.1).astype(int)
    assert token_entropy(skewed)[0] == pytest.approx(0.469, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=7, max_size=7), st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_accepted_prefix_stops_at_the_first_difference(proposed: list[int], target: list[int]) -> None:
    expected = next((i for i in range(7) if proposed[i] != target[i]), 7)
    assert accepted_prefix(np.array([proposed]), np.array([target])).tolist() == [expected]


def test_neighbours_agree_with_brute_force(rng: np.random.Generator) -> None:
    features = rng.normal(size=(60, 5))
    episode, task = np.arange(60) // 6, np.arange(60) // 30
    scaled = features / features.std(axis=0)
    distance = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    distance[(episode[:, None] == episode[None]) | (task[:, None] != task[None])] = np.inf
    np.testing.assert_array_equal(nearest_in_other_episodes(features, episode, task), distance.argmin(axis=1))


def test_a_lonely_episode_has_no_neighbour() -> None:
    found = nearest_in_other_episodes(np.eye(4), np.zeros(4, dtype=int), np.zeros(4, dtype=int))
    assert found.tolist() == [-1] * 4


def test_regular_demonstrations_fail_the_gate_and_varied_ones_pass(tmp_path: Path) -> None:
    varied = check(make_dataset(tmp_path / "varied", 4)).regularity
    assert varied is not None
    assert varied.passes_gate
    assert varied.persistence_acceptance < 0.5
    n = 20
    actions = make_episode(length=n).actions
    codec = default_codec(actions)
    actions[:, :6] = 0.5
    regular = measure(actions, np.eye(n), np.zeros(n, dtype=int), np.zeros(n, dtype=int), codec)
    assert not regular.passes_gate
    assert regular.entropy_bits[0] == 0
    assert regular.neighbour_acceptance is None
    assert regular.persistence_acceptance == pytest.approx(7 - 1 / (n - 1))  # only the closing hand differs
