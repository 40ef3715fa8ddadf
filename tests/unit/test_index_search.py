"""The parts of the look-up: exact search, routing by words, kinematic cells, records, projection."""

import numpy as np
import pytest
from index_fakes import CODEC

from heisd.errors import BadInput
from heisd.index.kinematic_bins import bin_distance, kinematic_bins
from heisd.index.projection import Projection, fit_projection, measure_recall, read_projection
from heisd.index.record import bins_of_action_tokens, count_following, make_rows, row_dtype, unit
from heisd.index.routing import Router
from heisd.index.search import cosine, searchable, shortlist
from heisd.index.shard import Part, Shard
from heisd.index.timing import LookupBench, measure_lookup

OBJECTS = ("milk", "butter", "ketchup", "cream cheese", "alphabet soup", "salad dressing", "tomato sauce", "bbq sauce",
           "chocolate pudding", "orange juice")  # fmt: skip
INSTRUCTIONS = [f"pick up the {name} and place it in the basket" for name in OBJECTS]


def shard_of(keys: np.ndarray, proprio: np.ndarray | None = None) -> Shard:
    n = len(keys)
    columns = np.zeros(n, dtype=np.int64)
    proprio = np.zeros((n, 25)) if proprio is None else proprio
    return Shard(Part(make_rows(keys, proprio, columns, np.arange(n), columns, np.zeros((n, 7), dtype=int)), ("a",)))


