"""How long a look-up takes: the measurement behind ``heisd bench --index``."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heisd.errors import BadInput
from heisd.index.lookup import Index
from heisd.index.projection import Projection
from heisd.index.record import N_ACTION, make_rows
from heisd.index.search import cosine
from heisd.index.shard import Part, Shard
from heisd.policies.proprio import FLAT_SIZE
from heisd.types import FloatArray

log = logging.getLogger(__name__)

BAR_P99_MS = 1.0  # of the first case, with recall@1 = 1
_MEMINFO = Path("/proc/meminfo")
_INSTRUCTION = "pick up the milk and place it in the basket"
_STEP = 0.1  # of the random walk, in units of the spread between episodes: neighbours in time resemble each other
_EPISODE_LENGTH = 140  # control steps, about LIBERO's mean
_BRUTE_FORCE_ROWS = 4096  # compared at a time
_MAX_QUERIES = 1000  # different ones, asked in turn


@dataclass(frozen=True, slots=True)
class LookupBench:
    """One shard and how often it is asked."""

    n_rows: int = 10_147  # the largest shard of LIBERO's 40
    full_dims: int = 256  # of the policy's key: the bundled policy's width
    n_dims: int = 128  # stored
    k: int = 5
    n_queries: int = 2_000
    n_recall_queries: int = 200  # also answered by brute force
    warmup: int = 20
    seed: int = 0

    @property
    def peak_mb(self) -> float:
        """Memory it takes at most: keys four times in float32 while they are made, rows, projection and queries."""
        per_row = 18 * self.n_dims + 500
        n_queries = min(self.n_queries, _MAX_QUERIES)
        return (self.n_rows * per_row + 8 * self.full_dims * (self.n_dims + n_queries)) / 1e6


# The first one is judged; the others show what more rows and wider keys cost.
CASES: Mapping[str, LookupBench] = {
    "largest_task": LookupBench(),
    "all_tasks_in_one": LookupBench(n_rows=273_465, n_queries=400, n_recall_queries=20),
    "heisd_key": LookupBench(full_dims=4352),
    "heisd_key_unreduced": LookupBench(full_dims=4352, n_dims=4352, n_queries=400, n_recall_queries=20),
}


@dataclass(frozen=True, slots=True)
class LookupTiming:
    """Latency of whole look-ups (routing, projection, search, copying out), and that they are right."""

    config: LookupBench
    p50_ms: float
    p99_ms: float
    mean_ms: float
    first_ms: float  # includes making the float32 keys
    recall_at_1: float  # against brute force in float64 over the same stored keys
    memory_mb: float  # float32 keys and the rows

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


def measure_cases(
    cases: Mapping[str, LookupBench], *, available_mb: Callable[[], float | None] | None = None
) -> dict[str, LookupTiming]:
    """Measure one case after the other.

    Raises BadInput, before anything is measured, when a case needs more memory than is available.
    """
    free_mb = (available_memory_mb if available_mb is None else available_mb)()
    for name, config in cases.items():
        if free_mb is not None and config.peak_mb > free_mb:
            raise BadInput(
                f"timing {name} ({config.n_rows:,} rows of {config.n_dims} dimensions) takes about "
                f"{config.peak_mb:,.0f} MB of memory, but only {free_mb:,.0f} MB are available; "
                "end other programs, or run it on a larger machine"
            )
    timings = {}
    for name, config in cases.items():
        log.info("timing %s: %d rows of %d dimensions", name, config.n_rows, config.n_dims)
        timings[name] = measure_lookup(config)
    return timings


def available_memory_mb(meminfo: Path = _MEMINFO) -> float | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 / 1e6 if kilobytes else None


def measure_lookup(config: LookupBench, *, now_ns: Callable[[], int] = time.perf_counter_ns) -> LookupTiming:
    """Time look-ups in a synthetic shard of random walks; queries are noisy copies of its frames.

    Raises BadInput for sizes that can't be measured.
    """
    if min(config.n_rows, config.full_dims, config.n_dims, config.k, config.n_queries, config.n_recall_queries) < 1:
        raise BadInput(f"every size of a look-up benchmark is at least 1; got {config}")
    if config.n_dims > config.full_dims:
        raise BadInput(f"a key of {config.full_dims} dimensions can't be stored with {config.n_dims}")
    rng = np.random.default_rng(config.seed)
    index = synthetic_index(config, rng)
    queries = _queries(index, config, rng)
    proprio = rng.normal(size=FLAT_SIZE).astype(np.float32)
    elapsed_ms = []
    for i in range(1 + config.warmup + config.n_queries):
        query = queries[i % len(queries)]
        began_ns = now_ns()
        index.lookup(_INSTRUCTION, query, proprio, config.k)
        elapsed_ms.append((now_ns() - began_ns) / 1e6)
    timed = np.asarray(elapsed_ms[1 + config.warmup :])
    return LookupTiming(
        config=config,
        p50_ms=float(np.quantile(timed, 0.5)),
        p99_ms=float(np.quantile(timed, 0.99)),
        mean_ms=float(timed.mean()),
        first_ms=elapsed_ms[0],
        recall_at_1=_recall(index, queries[: config.n_recall_queries], proprio),
        memory_mb=(index.shards[0].unit_keys.nbytes + index.shards[0].base.rows.nbytes) / 1e6,
    )


def synthetic_index(config: LookupBench, rng: np.random.Generator) -> Index:
    """One shard of random walks in key space."""
    n = config.n_rows
    frame = np.arange(n) % _EPISODE_LENGTH
    keys = _STEP * rng.standard_normal((n, config.n_dims), dtype=np.float32)
    keys[frame == 0] /= _STEP
    for begin in range(0, n, _EPISODE_LENGTH):
        np.cumsum(keys[begin : begin + _EPISODE_LENGTH], axis=0, out=keys[begin : begin + _EPISODE_LENGTH])
    rows = make_rows(
        keys,
        rng.normal(size=(n, FLAT_SIZE)),
        np.arange(n) // _EPISODE_LENGTH,
        frame,
        np.zeros(n, dtype=np.int64),
        rng.integers(0, 255, (n, N_ACTION)),
    )
    components = np.eye(config.full_dims, config.n_dims, dtype=np.float32)
    projection = Projection(np.zeros(config.full_dims, dtype=np.float32), components)
    episodes = tuple(f"synthetic/{i}" for i in range(1 + n // _EPISODE_LENGTH))
    return Index([_INSTRUCTION], [Shard(Part(rows, episodes))], projection)


def _queries(index: Index, config: LookupBench, rng: np.random.Generator) -> FloatArray:
    """(Q, D) keys near those of random frames."""
    stored = index.shards[0].base.rows["key"]
    chosen = rng.integers(0, len(stored), min(config.n_queries, _MAX_QUERIES))
    near = stored[chosen].astype(np.float32)
    near += 0.02 / np.sqrt(config.n_dims) * rng.standard_normal(near.shape, dtype=np.float32)
    padding = np.zeros((len(near), config.full_dims - config.n_dims), dtype=np.float32)
    return np.concatenate([near, padding], axis=1)


def _recall(index: Index, queries: FloatArray, proprio: FloatArray) -> float:
    """Share of queries whose first neighbour is as near as the nearest by brute force."""
    stored = index.shards[0].base.rows["key"]
    hits = []
    for query in queries:
        projected = index.projection(query)
        best = max(
            float(cosine(stored[begin : begin + _BRUTE_FORCE_ROWS], projected).max())
            for begin in range(0, len(stored), _BRUTE_FORCE_ROWS)
        )
        found = index.lookup(_INSTRUCTION, query, proprio, 1)
        hits.append(found is not None and float(found.similarity[0]) == best)
    return float(np.mean(hits))
