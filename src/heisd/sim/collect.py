"""Collect demonstrations: workers attempt, one writer keeps what is good.

Attempts of a task are numbered; a dropped one is replaced by the next number. Results are judged in the
order of their numbers, so which attempts are kept does not depend on which worker was faster.
"""

import hashlib
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from heisd.bench.provenance import versions
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.errors import BadInput
from heisd.sim.dataset import DatasetSpec
from heisd.sim.dataset_writer import DatasetWriter
from heisd.sim.demonstrate import Attempt, AttemptResult, run_attempt
from heisd.sim.pool import run_pool
from heisd.sim.protocols import parse_protocol
from heisd.sim.rendering import NONE, parse_rendering
from heisd.sim.splits import Condition
from heisd.sim.suites import suite_info
from heisd.sim.targets import require_carriable
from heisd.sim.task_queue import TaskQueue

log = logging.getLogger(__name__)

ATTEMPTS_PER_VISIT = 15  # attempts at one task before the next one, so that environments are not rebuilt all the time
LOG_EVERY = 10  # episodes, where there is no terminal for a progress bar

Execute = Callable[[Sequence[Attempt]], Iterable[tuple[Attempt, AttemptResult]]]


@dataclass(frozen=True, slots=True)
class CollectSummary:
    """What a collection did, and what the data set holds now."""

    suite: str
    out: str
    n_tries: int
    n_kept: int
    dropped: dict[str, int]  # reason -> attempts
    total_episodes: int  # in the data set, earlier runs included
    total_frames: int
    mean_length: float  # control steps
    elapsed_s: float
    frames_per_s: float  # recorded frames of this run, kept ones only
    size_mb: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)

    def __str__(self) -> str:
        dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(self.dropped.items())) or "none"
        return (
            f"{self.suite}: kept {self.n_kept} of {self.n_tries} attempts (dropped: {dropped}) "
            f"in {self.elapsed_s:.0f} s, {self.frames_per_s:.1f} frames/s; {self.out} now holds "
            f"{self.total_episodes} episodes, {self.total_frames} frames, "
            f"{self.mean_length:.0f} steps on average, {self.size_mb:.0f} MB"
        )


def collect(
    suite: str,
    n_episodes: int,
    out: Path | str,
    *,
    workers: int = 2,
    seed: int = 0,
    tasks: Sequence[int] | None = None,
    cameras: Sequence[str] = ("agentview", "wrist"),
    image_size: int = 128,
    rendering: str = "fast",
    protocol: str = "openvla",
    driver: Path | str | None = None,
    driver_noise_bins: float = 0.0,
    is_unaided: bool = False,
    condition: Condition = Condition.SHIPPED,
    execute: Execute | None = None,
) -> CollectSummary:
    """Fill ``out`` up to ``n_episodes`` demonstrations, evenly over ``tasks`` (all of the suite by default).

    Run again with the same arguments, it goes on where it stopped. With ``driver``, the name or directory of a
    policy, that policy drives first and the expert takes over wherever it is then (DAgger, with whole corrections);
    ``driver_noise_bins`` is the standard deviation of what strays from its actions, constant over some steps.
    With ``is_unaided`` no expert takes over: the driver's own episodes are recorded, solved or not, for what learns
    from a policy (a draft head) rather than from an expert.
    ``condition`` is that of every start; a belt's directions are drawn anew for every attempt.
    ``execute`` replaces the pool of ``workers`` processes (0: this process). Raises UnknownName, IncompleteSuite or
    BadInput for bad arguments, DatasetError for an unusable directory, a full disk or a task the expert cannot do.
    """
    info = suite_info(suite)
    chosen = _checked_tasks(suite, info.n_tasks, tasks, n_episodes)
    parse_protocol(protocol)
    if parse_rendering(rendering) is NONE:
        raise BadInput("demonstrations need pictures: rendering is fast or stock, not none")
    _check_condition(condition, suite, chosen)
    # Demonstrations of two versions of the experts or of the simulator do not belong in one data set.
    code = {"versions": versions(), "code": _code_hash()}
    settings = {"seed": seed, "rendering": rendering, "protocol": protocol} | code
    if condition is not Condition.SHIPPED:
        settings["condition"] = condition.value
    if driver is not None:
        driver = str(resolve_weights(str(driver), suite))
        settings["driver"] = describe_weights(Path(driver))["sha256"]
    if driver_noise_bins:
        if driver is None or not 0 < driver_noise_bins < math.inf:
            raise BadInput(
                f"a driver strays by --driver-noise, 0 or more bins; got {driver_noise_bins:g} with --driver {driver}"
            )
        settings["driver_noise_bins"] = driver_noise_bins
    if is_unaided:
        if driver is None:
            raise BadInput("--unaided records what a policy does by itself; name it with --driver")
        settings["unaided"] = True
    spec = DatasetSpec(suite, tuple(t.instruction for t in info.tasks), tuple(cameras), image_size, settings)

    def attempt(task_index: int, number: int) -> Attempt:
        return Attempt(suite, task_index, number, seed, cameras=tuple(cameras), image_size=image_size,
                       rendering=rendering, protocol=protocol, condition=condition, driver=driver,
                       driver_noise_bins=driver_noise_bins, is_unaided=is_unaided)  # fmt: skip

    with DatasetWriter(out, spec) as writer:
        return Collector(writer, chosen, n_episodes, attempt, execute or _pool(workers)).run()


