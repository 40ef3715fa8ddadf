"""The faiss backend finds what the numpy search finds, row for row."""

import builtins
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_fakes import CODEC, LENGTH, MILK, POLICY, PROPRIO, lived, make_store, nearest_tokens, opened

from heisd.errors import BadInput, MissingExtra, UnknownName
from heisd.extras import install_command
from heisd.index.record import make_rows
from heisd.index.shard import Part, Shard
from heisd.index.store import Store

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="extra missing: pip install 'heisd[faiss]'")


def part_of(keys: np.ndarray) -> Part:
    n = len(keys)
    columns = np.zeros(n, dtype=np.int64)
    rows = make_rows(keys, np.zeros((n, 25)), columns, np.arange(n), columns, np.zeros((n, 7), dtype=int))
    return Part(rows, ("a",))


@needs_faiss
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4], ids=lambda s: f"spread {s:g}")
@pytest.mark.parametrize("d", [2, 16, 128])
def test_both_backends_rank_alike_even_among_near_duplicates(spread: float, d: int) -> None:
    from heisd.index.faiss_backend import FaissShard

    for seed in range(10):
        rng = np.random.default_rng([seed, d])
        keys = rng.normal(size=d) + spread * rng.normal(size=(400, d))
        keys[50] = keys[9]
        query = (keys[9] + 0.5 * spread * rng.normal(size=d)).astype(np.float32)
        base, tail = part_of(keys[:300]), part_of(keys[300:])
        for one, other in ((Shard(base), FaissShard(base)), (Shard(base, tail), FaissShard(base, tail))):
            for k in (1, 7, len(one), len(one) + 5):
                expected, found = one.nearest(query, PROPRIO, k), other.nearest(query, PROPRIO, k)
                assert found.rows.tolist() == expected.rows.tolist()
                assert found.similarity.tolist() == expected.similarity.tolist()


@needs_faiss
def test_equal_keys_are_all_found(rng: np.random.Generator) -> None:
    from heisd.index.faiss_backend import FaissShard

    keys = np.repeat(rng.normal(size=(1, 13)), 9, axis=0)
    found = FaissShard(part_of(keys)).nearest(keys[0].astype(np.float32), PROPRIO, 2)
    assert found.rows.tolist() == [0, 1], "ties in the order of the rows, whatever faiss prefers"


@needs_faiss
def test_bad_queries_are_refused_alike() -> None:
    from heisd.index.faiss_backend import FaissShard

    shard = FaissShard(part_of(np.eye(4)))
    for query, k in ((np.zeros(3), 1), (np.full(4, np.nan), 1), (np.zeros(4), 0)):
        with pytest.raises(BadInput):
            shard.nearest(query, PROPRIO, k)


@needs_faiss
def test_a_store_opens_with_either_backend_and_appends(tmp_path: Path) -> None:
    keys = make_store(tmp_path)[MILK]

    def with_backend(name: str, **options: Any) -> Store:
        return Store.open(tmp_path, policy_hash=POLICY, codec=CODEC, backend=name, **options)

    numpy_store, faiss_store = opened(tmp_path), with_backend("faiss")
    for key in keys[:: LENGTH // 2]:
        one, other = (store.lookup(MILK, key, PROPRIO, 5) for store in (numpy_store, faiss_store))
        assert one is not None
        assert other is not None
        assert one.ranking.rows.tolist() == other.ranking.rows.tolist()
    with with_backend("faiss", max_appended_rows=10) as store:
        store.append(MILK, lived(1), "run1")
        assert nearest_tokens(store, lived(1).keys[0]) == lived(1).tokens[0].tolist()
    with with_backend("faiss", max_appended_rows=10) as store:
        assert type(store.index.shards[0]).__name__ == "FaissShard"
        assert nearest_tokens(store, lived(1).keys[0]) == lived(1).tokens[0].tolist()
    with pytest.raises(UnknownName, match="unknown search backend 'annoy'; known: faiss, numpy"):
        with_backend("annoy")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_faiss(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "heisd.index.faiss_backend", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(MissingExtra, match=re.escape(install_command("faiss"))):
        __import__("heisd.index.faiss_backend")