def brute_force(shard: Shard, query: np.ndarray) -> np.ndarray:
    """Cosine by its definition, in float64, over the keys as stored."""
    keys = shard.base.rows["key"].astype(np.float64)
    return keys @ query.astype(np.float64) / np.linalg.norm(keys, axis=1) / np.linalg.norm(query.astype(np.float64))


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3, 1e-4], ids=lambda s: f"spread {s:g}")
@pytest.mark.parametrize("d", [2, 16, 128])
def test_search_equals_brute_force_even_among_near_duplicates(spread: float, d: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng([seed, d])
        shard = shard_of(rng.normal(size=d) + spread * rng.normal(size=(300, d)))
        query = (shard.base.rows["key"][7] + spread * rng.normal(size=d)).astype(np.float32)
        truth = brute_force(shard, query)
        found = shard.nearest(query, np.zeros(25), 10)
        assert truth[found.rows[0]] == pytest.approx(truth.max(), abs=1e-14)
        np.testing.assert_allclose(np.sort(truth)[::-1][:10], found.similarity, rtol=0, atol=1e-14)


def test_the_shortlist_holds_what_float32_would_misplace() -> None:
    """Two keys whose cosines differ by less than float32 can tell: only the second look in float64 decides."""
    d, n_wrong = 128, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        base = rng.normal(size=d)
        shard = shard_of(base + 1e-3 * rng.normal(size=(200, d)))
        query = base.astype(np.float32)
        truth = brute_force(shard, query)
        n_wrong += int((shard.unit_keys @ unit(query)).argmax()) != int(truth.argmax())
        assert shard.nearest(query, np.zeros(25), 1).rows[0] == truth.argmax()
    assert n_wrong > 0, "float32 alone was never wrong: the test proves nothing"


def test_kinematic_cells_break_ties_and_never_hide_the_nearest(rng: np.random.Generator) -> None:
    keys = rng.normal(size=(6, 8))
    keys[4] = keys[1]  # the same picture, seen with the arm elsewhere
    proprio = np.zeros((6, 25))
    proprio[:, 0] = 1.0
    proprio[4, 0] = 0.0
    shard = shard_of(keys, proprio)
    tie = shard.nearest(keys[1], np.zeros(25), 2)
    assert tie.rows.tolist() == [4, 1]
    assert tie.similarity[0] == tie.similarity[1]
    assert tie.bin_distance.tolist() == [0, 50]
    assert shard.nearest(keys[1], proprio[1], 1).rows.tolist() == [1]
    for k in (1, 6):  # with k = 6 row 4, in the robot's own cell, is a candidate too
        assert shard.nearest(keys[3], np.zeros(25), k).rows[0] == 3, "fifty cells away, but the nearest key"


@pytest.mark.parametrize("proprio", [np.full(25, np.nan), np.zeros(24)])
def test_a_state_that_is_none_is_refused_also_where_there_is_no_tie(
    proprio: np.ndarray, rng: np.random.Generator
) -> None:
    with pytest.raises(BadInput, match="25 finite"):
        shard_of(rng.normal(size=(6, 8))).nearest(np.ones(8), proprio, 2)


def test_equal_rows_tie_exactly_wherever_they_lie(rng: np.random.Generator) -> None:
    key = rng.normal(size=13).astype(np.float32)
    rows = np.concatenate([rng.normal(size=(5, 13)), [key], rng.normal(size=(9, 13)), [key, key]]).astype(np.float16)
    values = cosine(rows, key)
    assert values[5] == values[15] == values[16]


def test_small_shards_and_zero_keys_are_defined() -> None:
    shard = shard_of(np.vstack([np.zeros(4), np.eye(4)[:2]]))
    found = shard.nearest(np.array([0.0, 1.0, 0.0, 0.0]), np.zeros(25), 10)
    assert found.rows.tolist() == [2, 0, 1]
    assert found.similarity.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [(np.zeros(3), 1, "4 finite"), (np.full(4, np.nan), 1, "4 finite"), (np.zeros(4), 0, "k must")],
)
def test_bad_queries_are_refused(query: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        shortlist(searchable(np.eye(4)), query, k)


def test_the_same_words_find_their_shard() -> None:
    router = Router(INSTRUCTIONS)
    for i, text in enumerate(INSTRUCTIONS):
        route = router.route(f"  {text.upper()}. ")
        assert route is not None
        assert (route.shard, route.text_similarity) == (i, 1.0)


@pytest.mark.parametrize("text", ["pick up milk and put it in the basket", "pick the milk up, place in the basket"])
def test_other_wording_finds_the_same_task_or_nothing(text: str) -> None:
    route = Router(INSTRUCTIONS).route(text)
    assert route is None or (route.shard == 0 and route.text_similarity < 1.0)


def test_a_reworded_instruction_is_recognised() -> None:
    route = Router(INSTRUCTIONS).route("pick up milk and put it in the basket")
    assert route is not None
    assert route.shard == 0
    assert 0.6 <= route.text_similarity < 1.0


@pytest.mark.parametrize(
    ("text", "shard"),
    [
        ("grab the bowl from the cabinet's top and set it onto the plate", 0),
        ("Place the white mug inside the microwave, then shut it!", 1),
        ("put the red mug in the microwave and close it", 2),
        ("switch the stove on", 3),
        ("switch off the stove", None),
        ("put the mug on the white plate", None),
        ("slide the stove", None),
    ],
)
def test_verbs_and_prepositions_have_synonyms_things_and_colours_have_none(text: str, shard: int | None) -> None:
    tasks = ["pick up the bowl on top of the cabinet and place it on the plate",
             "put the white mug in the microwave and close it",
             "put the red mug in the microwave and close it", "turn on the stove"]  # fmt: skip
    route = Router(tasks).route(text)
    assert (None if route is None else route.shard) == shard
    assert route is None or route.text_similarity > 0.99


def test_the_same_words_in_another_order_are_another_wording() -> None:
    router = Router(["put the white mug on the left plate and the red mug on the right plate", "open the drawer"])
    swapped = router.route("put the red mug on the left plate and the white mug on the right plate")
    assert swapped is not None
    assert swapped.shard == 0
    assert 0.99 < swapped.text_similarity < 1.0


@pytest.mark.libero
@pytest.mark.parametrize(("suite", "n_found"), [("spatial", 8), ("object", 10), ("goal", 10), ("10", 10)])
def test_the_reworded_suites_find_their_tasks_or_none(suite: str, n_found: int) -> None:
    from heisd.errors import HeisdError
    from heisd.sim.suites import suite_info

    try:
        known, reworded = (suite_info(f"libero_{suite}{variant}") for variant in ("", "_lan"))
    except HeisdError as error:
        pytest.skip(str(error))
    router = Router([task.instruction for task in known.tasks])
    found = [(i, router.route(task.instruction)) for i, task in enumerate(reworded.tasks)]
    assert all(route is None or (route.shard == i and route.text_similarity < 1.0) for i, route in found)
    assert sum(route is not None for _, route in found) == n_found


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("thing", ["banana", "alphabet block", "wine bottle"])
def test_another_object_is_another_task_however_alike_the_sentence(n: int, thing: str) -> None:
    assert Router(INSTRUCTIONS[:n]).route(f"pick up the {thing} and place it in the basket") is None


def test_no_words_and_foreign_words_find_nothing() -> None:
    router = Router(INSTRUCTIONS)
    assert router.route("") is None
    assert router.route("open the drawer") is None
    with pytest.raises(BadInput, match="same instruction"):
        Router(["a b", "A  b."])
    with pytest.raises(BadInput, match="threshold"):
        Router(["a"], threshold=0.0)


def test_cells_ignore_the_sign_of_the_quaternion(rng: np.random.Generator) -> None:
    state = rng.normal(size=25)
    flipped = state.copy()
    flipped[3:7] *= -1
    assert np.array_equal(kinematic_bins(state), kinematic_bins(flipped))
    moved = state.copy()
    moved[0] += 0.02
    assert bin_distance(state, np.stack([state, moved])).tolist() == [0, 1]
    with pytest.raises(BadInput, match="25 finite"):
        kinematic_bins(np.zeros(24))


def test_following_counts_stop_at_gaps_and_ends() -> None:
    episode = np.array([0, 0, 0, 1, 1, 1])
    frame = np.array([0, 1, 2, 0, 1, 3])
    assert count_following(episode, frame).tolist() == [2, 1, 0, 1, 0, 0]
    assert count_following(episode[:0], frame[:0]).tolist() == []


def test_a_record_is_376_bytes_wide_and_packed() -> None:
    assert row_dtype(128).itemsize == 376
    assert row_dtype(8).itemsize == 120 + 16


@pytest.mark.parametrize("column", ["proprio", "phase", "bins", "keys", "frame"])
def test_rows_with_nonsense_are_refused(column: str) -> None:
    good: dict[str, np.ndarray] = {
        "keys": np.ones((2, 4)), "proprio": np.zeros((2, 25)), "episode": np.zeros(2), "frame": np.arange(2),
        "phase": np.zeros(2), "bins": np.zeros((2, 7)),
    }  # fmt: skip
    short = np.ones(2) if column == "keys" else good[column][:1]
    for wrong in (short, np.full(good[column].shape, np.nan)):
        with pytest.raises(BadInput, match=column):
            make_rows(**(good | {column: wrong}))
    if column in ("phase", "bins", "frame"):
        with pytest.raises(BadInput, match=column):
            make_rows(**(good | {column: good[column] - 1}))


def test_bins_of_tokens_keep_255_and_refuse_words() -> None:
    bins = np.arange(256, dtype=np.uint8).repeat(7).reshape(256, 7)
    assert np.array_equal(bins_of_action_tokens(CODEC, CODEC.tokens_of_bins(bins)), bins)
    for token in (CODEC.first_token - 1, CODEC.vocab_size):
        with pytest.raises(BadInput, match="action tokens"):
            bins_of_action_tokens(CODEC, np.full(7, token))
    with pytest.raises(BadInput, match="7 integer"):
        bins_of_action_tokens(CODEC, np.full(7, 990.0))


def test_principal_components_are_orthonormal_and_lossless_at_full_width(rng: np.random.Generator) -> None:
    keys = (rng.normal(size=(60, 10)) * np.arange(1, 11) + 3).astype(np.float32)
    full = fit_projection(keys, 99)
    assert (full.full_dims, full.n_dims) == (10, 10)
    np.testing.assert_allclose(full.components.T @ full.components, np.eye(10), atol=1e-5)
    centred = keys - keys.mean(axis=0)
    np.testing.assert_allclose(full(keys) @ full(keys).T, centred @ centred.T, rtol=1e-3, atol=1e-2)
    variance = full(keys).var(axis=0)
    assert (np.diff(variance) < 0).all()
    assert np.array_equal(fit_projection(keys, 3).components, full.components[:, :3])


def test_a_projection_survives_the_disk_and_refuses_other_keys(tmp_path, rng) -> None:  # type: ignore[no-untyped-def]
    projection = fit_projection(rng.normal(size=(20, 6)), 4)
    (tmp_path / "p").write_bytes(projection.dumps())
    again = read_projection(tmp_path / "p")
    key = rng.normal(size=6)
    assert np.array_equal(again(key), projection(key))
    for bad in (np.zeros(5), np.full(6, np.inf)):
        with pytest.raises(BadInput, match="6 finite"):
            again(bad)
    with pytest.raises(BadInput, match="two keys"):
        fit_projection(np.zeros((1, 6)), 4)


def test_recall_is_one_for_a_rotation_and_less_for_a_blind_projection(rng: np.random.Generator) -> None:
    keys = rng.normal(size=(200, 16)).astype(np.float32)
    shard, episode, queries = np.zeros(200, dtype=int), np.arange(200) // 10, np.arange(0, 200, 5)
    rotation = fit_projection(keys, 16)
    full = measure_recall(keys, rotation(keys), rotation.mean, shard, episode, queries)
    assert full is not None
    assert (full.n_queries, full.at_1, full.at_10) == (40, 1.0, 1.0)
    two = Projection(rotation.mean, rotation.components[:, :2])
    poor = measure_recall(keys, two(keys), two.mean, shard, episode, queries)
    assert poor is not None
    assert poor.at_1 < 0.5
    assert poor.at_1 <= poor.at_10
    assert measure_recall(keys, rotation(keys), rotation.mean, shard, np.zeros(200, dtype=int), queries) is None


def test_the_benchmark_reports_what_it_timed_and_that_it_was_right() -> None:
    ticks = iter(range(0, 10**9, 1_000_000))
    config = LookupBench(n_rows=300, full_dims=12, n_dims=8, n_queries=30, n_recall_queries=20, warmup=2)
    timing = measure_lookup(config, now_ns=lambda: next(ticks))
    assert (timing.p50_ms, timing.p99_ms, timing.first_ms) == (1.0, 1.0, 1.0)
    assert timing.recall_at_1 == 1.0
    assert timing.memory_mb == pytest.approx(300 * (8 * 4 + 120 + 16) / 1e6)
    with pytest.raises(BadInput, match="stored with"):
        measure_lookup(LookupBench(full_dims=4))
