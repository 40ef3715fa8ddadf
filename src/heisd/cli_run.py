"""What the commands of :mod:`heisd.cli` do, behind their options: progress on stderr, tables on stdout."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from heisd.bench.evaluate import evaluate as run_evaluation
from heisd.bench.overhead import overhead_text
from heisd.bench.results import EpisodeRecord
from heisd.config import EvalConfig
from heisd.errors import BadInput
from heisd.sim.splits import Condition

stderr = Console(stderr=True)
stdout = Console()
LINE_EVERY = 5  # episodes, where there is no terminal for a bar


def evaluate(config: EvalConfig, out: Path) -> dict[str, Any]:
    """Run or resume an evaluation on LIBERO with a progress bar; an interrupt says what is kept."""
    from heisd.bench.libero_world import libero_setting

    setting = libero_setting(config)
    with progress_bar(f"{config.suite} {','.join(config.methods)}", config.episodes * len(config.methods)) as bar:
        return run_evaluation(config, out, setting, progress=bar)


class EpisodeBar:
    """Advances with every record and remembers how far it came."""

    def __init__(self, bar: Progress, total: int, label: str) -> None:
        self._bar, self._label = bar, label
        self._task = bar.add_task(label, total=total)
        self.done, self.total, self._solved, self._seen = 0, total, 0, 0
        self._began_s = time.monotonic()

    def __call__(self, record: EpisodeRecord, done: int, total: int) -> None:
        """The progress callback of an evaluation."""
        self.done, self.total = done, total
        self._seen += record.valid
        self._solved += record.success
        if record.valid and not stderr.is_terminal and (done % LINE_EVERY == 0 or done == total):
            stderr.print(f"{self._label}: {done}/{total} episodes, {self._so_far}", highlight=False)
        self._bar.update(self._task, completed=done, total=total, description=f"{self._label}  {self._so_far}")

    @property
    def _so_far(self) -> str:
        per_minute = 60 * self._seen / max(time.monotonic() - self._began_s, 1e-3)
        return f"solved {self._solved}/{self._seen}, {per_minute:.1f} episodes/min"


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[EpisodeBar]:
    """A bar on stderr; an interrupt inside becomes one that says how many episodes are saved."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as rich_bar:
        bar = EpisodeBar(rich_bar, total, label)
        try:
            yield bar
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{bar.done} of {bar.total} episodes are saved; repeat the command to go on"
            ) from None


def show_result(result: dict[str, Any], out: Path) -> None:
    """Success per task and method, and speed when it was timed."""
    stdout.print(success_table(result))
    for name, block in result["methods"].items():
        if block["ms_per_action"]["n"]:
            show_latencies(name, block)
        if block["speedup_vs_baseline"]:
            speed = block["speedup_vs_baseline"]
            stdout.print(
                f"{name}: {speed['ratio']:.2f}x, 95 % {speed['ci95'][0]:.2f}-{speed['ci95'][1]:.2f} (full clock)"
            )
        if block["paired"]:
            paired = block["paired"]
            stdout.print(
                f"{name}: {paired['difference_points']:+.1f} points against the baseline, "
                f"95 % {paired['ci95'][0]:+.1f} to {paired['ci95'][1]:+.1f}"
            )
        if block["realtime"]:
            stdout.print(pace_line(name, block["realtime"]))
    pace = result.get("throughput", {}).get("episodes_per_minute")
    if pace is not None:
        stdout.print(f"{pace:g} episodes per minute, workers: {result['throughput']['workers']}")
    stdout.print(f"result: {out / 'eval_info.json'}")


def pace_line(name: str, pace: dict[str, Any]) -> str:
    """How a method kept up with a world that does not wait."""
    if not pace["n_control_steps"]:
        return f"{name}: no control step"
    return (
        f"{name}: {pace['effective_control_hz']:.1f} new actions a second, "
        f"{100 * pace['stale_action_ratio']:.0f} % of the control steps without one, "
        f"{100 * pace['deadline_misses']['share']:.0f} % of the answers late, "
        f"charged {pace['charged_ms']['mean']:.1f} ms on average"
    )


def show_shifts() -> None:
    """The list behind ``--shift help``."""
    from heisd.sim.shifts import describe

    table = Table(title="--shift NAME[:PARAMETERS][+NAME...]", title_justify="left")
    for column in ("name", "what changes", "parameters, in order"):
        table.add_column(column, overflow="fold")
    for row in describe():
        table.add_row(*row)
    stdout.print(table)


def show_methods() -> None:
    """The list behind ``--method help``: presets, then their ablations."""
    from heisd.policies.manifest import KINDS
    from heisd.presets import ABLATIONS, PRESETS

    presets = Table(title="--method NAME[,NAME...]: presets", title_justify="left")
    for column in ("name", "runs", "needs beside the policy"):
        presets.add_column(column, overflow="fold")
    for name, preset in PRESETS.items():
        if name not in ABLATIONS:
            presets.add_row(name, KINDS[preset.policy], ", ".join(preset.needs) or "-")
    ablations = Table(title="ablations: a preset but for one part (docs/ablations.md)", title_justify="left")
    for column in ("name", "of", "what differs"):
        ablations.add_column(column, overflow="fold")
    for name, preset in ABLATIONS.items():
        ablations.add_row(name, preset.ablates, preset.changes)
    stdout.print(presets)
    stdout.print(ablations)


