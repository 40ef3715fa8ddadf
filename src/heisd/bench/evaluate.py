"""``heisd eval``: closed-loop success, and with ``--timing`` speed, of one or more methods on the same starts.

Every finished episode is on disk before the next one is asked for, so a run that was killed, interrupted or ran
out of disk resumes with the same command. The result file appears only when every episode has been played.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from heisd import interrupts
from heisd.bench import realtime
from heisd.bench.appending import appended_to
from heisd.bench.provenance import append_test_log, checkout_root, git_commit, machine, versions
from heisd.bench.results import EpisodeRecord, RunDirectory, open_run
from heisd.bench.rollout import EpisodeJob, World, WorldFactory, play_or_report
from heisd.bench.summary import outcomes, summarise, unplayed
from heisd.config import EvalConfig, content_hash, parse_shard
from heisd.files import write_json
from heisd.sim.splits import EpisodeStart, Split, episode_starts

log = logging.getLogger(__name__)

MAX_TRIES = 3  # of an episode that ends in an exception
Progress = Callable[[EpisodeRecord, int, int], None]  # record, episodes done, episodes in all


@dataclass(frozen=True, slots=True)
class Setting:
    """What an evaluation needs beside its configuration; the command line passes LIBERO's, tests a toy's."""

    n_tasks: int
    world_factory: WorldFactory
    provenance: dict[str, Any]  # protocol, policy hash …: part of what must agree when a run is resumed


def evaluate(
    config: EvalConfig, out: Path, setting: Setting, *, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Play what is missing in ``out``, then write and return the result object.

    Raises BadInput when ``out`` holds another run, and whatever stops a run; what was played stays on disk.
    """
    every_start = episode_starts(
        config.suite, setting.n_tasks, config.split, config.episodes,
        condition=config.condition, fresh=config.fresh, tasks=config.tasks, offset=config.offset,
    )  # fmt: skip
    starts, filmed = starts_of_shard(every_start, config.shard), filmed_tasks(config, every_start)
    began_s, n_played = time.monotonic(), 0
    timing = {"timing": "replay"} if config.timing else {}  # older runs were timed otherwise: never one run of both
    setting = replace(setting, provenance={**setting.provenance, **realtime.provenance(config), **timing})
    run_settings = {**config.outcome_fields(), "provenance": setting.provenance}
    with interrupts.remembered(), open_run(out, run_settings) as run:
        records = run.records()
        if config.split is Split.TEST:
            append_test_log(out, config, "started", n_done=len(outcomes(records)))
        run.result_path.unlink(missing_ok=True)  # a whole result never stands beside unfinished episodes
        # Closed by name: whatever interrupts the loop must end the worker processes at once.
        with closing(_play_missing(config, run, starts, records, setting.world_factory, filmed)) as played:
            for record in played:
                run.append(record)
                records.append(record)
                n_played += record.valid
                progress(record, len(outcomes(records)), len(starts) * len(config.methods))
        result = result_of(config, setting.provenance, [start.key for start in starts], records)
        result["throughput"] = throughput(n_played, time.monotonic() - began_s, config.workers)
        if config.append_to is not None:
            result["appended_to"] = appended_to(Path(config.append_to))
        write_json(run.result_path, result)
    if config.split is Split.TEST:
        scores = {name: block["pc_success"] for name, block in result["methods"].items()}
        append_test_log(out, config, "finished", pc_success=scores, n_invalid=result["invalid"]["n"])
    return result


def _play_missing(
    config: EvalConfig,
    run: RunDirectory,
    starts: Sequence[EpisodeStart],
    records: list[EpisodeRecord],
    world_factory: WorldFactory,
    filmed: set[int],
) -> Generator[EpisodeRecord, None, None]:
    """Rounds over the episodes without an outcome; an invalid one is tried ``MAX_TRIES`` times in all."""
    for attempt in range(MAX_TRIES):
        done = {(r.method, r.key) for r in outcomes(records)}
        jobs = [
            EpisodeJob(config, method, start, attempt, run.path, film=start.task_index in filmed)
            for start in sorted(starts, key=lambda s: s.task_index)  # one task after the other: few scene rebuilds
            for method in config.methods
            if (method, start.key) not in done
        ]
        if not jobs:
            return
        yield from _play_all(jobs, config, world_factory)


