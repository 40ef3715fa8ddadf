"""``heisd index``: build, describe and verify an experience store; and what ``heisd bench --index`` does."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from heisd.cli_base import Json, Weights, emit, fail, guarded

index = typer.Typer(help="Build, describe and verify an experience store.", no_args_is_help=True)

Store = Annotated[Path, typer.Argument(metavar="PATH", help="Directory of a store.")]
LINE_EVERY = 20  # batches, where there is no terminal for a bar


@index.command()
@guarded
def build(
    out: Annotated[Path, typer.Option("--out", help="Directory of the new store.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Demonstration data sets (repeat the option for several).")
    ] = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="The policy's own episodes (heisd train drafter records them), instead.")
    ] = None,
    weights: Weights = "default",
    share: Annotated[float, typer.Option(help="Part of each task's episodes that is kept, above 0 up to 1.")] = 1.0,
    dims: Annotated[int, typer.Option(min=1, help="Dimensions of a stored key, at most 128.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the choice of episodes and of the recall queries.")] = 0,
    json: Json = False,
) -> None:
    """Experience -> store, with the policy's own vision tower; train episodes only."""
    from heisd.index.inspection import info as describe
    from heisd.train.store import StoreConfig, run

    config = StoreConfig(n_dims=dims, share=share, seed=seed)
    with _frame_bar("encoding") as progress:
        run(data or [], rollouts, out, weights, config, command=["heisd", *sys.argv[1:]], progress=progress)
    result = describe(out).as_dict()
    emit(result, json, lambda: show_info(result))


@index.command()
@guarded
def info(path: Store, json: Json = False) -> None:
    """What is in a store: tasks, rows, size, recall of the keys, and where it came from."""
    from heisd.index.inspection import info as describe

    result = describe(path).as_dict()
    emit(result, json, lambda: show_info(result))


@index.command()
@guarded
def check(path: Store, json: Json = False) -> None:
    """Verify every file, row and episode of a store; exit code 1 when something is wrong."""
    from heisd.train.store import check_store

    report = check_store(path)
    emit(report.as_dict(), json, lambda: show_check(report.as_dict()))
    if not report.is_ok:
        fail(f"{path}: {len(report.problems)} problems; first: {report.problems[0]}", 1)


def bench_lookup() -> dict[str, Any]:
    """Latency and recall of look-ups in synthetic shards, from the one that counts to HeiSD's own sizes."""
    from heisd.bench.provenance import machine, versions
    from heisd.index.timing import BAR_P99_MS, CASES, measure_cases

    logging.getLogger("heisd.index").setLevel(logging.INFO)
    timings = measure_cases(CASES)
    judged = next(iter(timings.values()))
    is_met = judged.p99_ms < BAR_P99_MS and judged.recall_at_1 == 1.0
    return {
        "index": {name: timing.as_dict() for name, timing in timings.items()},
        "bar": {"case": next(iter(timings)), "p99_ms": BAR_P99_MS, "recall_at_1": 1.0, "is_met": is_met},
        "machine": machine(),
        "versions": versions(),
    }


def show_info(result: dict[str, Any]) -> None:
    """Two columns, tasks at the end; hashes by their first digits."""
    from heisd.cli_run import show_mapping

    hidden = ("rows_by_task", "data", "versions")
    flat = {name: value for name, value in result.items() if name not in hidden}
    flat |= {name: f"{result[name][:12]}…" for name in ("policy_hash", "encoder_hash")}
    flat |= {name: f"{result[name]:.2f}" for name in ("size_mb", "search_memory_mb")}
    show_mapping(flat | {f"rows: {task}": n for task, n in result["rows_by_task"].items()})


def show_check(result: dict[str, Any]) -> None:
    """The counts, then one problem a line."""
    from heisd.cli_run import show_mapping

    show_mapping({name: value for name, value in result.items() if name != "problems"})
    for problem in result["problems"]:
        typer.echo(problem)


def show_bench(result: dict[str, Any]) -> None:
    """One row per case."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="look-up: milliseconds, whole call", title_justify="left")
    for column in ("case", "rows", "key", "stored", "p50", "p99", "first", "recall@1", "memory MB"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, row in result["index"].items():
        config = row["config"]
        sizes = (f"{config[key]:,}" for key in ("n_rows", "full_dims", "n_dims"))
        times = (f"{row[key]:.3f}" for key in ("p50_ms", "p99_ms", "first_ms", "recall_at_1"))
        table.add_row(name, *sizes, *times, f"{row['memory_mb']:.0f}")
    Console().print(table)
    bar = result["bar"]
    verdict = "met" if bar["is_met"] else "missed"
    typer.echo(f"bar of {bar['case']}: p99 < {bar['p99_ms']} ms with recall@1 = 1: {verdict}")


@contextmanager
def _frame_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (frames done, frames in all): a bar on a terminal's stderr, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, n_calls = bar.add_task(label, total=None), 0

        def advance(done: int, total: int) -> None:
            nonlocal n_calls
            n_calls += 1
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (n_calls % LINE_EVERY == 0 or done == total):
                console.print(f"{label}: {done}/{total} frames", highlight=False)

        try:
            yield advance
        except KeyboardInterrupt:
            raise KeyboardInterrupt("no store was written; repeat the command to begin anew") from None