def success_table(result: dict[str, Any]) -> Table:
    """One row per task, one column per method."""
    methods = result["methods"]
    config = result["config"]
    told = ("suite", "split", "condition", "shift", "shard", "protocol", "rendering")
    title = " · ".join(str(config[key]) for key in told if config.get(key))
    if config.get("realtime"):
        title += f" · real time: {result['latency_profile']['name']}"
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    for name in methods:
        table.add_column(f"{name}", justify="right")
    first = next(iter(methods.values()))
    for i, task in enumerate(first["per_task"]):
        cells = [f"{b['per_task'][i]['n_successes']}/{b['per_task'][i]['n_episodes']}" for b in methods.values()
                 if i < len(b["per_task"])]  # fmt: skip
        table.add_row(f"{task['task_id']} {task['instruction']}", *cells)
    table.add_section()
    table.add_row("all (Wilson 95 %)", *[_rate(block) for block in methods.values()], style="bold")
    return table


def _rate(block: dict[str, Any]) -> str:
    if block["pc_success"] is None:
        return "no episode"
    low, high = block["wilson95"]
    return f"{block['pc_success']:.1f} % ({low:.0f}-{high:.0f})"


def latency_table(
    title: str, whole: dict[str, Any], stages: dict[str, dict[str, Any]], *, total: str = "full clock"
) -> Table:
    """Stages and, in bold, what they are part of: n, p50, p95, p99, mean."""
    table = Table(title=title, title_justify="left")
    for column in ("stage", "n", "p50", "p95", "p99", "mean"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, row in {**stages, total: whole}.items():
        figures = ["-" if row[k] is None else f"{row[k]:.2f}" for k in ("p50", "p95", "p99", "mean")]
        table.add_row(name, str(row["n"]), *figures, style="bold" if name == total else None)
    return table


def show_latencies(name: str, block: dict[str, Any]) -> None:
    """The table of a method's stages, and what those that no network runs in add up to."""
    stdout.print(latency_table(f"{name}: milliseconds per action", block["ms_per_action"], block["stages"]))
    if (overhead := overhead_text(block)) is not None:
        stdout.print(f"{name}: {overhead}")


def bench(
    methods: Sequence[str], observations: Path | None, suite: str, steps: int, warmup: int,
    weights: str, dtype: str, threads: int, euler_steps: int | None = None, executed: int | None = None,
    delay: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Latencies on recorded observations, recorded first when no file is given."""
    from heisd.bench.latency import BenchConfig, measure

    config = BenchConfig(tuple(methods), suite, steps, warmup, weights, dtype, threads, euler_steps, executed, delay)
    return measure(config, observations)


def show_bench(result: dict[str, Any]) -> None:
    """One table per method, then the cost ratio that bounds every speed-up."""
    for name, block in result["methods"].items():
        show_latencies(name, block)
        stdout.print(f"{name}: {result['warmup']} warm-up steps, first {block['first_ms']:.1f} ms, not counted above")
        if rounds := block.get("ms_per_round"):
            n_actions = block["ms_per_action"]["n"] / rounds["n"]
            stdout.print(
                f"{name}: {rounds['n']} rounds of {n_actions:.1f} actions, {rounds['mean']:.2f} ms a round "
                f"(p50 {rounds['p50']:.2f}, p95 {rounds['p95']:.2f}); the mean above is per executed action"
            )
    if result["cost_ratio"]["decode_over_prefill"] is not None:
        stdout.print(
            f"cost ratio 6D/(V+P) = {result['cost_ratio']['decode_over_prefill']:.2f}: without skipping no method "
            f"can be faster than {result['cost_ratio']['ceiling']:.2f}x"
        )


def collect(
    suite: str,
    episodes: int,
    out: Path | None,
    workers: int,
    seed: int,
    tasks: tuple[int, ...] | None,
    driver: str | None = None,
    driver_noise_bins: float = 0.0,
    condition: Condition = Condition.SHIPPED,
    is_unaided: bool = False,
) -> dict[str, Any]:
    """Collect demonstrations."""
    if out is None:
        raise BadInput("collect needs --out DIR (or --check DIR to read a data set back)")
    from heisd.sim.collect import collect as run_collection

    return run_collection(
        suite, episodes, out, workers=workers, seed=seed, tasks=tasks, driver=driver,
        driver_noise_bins=driver_noise_bins, condition=condition, is_unaided=is_unaided,
    ).as_dict()  # fmt: skip


def check(path: Path) -> dict[str, Any]:
    """Read a data set back and verify it."""
    from heisd.sim.demos import check as check_dataset

    return check_dataset(path).as_dict()


def show_mapping(result: dict[str, Any]) -> None:
    """A flat result as two columns."""
    table = Table(show_header=False)
    for key, value in result.items():
        table.add_row(key, str(value))
    stdout.print(table)