def starts_of_shard(starts: Sequence[EpisodeStart], shard: str | None) -> list[EpisodeStart]:
    """Every n-th of the starts, for shard i/n from the i-th on; all of them without a shard."""
    i, n = (1, 1) if shard is None else parse_shard(shard)
    return list(starts[i - 1 :: n])


def throughput(n_episodes: int, wall_s: float, workers: int) -> dict[str, Any]:
    """How quickly this session has played; None where it found everything played."""
    per_minute = round(60.0 * n_episodes / wall_s, 2) if n_episodes and wall_s > 0 else None
    return {
        "n_episodes": n_episodes,
        "wall_s": round(wall_s, 1),
        "episodes_per_minute": per_minute,
        "workers": workers,
    }


def filmed_tasks(config: EvalConfig, starts: Sequence[EpisodeStart]) -> set[int]:
    """``config.videos`` tasks, evenly spread over those of the run."""
    tasks = sorted({s.task_index for s in starts})
    n = min(config.videos, len(tasks))
    return {tasks[i * len(tasks) // n] for i in range(n)}


def _play_all(
    jobs: Sequence[EpisodeJob], config: EvalConfig, world_factory: WorldFactory
) -> Generator[EpisodeRecord, None, None]:
    if config.workers == 1 and config.ray is None:
        with closing(world_factory(jobs[0].config, n_threads=None)) as world:
            for job in jobs:
                yield play_or_report(world, job)
        return
    items = [(world_factory, job) for job in jobs]
    with closing(_pool(config)(play_in_worker, items, config.workers, group_key=_task_of)) as pool:
        for _, record in pool:
            yield record


def _pool(config: EvalConfig) -> Callable[..., Any]:
    """Where worker processes run: here, or on a Ray cluster."""
    if config.ray is None:
        from heisd.sim.pool import run_pool

        return run_pool
    from heisd.sim.ray_pool import run_ray

    return partial(run_ray, address=config.ray)


def _task_of(item: tuple[WorldFactory, EpisodeJob]) -> int:
    return item[1].start.task_index


def play_in_worker(item: tuple[WorldFactory, EpisodeJob]) -> EpisodeRecord:
    """What a worker process runs for one episode: one policy thread, the world kept between episodes."""
    world_factory, job = item
    return play_or_report(_world_of_process(world_factory, job.config), job)


_worlds: dict[tuple[WorldFactory, str], World] = {}  # at most one: what this worker process works on


def _world_of_process(factory: WorldFactory, config: EvalConfig) -> World:
    key = (factory, content_hash(config.model_dump(mode="json")))
    if key not in _worlds:
        _worlds.clear()
        _worlds[key] = factory(config, n_threads=1)
    return _worlds[key]


def result_of(
    config: EvalConfig, provenance: dict[str, Any], starts: Sequence[str], records: Sequence[EpisodeRecord]
) -> dict[str, Any]:
    """The result object of the episodes with these keys, ``provenance`` (as a :class:`Setting` has it) within."""
    wanted = set(starts)
    mine = [r for r in records if r.key in wanted]
    invalid = unplayed(mine)
    if invalid:
        log.warning("%d episodes could not be played and are left out of every rate", len(invalid))
    return {
        "status": "invalid_episodes" if invalid else "complete",
        **summarise(config, mine, store_mb=provenance.get("store_mb")),
        "config": config.model_dump(mode="json"),
        "config_hash": content_hash(config.outcome_fields()),
        "split": config.split.value,
        "condition": config.condition.value,
        "shift": config.shift,
        "rendering": config.rendering,
        **provenance,
        "seeds": {"bootstrap": 0, "starts": list(starts)},
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }
