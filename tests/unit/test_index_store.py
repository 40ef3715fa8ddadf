"""The store on disk: it gives back what was put in, and refuses everything that isn't that."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from index_fakes import BOWL, CODEC, FULL_DIMS, LENGTH, MILK, N_ROWS, POLICY, PROPRIO, make_store, opened, origin

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, BadInput, LeakError
from heisd.index.inspection import check, info
from heisd.index.lookup import Index
from heisd.index.projection import Projection
from heisd.index.record import row_dtype
from heisd.index.store import Store
from heisd.index.writer import write_store


def test_a_frame_finds_itself_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    keys = make_store(tmp_path)
    store = opened(tmp_path)
    rows = np.fromfile(tmp_path / "shards/task-001.rows", dtype=row_dtype(8))
    for i in (0, 13, N_ROWS - 1):
        found = store.lookup(BOWL, keys[BOWL][i], PROPRIO, 3)
        assert found is not None
        assert (len(found), found.instruction, found.text_similarity) == (3, BOWL, 1.0)
        assert found.similarity[0] > 0.999
        assert (np.diff(found.similarity) <= 0).all()
        for name in ("bins", "proprio", "phase", "frame", "n_following"):
            assert np.array_equal(getattr(found, name)[0], rows[name][i]), name
        assert found.episodes[0] == f"libero_object/task00/seed{1_000_000 + i // LENGTH}/shipped"
        following = LENGTH - i % LENGTH
        assert np.array_equal(found.chain(0, 4), rows["bins"][i : i + min(4, following)])


def test_chains_end_with_their_episode(tmp_path: Path) -> None:
    keys = make_store(tmp_path)
    found = opened(tmp_path).lookup(MILK, keys[MILK][LENGTH - 2], PROPRIO, 1)
    assert found is not None
    assert found.n_following[0] == 1
    assert found.chain(0, 5).shape == (2, 7)
    with pytest.raises(BadInput, match="horizon 0"):
        found.chain(0, 0)


def test_an_unseen_instruction_has_no_neighbours(tmp_path: Path) -> None:
    make_store(tmp_path)
    assert opened(tmp_path).lookup("close the microwave", np.ones(FULL_DIMS), PROPRIO, 1) is None


def test_bad_queries_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    store = opened(tmp_path)
    with pytest.raises(BadInput, match=f"{FULL_DIMS} finite"):
        store.lookup(MILK, np.ones(FULL_DIMS + 1), PROPRIO, 1)
    with pytest.raises(BadInput, match="25 finite"):
        store.lookup(MILK, np.ones(FULL_DIMS), PROPRIO[:8], 1)


def test_the_gripper_comes_back_as_it_was_commanded() -> None:
    """The trap of the released HeiSD code: its store keeps the environment's sign, its verification the model's."""
    for command in (-1.0, 1.0):
        action = np.array([0.1, 0.2, -0.3, 0.0, 0.1, 0.2, command])
        bins = CODEC.encode_bins(action).astype(np.uint8)
        assert CODEC.decode(CODEC.tokens_of_bins(bins))[6] == command
        assert CODEC.tokens_of_bins(bins)[6] == (CODEC.first_token if command < 0 else CODEC.vocab_size - 1 - 127)


def test_another_policy_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(BadArtifact, match=r"manifest\.json: policy_hash is aaaaaaaaaaaa…, this policy's is bbbb"):
        opened(tmp_path, policy_hash="b" * 64)
    with pytest.raises(BadArtifact, match="encoder_hash"):
        Store.open(tmp_path, policy_hash=POLICY, codec=CODEC, encoder_hash="f" * 64)
    Store.open(tmp_path, policy_hash=POLICY, codec=CODEC, encoder_hash="e" * 64)


@pytest.mark.parametrize("name", ["q01", "q99", "vocab_size"])
def test_other_action_statistics_are_refused(tmp_path: Path, name: str) -> None:
    make_store(tmp_path)
    q01, q99 = list(CODEC.q01), list(CODEC.q99)
    q01[2] -= 1e-6 * (name == "q01")
    q99[0] += 1e-6 * (name == "q99")
    codec = ActionCodec.from_stats(CODEC.vocab_size + (name == "vocab_size"), q01, q99)
    with pytest.raises(BadArtifact, match=f"differ from the policy's in {name}"):
        opened(tmp_path, codec=codec)


@pytest.mark.parametrize("kind", ["split", "episode_split"])
def test_a_store_with_evaluation_episodes_is_refused(tmp_path: Path, kind: str) -> None:
    make_store(tmp_path, **{kind: "test"})  # type: ignore[arg-type]
    with pytest.raises(LeakError, match="'test' split"):
        opened(tmp_path)
    assert "'test' split" in check(tmp_path).problems[0]


def test_a_shard_truncated_anywhere_in_its_last_record_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    file = tmp_path / "shards/task-001.rows"
    whole = file.read_bytes()
    for n_lost in range(1, row_dtype(8).itemsize + 1):
        file.write_bytes(whole[:-n_lost])
        with pytest.raises(BadArtifact, match=r"task-001\.rows has .* truncated"):
            opened(tmp_path)
    file.write_bytes(whole + b"x")
    with pytest.raises(BadArtifact, match=r"task-001\.rows has .* longer"):
        opened(tmp_path)
    file.write_bytes(whole)
    opened(tmp_path)


def _swap(root: Path) -> None:
    first, second = root / "shards/task-000.rows", root / "shards/task-001.rows"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _flip(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[len(content) // 2] ^= 1
        (root / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap, r"task-000\.rows has sha256"),
        (_flip("shards/task-000.rows"), r"task-000\.rows has sha256"),
        (_flip("projection.safetensors"), r"projection\.safetensors has sha256"),
        (_flip("episodes.json"), r"episodes\.json has sha256"),
        (lambda root: (root / "shards/task-000.rows").unlink(), r"task-000\.rows cannot be read"),
        (lambda root: (root / "manifest.json").unlink(), "no finished store"),
        (lambda root: (root / "manifest.json").write_text("{"), r"manifest\.json is not the manifest"),
    ],
    ids=["swapped", "bit in shard", "bit in projection", "bit in episodes", "missing", "unfinished", "torn manifest"],
)
def test_damage_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    make_store(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadArtifact, match=message):
        opened(tmp_path)


def test_files_of_another_store_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "one")
    make_store(tmp_path / "two", seed=1)
    for name in ("projection.safetensors", "shards/task-001.rows"):
        original = (tmp_path / "one" / name).read_bytes()
        shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
        with pytest.raises(BadArtifact, match=f"{name} has sha256"):
            opened(tmp_path / "one")
        (tmp_path / "one" / name).write_bytes(original)


def test_a_manifest_that_points_outside_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../x"] = manifest["files"].pop("shards/task-000.rows")
    manifest["tasks"][0]["file"] = "../x"
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="outside the store"):
        opened(tmp_path)


def test_a_finished_store_is_not_overwritten_and_size_is_bounded(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(BadInput, match="already holds a store"):
        make_store(tmp_path)
    projection = Projection(np.zeros(130, dtype=np.float32), np.eye(130, dtype=np.float32))
    with pytest.raises(BadInput, match="1 to 128 dimensions; got 130"):
        write_store(tmp_path / "wide", [], projection, origin())


def test_info_and_check_describe_a_store(tmp_path: Path) -> None:
    make_store(tmp_path)
    described = info(tmp_path)
    assert described.rows_by_task == {MILK: N_ROWS, BOWL: N_ROWS}
    assert (described.n_rows, described.n_appended_rows, described.n_dims) == (2 * N_ROWS, 0, 8)
    assert described.search_memory_mb == pytest.approx(2 * N_ROWS * 8 * 4 / 1e6)
    json.dumps(described.as_dict(), allow_nan=False)
    report = check(tmp_path)
    assert report.is_ok
    assert (report.n_rows, report.n_episodes) == (2 * N_ROWS, 6)
    (tmp_path / "shards/task-000.rows").write_bytes(b"")
    assert "task-000.rows" in check(tmp_path).problems[0]
    assert check(tmp_path).as_dict()["is_ok"] is False


def test_shards_and_instructions_go_together() -> None:
    with pytest.raises(BadInput, match="1 instructions for 0 shards"):
        Index(["a"], [], Projection(np.zeros(2), np.eye(2)))


def test_the_store_needs_no_torch() -> None:
    code = "import heisd.index.store, heisd.index.inspection, heisd.index.timing, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
