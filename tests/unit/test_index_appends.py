"""Appending during operation: what returned is remembered; a kill at any point leaves before or after."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_fakes import BOWL, LENGTH, MILK, N_ROWS, PROPRIO, lived, make_store, nearest_tokens, opened
from kills import killed_before_call

from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.index.inspection import check, info
from heisd.index.record import row_dtype
from heisd.index.store import Store
from heisd.types import TokenOrigin

BOUND = 10
RECORD = row_dtype(8).itemsize


def remembers_now(store: Store, seed: int) -> bool:
    """Whether every step of ``lived(seed)`` is found by its own key."""
    steps = lived(seed)
    return all(nearest_tokens(store, key) == step.tolist() for key, step in zip(steps.keys, steps.tokens, strict=True))


def remembers(root: Path, seed: int) -> bool:
    """The same after opening the store anew."""
    with opened(root, BOUND) as store:
        return remembers_now(store, seed)


def appended(root: Path, *seeds: int) -> None:
    with opened(root, BOUND) as store:
        for seed in seeds:
            store.append(MILK, lived(seed), f"run{seed}")


def test_what_was_appended_is_found_now_and_after_reopening(tmp_path: Path) -> None:
    keys = make_store(tmp_path)
    steps = lived(1)
    with opened(tmp_path, BOUND) as store:
        store.append(MILK, steps, "run1")
        found = store.lookup(MILK, steps.keys[1], PROPRIO, 1)
        assert found is not None
        assert found.episodes == ("run1",)
        assert (int(found.frame[0]), int(found.n_following[0])) == (1, 2)
        assert found.chain(0, 9).shape == (3, 7)
        assert store.n_appended_rows == 4
        old = store.lookup(MILK, keys[MILK][LENGTH], PROPRIO, 1)
        assert old is not None
        assert int(old.ranking.rows[0]) == LENGTH
    assert remembers(tmp_path, 1)
    assert (info(tmp_path).n_appended_rows, check(tmp_path).n_appended_rows, check(tmp_path).is_ok) == (4, 4, True)


def test_an_evaluation_does_not_see_what_was_appended(tmp_path: Path) -> None:
    make_store(tmp_path)
    before = nearest_tokens(opened(tmp_path), lived(1).keys[0])
    appended(tmp_path, 1)
    assert opened(tmp_path).n_appended_rows == 0
    assert nearest_tokens(opened(tmp_path), lived(1).keys[0]) == before


def test_neighbours_are_a_snapshot(tmp_path: Path) -> None:
    make_store(tmp_path)
    with opened(tmp_path, 4) as store:
        store.append(MILK, lived(1), "run1")
        found = store.lookup(MILK, lived(1).keys[2], PROPRIO, 1)
        assert found is not None
        chain = found.chain(0, 2).copy()
        store.append(MILK, lived(2), "run2")  # evicts all of run1
        assert found.episodes == ("run1",)
        assert np.array_equal(found.chain(0, 2), chain)


def test_only_the_policys_own_actions_of_known_tasks_may_be_remembered(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(BadInput, match="not open for appending"):
        opened(tmp_path).append(MILK, lived(1), "run")
    with pytest.raises(BadInput, match="max_appended_rows"):
        opened(tmp_path, -1)
    with opened(tmp_path, BOUND) as store:
        for origin in (TokenOrigin.SKIPPED, TokenOrigin.COMPENSATED):
            with pytest.raises(BadInput, match="not the policy's own choice"):
                store.append(MILK, lived(1, origin_of_tokens=origin), "run")
        mixed = [[TokenOrigin.DECODED] * 7] * 3 + [[TokenOrigin.DECODED] * 6 + [TokenOrigin.SKIPPED]]
        with pytest.raises(BadInput, match=r"steps \[3\]"):
            store.append(MILK, replace(lived(1), origins=mixed), "run")
        with pytest.raises(UnknownName, match="pick up the milkshake"):
            store.append("pick up the milkshake", lived(1), "run")
        with pytest.raises(BadInput, match="must rise"):
            store.append(MILK, replace(lived(1), frame=np.array([0, 1, 1, 2])), "run")
        with pytest.raises(BadInput, match="one origin per token"):
            store.append(MILK, replace(lived(1), origins=[]), "run")
        with pytest.raises(BadInput, match="action tokens"):
            store.append(MILK, replace(lived(1), tokens=np.zeros((4, 7), dtype=np.int64)), "run")
        assert store.n_appended_rows == 0


def test_left_out_steps_break_the_chain(tmp_path: Path) -> None:
    make_store(tmp_path)
    steps = replace(lived(1), frame=np.array([3, 4, 7, 8]))
    with opened(tmp_path, BOUND) as store:
        store.append(MILK, steps, "run1")
        found = store.lookup(MILK, steps.keys[1], PROPRIO, 1)
    assert found is not None
    assert (int(found.frame[0]), found.chain(0, 5).shape) == (4, (1, 7))


@pytest.mark.parametrize("n_steps", [1, 3, 4, 10, 23])
def test_eviction_keeps_the_newest_rows_and_bounds_the_disk(tmp_path: Path, n_steps: int) -> None:
    make_store(tmp_path)
    expected: list[tuple[str, int]] = []
    with opened(tmp_path, BOUND) as store:
        for seed in range(12):
            store.append(MILK, lived(seed, n_steps), f"run{seed}")
            expected = (expected + [(f"run{seed}", t) for t in range(n_steps)])[-BOUND:]
            tail = store.index.shards[0].tail
            assert tail is not None
            live = [(tail.episodes[row["episode"]], int(row["frame"])) for row in tail.rows]
            assert live == expected
            files = list((tmp_path / "appended").glob("*.rows"))
            assert len(files) == 1
            assert files[0].stat().st_size <= 2 * BOUND * RECORD
    with opened(tmp_path, BOUND) as store:
        tail = store.index.shards[0].tail
        assert tail is not None
        assert [(tail.episodes[row["episode"]], int(row["frame"])) for row in tail.rows] == expected
    with opened(tmp_path, 2) as store:  # a smaller bound later keeps the newest
        assert store.n_appended_rows == min(2, len(expected))


def test_tasks_are_appended_to_apart(tmp_path: Path) -> None:
    make_store(tmp_path)
    with opened(tmp_path, BOUND) as store:
        store.append(MILK, lived(1), "run1")
        store.append(BOWL, lived(2), "run2")
    with opened(tmp_path, BOUND) as store:
        assert nearest_tokens(store, lived(2).keys[0], BOWL) == lived(2).tokens[0].tolist()
        assert nearest_tokens(store, lived(2).keys[0], MILK) != lived(2).tokens[0].tolist()
        assert store.n_appended_rows == 8


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    make_store(tmp_path)
    with opened(tmp_path, BOUND), pytest.raises(BadArtifact, match="another process appends"):
        opened(tmp_path, BOUND)
    opened(tmp_path, BOUND).close()


@pytest.mark.parametrize("is_rewrite", [False, True], ids=["grow", "rewrite"])
def test_a_kill_between_any_two_system_calls_leaves_before_or_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_rewrite: bool
) -> None:
    """Kill before the n-th fsync, rename or unlink, for every n, then open what is left."""
    make_store(tmp_path / "store")
    appended(tmp_path / "store", *([1, 2, 3, 4, 5] if is_rewrite else [5]))
    n_calls, was_before, was_after = 0, 0, 0
    for n in range(100):
        root = tmp_path / f"kill{n}"
        shutil.copytree(tmp_path / "store", root)
        store = opened(root, BOUND)
        with killed_before_call(n, monkeypatch) as kill:
            store.append(MILK, lived(6), "run6")
        n_calls += kill.has_happened
        store.close()
        assert remembers(root, 5), f"killed at call {n}: what was there is lost"
        with opened(root, BOUND) as again:
            is_after = again.n_appended_rows == (BOUND if is_rewrite else 8) and remembers_now(again, 6)
            was_after, was_before = was_after + is_after, was_before + (not is_after)
            again.append(MILK, lived(7), "run7")  # and life goes on
            assert remembers_now(again, 7)
        assert check(root).is_ok
        if n_calls == n:  # nothing was left to kill
            break
    assert n_calls >= 4
    assert was_before >= 2
    assert was_after >= 2


def test_a_write_cut_at_any_byte_is_as_if_it_never_began(tmp_path: Path) -> None:
    make_store(tmp_path)
    appended(tmp_path, 1)
    rows = tmp_path / "appended/task-000-000000.rows"
    committed, journal = rows.read_bytes(), (tmp_path / "appended/journal.json").read_bytes()
    with opened(tmp_path, BOUND) as store:
        store.append(MILK, lived(2, 1), "run2")
    longer = rows.read_bytes()
    assert len(longer) == len(committed) + RECORD
    (tmp_path / "appended/journal.json").write_bytes(journal)
    for n in range(len(committed), len(longer) + 1):
        rows.write_bytes(longer[:n])
        with opened(tmp_path, BOUND) as store:
            assert store.n_appended_rows == 4
            assert remembers_now(store, 1)
    appended(tmp_path, 3)
    assert rows.read_bytes()[: len(committed)] == committed
    assert remembers(tmp_path, 1)
    assert remembers(tmp_path, 3)


def test_a_commit_cut_short_is_as_if_it_never_began(tmp_path: Path) -> None:
    make_store(tmp_path)
    appended(tmp_path, 1)
    journal = (tmp_path / "appended/journal.json").read_bytes()
    for n in range(0, len(journal) + 1, 40):
        (tmp_path / "appended/journal.json.unfinished").write_bytes(journal[:n])
        assert remembers(tmp_path, 1)


def test_rows_that_were_committed_and_are_gone_are_refused_by_name(tmp_path: Path) -> None:
    """That is no kill (the rows were synced before they were counted) but damage, and never answered from."""
    make_store(tmp_path)
    appended(tmp_path, 1)
    rows = tmp_path / "appended/task-000-000000.rows"
    whole = rows.read_bytes()
    for n_lost in range(1, RECORD + 1):
        rows.write_bytes(whole[:-n_lost])
        with pytest.raises(BadArtifact, match=r"task-000-000000\.rows is truncated.*delete the folder"):
            opened(tmp_path, BOUND)
    assert "truncated" in check(tmp_path).problems[0]
    rows.unlink()
    with pytest.raises(BadArtifact, match="cannot be read"):
        opened(tmp_path, BOUND)
    opened(tmp_path)  # the demonstrations alone are untouched
    shutil.rmtree(tmp_path / "appended")  # what the message says
    opened(tmp_path, BOUND).close()


def test_swapped_changed_and_foreign_appends_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "one")
    make_store(tmp_path / "two", seed=1)
    with opened(tmp_path / "one", BOUND) as store:
        store.append(MILK, lived(1), "run1")
        store.append(BOWL, lived(2), "run2")
    folder = tmp_path / "one/appended"
    milk, bowl = folder / "task-000-000000.rows", folder / "task-001-000000.rows"
    content = milk.read_bytes()
    milk.write_bytes(bowl.read_bytes())
    with pytest.raises(BadArtifact, match=r"task-000-000000\.rows does not hold"):
        opened(tmp_path / "one", BOUND)
    milk.write_bytes(content)
    shutil.copytree(folder, tmp_path / "two/appended")
    with pytest.raises(BadArtifact, match="belongs to another store"):
        opened(tmp_path / "two", BOUND)
    (folder / "journal.json").write_text('{"store": ')
    with pytest.raises(BadArtifact, match=r"journal\.json is not a journal"):
        opened(tmp_path / "one", BOUND)


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path, BOUND) as store:
        store.append(MILK, lived(1), "run1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(BadArtifact, match=r"no space left.*intact"):
                store.append(MILK, lived(2), "run2")
        assert store.n_appended_rows == 4
        store.append(MILK, lived(3), "run3")
        assert remembers_now(store, 1)
        assert remembers_now(store, 3)
    assert remembers(tmp_path, 3)
    assert opened(tmp_path).index.n_rows == 2 * N_ROWS
