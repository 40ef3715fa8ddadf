"""Small stores of random walks, without pictures or a policy."""

from pathlib import Path

import numpy as np

from heisd.codec import ActionCodec
from heisd.index.projection import Projection, fit_projection
from heisd.index.record import N_ACTION, RowArray, make_rows
from heisd.index.store import Experience, Store
from heisd.index.writer import EpisodeOrigin, Origin, TaskRows, write_store
from heisd.types import FloatArray, TokenOrigin

CODEC = ActionCodec.from_stats(1000, [-0.9] * 6 + [0.0], [0.8] * 6 + [1.0])
MILK, BOWL = "pick up the milk", "put the black bowl on the plate"
POLICY = "a" * 64
FULL_DIMS, N_DIMS, N_EPISODES, LENGTH = 24, 8, 3, 10
N_ROWS = N_EPISODES * LENGTH


def walks(rng: np.random.Generator, n_episodes: int = N_EPISODES, length: int = LENGTH) -> FloatArray:
    """(n_episodes * length, FULL_DIMS) keys that resemble each other along an episode and share a large mean."""
    steps = rng.normal(size=(n_episodes, length, FULL_DIMS)) * np.where(np.arange(length) == 0, 1.0, 0.1)[:, None]
    return (steps.cumsum(axis=1).reshape(-1, FULL_DIMS) + 5.0).astype(np.float32)


def rows_of(keys: FloatArray, projection: Projection, rng: np.random.Generator) -> RowArray:
    n = len(keys)
    return make_rows(
        projection(keys), rng.normal(size=(n, 25)), np.arange(n) // LENGTH, np.arange(n) % LENGTH,
        np.arange(n) % 5, rng.integers(0, 256, (n, N_ACTION)),
    )  # fmt: skip


def origin(split: str = "train", policy_hash: str = POLICY) -> Origin:
    return Origin(policy_hash, "e" * 64, CODEC, split, 0, "made by a test")


def make_store(
    root: Path, seed: int = 0, *, split: str = "train", episode_split: str = "train", policy_hash: str = POLICY
) -> dict[str, FloatArray]:
    """Write a store of two tasks; returns each task's full keys."""
    rng = np.random.default_rng(seed)
    keys = {text: walks(rng) for text in (MILK, BOWL)}
    projection = fit_projection(np.concatenate(list(keys.values())), N_DIMS)
    episodes = [
        EpisodeOrigin(f"libero_object/task00/seed{1_000_000 + i}/shipped", episode_split, i) for i in range(N_EPISODES)
    ]
    tasks = [TaskRows(text, rows_of(values, projection, rng), episodes) for text, values in keys.items()]
    write_store(root, tasks, projection, origin(split, policy_hash))
    return keys


def opened(root: Path, max_appended_rows: int = 0, policy_hash: str = POLICY, codec: ActionCodec = CODEC) -> Store:
    return Store.open(root, policy_hash=policy_hash, codec=codec, max_appended_rows=max_appended_rows)


def lived(seed: int, n: int = 4, origin_of_tokens: TokenOrigin = TokenOrigin.DECODED) -> Experience:
    """``n`` control steps far from every demonstration."""
    rng = np.random.default_rng([seed, 99])
    return Experience(
        keys=(20 * rng.normal(size=(n, FULL_DIMS))).astype(np.float32),
        proprio=rng.normal(size=(n, 25)).astype(np.float32),
        frame=np.arange(n),
        phase=np.zeros(n, dtype=np.int64),
        tokens=CODEC.tokens_of_bins(rng.integers(0, 256, (n, N_ACTION))),
        origins=[[origin_of_tokens] * N_ACTION] * n,
    )


PROPRIO = np.zeros(25, dtype=np.float32)


def nearest_tokens(store: Store, key: FloatArray, text: str = MILK) -> list[int]:
    """Tokens of the first neighbour."""
    found = store.lookup(text, key, PROPRIO, 1)
    assert found is not None
    return [int(token) for token in CODEC.tokens_of_bins(found.bins[0])]
