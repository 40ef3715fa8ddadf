"""The whole store stays within its bound, whatever is appended and whenever one looks."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_fakes import BOWL, CODEC, MILK, POLICY, lived, make_store, opened

from heisd.errors import BadInput
from heisd.files import mb_on_disk
from heisd.index.inspection import check
from heisd.index.journal import MAX_START_BYTES, rows_that_fit
from heisd.index.record import row_dtype
from heisd.index.store import Store
from heisd.index.writer import MAX_STORE_MB
from heisd.types import TokenOrigin

ASKED = 10_000  # rows per task: far more than fit


def bounded(root: Path, max_mb: float, max_appended_rows: int = ASKED) -> Store:
    return Store.open(root, policy_hash=POLICY, codec=CODEC, max_appended_rows=max_appended_rows, max_mb=max_mb)


def name(number: int) -> str:
    """As long as names may be."""
    return f"{number:0{MAX_START_BYTES}d}"


@pytest.mark.parametrize("n_steps", [1, 3, 200])
def test_appends_to_every_task_never_take_the_store_beyond_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int
) -> None:
    """Looked at whenever something has reached the disk: in the middle of every append, too."""
    make_store(tmp_path)
    max_mb = mb_on_disk(tmp_path) + 0.03
    sizes_mb: list[float] = []
    fsync = os.fsync

    def looked(descriptor: int) -> None:
        fsync(descriptor)
        sizes_mb.append(mb_on_disk(tmp_path))

    monkeypatch.setattr(os, "fsync", looked)
    with bounded(tmp_path, max_mb) as store:
        for i in range(120 if n_steps < 10 else 6):
            store.append((MILK, BOWL)[i % 2], lived(i, n_steps), name(i))
        n_live = store.n_appended_rows
        found = store.lookup(BOWL, lived(i, n_steps).keys[-1], np.zeros(25, np.float32), 1)
    assert found is not None
    assert found.episodes == (name(i),)
    assert max(sizes_mb) <= max_mb
    assert n_live >= 2 * 8  # of both tasks; and the bound is used, not merely kept
    assert max(sizes_mb) > max_mb - 0.025
    assert check(tmp_path).is_ok


def test_the_bound_of_operation_is_that_of_a_new_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert MAX_STORE_MB == 60
    make_store(tmp_path)
    with opened(tmp_path, 10_000):
        assert not caplog.messages
    with opened(tmp_path, 10_000_000):
        assert "rows per task fit into 60 MB; 10000000 were asked for" in caplog.text


def test_fewer_rows_than_fit_are_as_many_as_were_asked_for(tmp_path: Path) -> None:
    make_store(tmp_path)
    with bounded(tmp_path, 1.0, max_appended_rows=3) as store:
        store.append(MILK, lived(1, 9), "run")
        assert store.n_appended_rows == 3


def test_a_store_that_fills_its_bound_takes_no_rows(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(
        BadInput, match=r"there is no room for appended rows; open it with max_appended_rows=0, or build"
    ):
        bounded(tmp_path, mb_on_disk(tmp_path))
    assert not (tmp_path / "appended").exists()
    opened(tmp_path).close()


def test_what_was_appended_under_a_wider_bound_is_cut_when_the_store_is_opened(tmp_path: Path) -> None:
    make_store(tmp_path)
    max_mb = mb_on_disk(tmp_path) + 0.03
    with opened(tmp_path, 1000) as store:
        for i in range(4):
            store.append(MILK, lived(i, 200), f"run{i}")
    assert mb_on_disk(tmp_path) > max_mb
    with bounded(tmp_path, max_mb) as store:
        assert mb_on_disk(tmp_path) <= max_mb
        found = store.lookup(MILK, lived(3, 200).keys[-1], np.zeros(25, np.float32), 1)
        assert found is not None
        assert (found.episodes, int(found.frame[0])) == (("run3",), 199)
    assert check(tmp_path).is_ok


def test_a_name_that_the_bound_does_not_reckon_with_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    with opened(tmp_path, 10) as store:
        for start in ("x" * (MAX_START_BYTES + 1), "é" * MAX_START_BYTES, '"' * MAX_START_BYTES):
            with pytest.raises(BadInput, match=f"takes at most {MAX_START_BYTES} bytes; this one "):
                store.append(MILK, lived(1), start)
        assert store.n_appended_rows == 0
        store.append(MILK, lived(1), name(1))


@pytest.mark.parametrize("origin", [o for o in TokenOrigin if o not in (TokenOrigin.DECODED, TokenOrigin.ACCEPTED)])
def test_only_tokens_that_the_target_chose_are_remembered(tmp_path: Path, origin: TokenOrigin) -> None:
    make_store(tmp_path)
    one_of_them = [[TokenOrigin.ACCEPTED] * 7] * 3 + [[TokenOrigin.DECODED] * 6 + [origin]]
    with opened(tmp_path, 10) as store:
        with pytest.raises(
            BadInput, match=r"steps \[3\] hold tokens that are not the policy's own choice; .*accepted, dec"
        ):
            store.append(MILK, replace(lived(1), origins=one_of_them), "run")
        store.append(MILK, replace(lived(1), origins=[[TokenOrigin.ACCEPTED, *[TokenOrigin.DECODED] * 6]] * 4), "run")
        assert store.n_appended_rows == 4


def test_a_rewrite_of_wide_rows_fits_too() -> None:
    """Two thirds of three copies are dead or about to be; each row has an episode of its own, in two journals."""
    record, name_bytes, room = row_dtype(128).itemsize, MAX_START_BYTES + 12, 1e6
    n = rows_that_fit(room, n_tasks=1, n_dims=128)
    assert 0.8 * room < 3 * n * record + 3 * n * name_bytes <= room
