"""A share of a store's episodes: whole ones, chosen by name, searched as exactly as the whole store."""

from collections.abc import Iterator
from itertools import pairwise

import index_fakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_fakes import MILK, PROPRIO

from heisd.errors import BadInput
from heisd.index.share import chosen_episodes, share_of
from heisd.index.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("store") / "mine"
    index_fakes.make_store(root)
    with index_fakes.opened(root) as store:
        yield store


def test_a_share_holds_whole_episodes_at_least_one_and_less_is_part_of_more(store: Store) -> None:
    rows = [share_of(store, share).index for share in (0.01, 0.34, 0.67, 1.0)]
    assert [index.n_rows for index in rows] == [20, 20, 40, 60]
    for less, more in pairwise(rows):
        for a, b in zip(less.shards, more.shards, strict=True):
            assert set(a.base.rows["episode"].tolist()) <= set(b.base.rows["episode"].tolist())
    assert np.array_equal(rows[-1].shards[0].base.rows, store.index.shards[0].base.rows)
    assert share_of(store, 0.5).n_appended_rows == 0


def test_a_share_answers_as_brute_force_over_what_it_holds_and_chains_stay_whole(
    store: Store, rng: np.random.Generator
) -> None:
    part = share_of(store, 0.67)
    shard = part.index.shards[0]
    kept = {shard.base.episodes[i] for i in shard.base.rows["episode"].tolist()}
    for _ in range(20):
        key = (5 + rng.normal(size=index_fakes.FULL_DIMS)).astype(np.float32)
        found = part.lookup(MILK, key, PROPRIO, 3)
        assert found is not None
        assert set(found.episodes) <= kept
        assert len(found.chain(0, 99)) == 1 + int(found.n_following[0])
        assert found.ranking.rows[0] == np.argmax(shard.unit_keys @ part.index.projection(key))


@given(st.integers(1, 60), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_the_choice_depends_on_names_alone(n: int, a: float, b: float) -> None:
    starts = [f"suite/task00/seed{i}/shipped" for i in range(n)]
    less, more = sorted((a, b))
    assert set(chosen_episodes(starts, less)) <= set(chosen_episodes(starts, more))
    assert len(chosen_episodes(starts, a)) == max(1, round(a * n))
    names = {starts[i] for i in chosen_episodes(starts, a)}
    assert {starts[::-1][i] for i in chosen_episodes(starts[::-1], a)} == names


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_that_cannot_be_is_refused(store: Store, share: float) -> None:
    with pytest.raises(BadInput, match="above 0 and at most 1"):
        share_of(store, share)