class Collector:
    """Drives attempts in rounds until every task has its episodes."""

    def __init__(
        self,
        writer: DatasetWriter,
        tasks: Sequence[int],
        n_episodes: int,
        attempt: Callable[[int, int], Attempt],
        execute: Execute,
    ) -> None:
        wanted = Counter(tasks[i % len(tasks)] for i in range(n_episodes))
        self._writer, self._attempt, self._execute = writer, attempt, execute
        self._queues = {t: TaskQueue.resume(t, wanted[t], writer.entries) for t in tasks}
        if "driver" in (writer.spec.settings or {}):  # where the expert takes over decides the length
            for queue in self._queues.values():
                queue.length_ratio = math.inf
        self._n_episodes = n_episodes
        self._n_before, self._frames_before = len(writer.entries), writer.n_frames
        self._n_tries, self._dropped = 0, Counter[str]()
        self._begin_s = time.monotonic()

    def run(self) -> CollectSummary:
        """Attempt, judge, write; returns when everything asked for is on disk."""
        with _progress() as progress:
            bar = progress.add_task(self._writer.spec.suite, total=self._n_episodes, dropped=0)
            progress.update(bar, completed=self._n_before)
            while attempts := self._next_round():
                for attempt, result in self._execute(attempts):
                    self._queues[attempt.task_index].add(attempt.number, result)
                    self._n_tries += 1
                    self._settle(attempt.task_index, is_last=False)
                    progress.update(bar, completed=len(self._writer.entries), dropped=self._dropped.total())
                for task_index in self._queues:
                    self._settle(task_index, is_last=True)
                progress.update(bar, completed=len(self._writer.entries), dropped=self._dropped.total())
        return self._summary()

    def _next_round(self) -> list[Attempt]:
        """Everything still needed, a few attempts per task in turn."""
        plans = {task_index: queue.plan() for task_index, queue in self._queues.items()}
        longest = max((len(numbers) for numbers in plans.values()), default=0)
        return [
            self._attempt(task_index, number)
            for begin in range(0, longest, ATTEMPTS_PER_VISIT)
            for task_index, numbers in plans.items()
            for number in numbers[begin : begin + ATTEMPTS_PER_VISIT]
        ]

    def _settle(self, task_index: int, *, is_last: bool) -> None:
        for result, reason in self._queues[task_index].judge(is_last=is_last):
            if reason:
                self._dropped[reason] += 1
                log.info("task %d: dropped an attempt of %d steps: %s", task_index, result.n_steps, reason)
                continue
            assert result.episode is not None
            self._writer.append(result.episode)
            if len(self._writer.entries) % LOG_EVERY == 0:
                log.info("%s: %d of %d episodes", self._writer.spec.suite, len(self._writer.entries), self._n_episodes)

    def _summary(self) -> CollectSummary:
        writer, elapsed_s = self._writer, time.monotonic() - self._begin_s
        n_episodes = len(writer.entries)
        return CollectSummary(
            suite=writer.spec.suite,
            out=str(writer.root),
            n_tries=self._n_tries,
            n_kept=n_episodes - self._n_before,
            dropped=dict(self._dropped),
            total_episodes=n_episodes,
            total_frames=writer.n_frames,
            mean_length=writer.n_frames / max(1, n_episodes),
            elapsed_s=elapsed_s,
            frames_per_s=(writer.n_frames - self._frames_before) / max(elapsed_s, 1e-9),
            size_mb=sum(path.stat().st_size for path in writer.root.glob("data/*/*.parquet")) / 1e6,
        )


def _code_hash() -> str:
    """SHA-256 of the source of everything that makes a demonstration: the package this module is in."""
    home = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _check_condition(condition: Condition, suite: str, tasks: Sequence[int]) -> None:
    if condition.jitter_m:
        raise BadInput(
            f"every demonstration displaces its targets anyway: give shipped, or moving2 to moving12, not {condition}"
        )
    if condition.belt_m_s:
        require_carriable(suite, tasks)


def _checked_tasks(suite: str, n_tasks: int, tasks: Sequence[int] | None, n_episodes: int) -> list[int]:
    chosen = list(range(n_tasks)) if tasks is None else sorted(set(tasks))
    wrong = [t for t in chosen if not 0 <= t < n_tasks]
    if wrong or not chosen:
        raise BadInput(f"tasks {wrong or chosen} are not in 0-{n_tasks - 1} of {suite}")
    if n_episodes < 1:
        raise BadInput(f"{n_episodes} episodes asked for; at least 1 is needed")
    return chosen


def _pool(workers: int) -> Execute:
    if workers <= 0:
        return lambda attempts: ((attempt, run_attempt(attempt)) for attempt in attempts)
    return lambda attempts: run_pool(run_attempt, attempts, workers, group_key=_visit)


def _visit(attempt: Attempt) -> tuple[int, int]:
    """Attempts that one worker makes in a row, with one environment."""
    return attempt.task_index, attempt.number // ATTEMPTS_PER_VISIT


def _progress() -> Progress:
    console = Console(file=sys.stderr)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[dropped]} dropped"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
    )
