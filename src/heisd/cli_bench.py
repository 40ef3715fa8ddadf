"""``heisd bench``: latencies; and with an option the look-up's, the table of costs, or the check of exactness."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heisd import cli_index
from heisd.cli_base import Delay, Dtype, EulerSteps, Executed, Json, Weights, emit, fail, guarded

if TYPE_CHECKING:
    from heisd.bench.latency import BenchConfig

LINE_EVERY = 200  # observations, where there is no terminal for a bar


@guarded
def bench(
    method: Annotated[
        str,
        typer.Option(
            help="Methods, separated by commas (default: ar); with --check-exact also proposers and combinations "
            "such as kalman+persistence (default: all there are)."
        ),
    ] = "",
    observations: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded observations (.npz), recorded if left out; --check-exact reads several."),
    ] = None,
    suite: Annotated[str, typer.Option(help="Where to record observations when none are given.")] = "libero_object",
    steps: Annotated[int, typer.Option(min=1, help="Control steps that are timed, or checked, per method.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed steps before, reported apart.")] = 10,
    weights: Weights = "default",
    dtype: Dtype = "float32",
    threads: Annotated[int, typer.Option(min=0, help="Policy threads; 0 leaves torch's choice.")] = 0,
    euler_steps: EulerSteps = None,
    executed: Executed = None,
    delay: Delay = None,
    index: Annotated[bool, typer.Option("--index", help="Time the experience store's look-up instead.")] = False,
    costs: Annotated[bool, typer.Option("--costs", help="Measure the table of costs that predictions use.")] = False,
    check_exact: Annotated[
        bool, typer.Option("--check-exact", help="Count tokens that differ from plain decoding's; exit code 1 if any.")
    ] = False,
    report_flips: Annotated[
        bool, typer.Option("--report-flips", help="With --check-exact: report the rate, in any precision, and exit 0.")
    ] = False,
    json: Json = False,
) -> None:
    """Latency by stage on recorded observations, methods interleaved; other measurements by option."""
    files = observations or []
    _one_of(index=index, costs=costs, check_exact=check_exact)
    _refuse(report_flips and not check_exact, "--report-flips belongs to --check-exact")
    _refuse(len(files) > 1 and not check_exact, "several --observations are read by --check-exact alone; give one file")
    _refuse(bool(method) and (index or costs), "--index and --costs measure parts, not methods; leave --method out")
    if index:
        lookups = cli_index.bench_lookup()
        emit(lookups, json, lambda: cli_index.show_bench(lookups))
        return
    from heisd.bench.latency import BenchConfig

    if check_exact:
        names = tuple(name.strip() for name in method.split(",") if name.strip())
        _check_exact(BenchConfig(names, suite, steps, warmup, weights, dtype, threads), files, report_flips, json)
        return
    file = files[0] if files else None
    if costs:
        _costs(BenchConfig(("ar",), suite, steps, warmup, weights, dtype, threads), file, json)
        return
    from heisd import cli_run
    from heisd.bench.methods import parse_methods

    methods = parse_methods(method or "ar")
    result = cli_run.bench(methods, file, suite, steps, warmup, weights, dtype, threads, euler_steps, executed, delay)
    emit(result, json, lambda: cli_run.show_bench(result))


def _check_exact(config: "BenchConfig", files: list[Path], report_flips: bool, json: bool) -> None:
    from heisd.bench.check_exact import check_exact

    with _bar("checking") as progress:
        result = check_exact(config, files, report_flips=report_flips, progress=progress)
    emit(result, json, lambda: show_exact(result))
    wrong = [name for name, block in result.get("exact", {}).items() if block["differing_tokens"]]
    if wrong:
        fail(f"{len(wrong)} of {len(result['exact'])} do not give plain decoding's tokens: {', '.join(wrong)}", 1)


def _costs(config: "BenchConfig", file: Path | None, json: bool) -> None:
    from heisd.bench.libero_world import require_dtype
    from heisd.bench.measure_costs import measure_costs

    require_dtype(config.dtype)
    result = measure_costs(config, file)
    emit(result, json, lambda: show_costs(result))


def show_exact(result: dict[str, Any]) -> None:
    """One row per engine: guesses kept, forwards of the language model per action."""
    from rich.console import Console
    from rich.table import Table

    blocks = result.get("exact") or result["flips"]
    table = Table(title=f"tokens that differ from plain decoding's, {result['dtype']}", title_justify="left")
    table.add_column("engine", overflow="fold")
    for column in ("steps", "tokens", "differing", "kept", "forwards", "faults"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in blocks.items():
        counts = (row["n_steps"], row["n_tokens"], row["differing_tokens"], row["kept_tokens"])
        forwards = f"{row['lm_forwards'] / row['n_steps']:.2f}" if row["n_steps"] else "-"
        table.add_row(name, *(f"{count:,}" for count in counts), forwards, str(row["faults"]))
    Console().print(table)


def show_costs(result: dict[str, Any]) -> None:
    """The table, then the times behind it."""
    from heisd.cli_run import latency_table, show_mapping, stdout

    show_mapping({name: f"{ms:.3f}" for name, ms in result["costs"].items()})
    parts, total = dict(result["parts_ms"]), "plain/full clock"
    stdout.print(latency_table("milliseconds a step (ENGINE/STAGE)", parts.pop(total), parts, total=total))
    typer.echo(f"without skipping no method can be faster than {result['ceiling']:.2f}x")


def _one_of(**options: bool) -> None:
    given = [f"--{name.replace('_', '-')}" for name, is_given in options.items() if is_given]
    _refuse(len(given) > 1, f"{' and '.join(given)} are different measurements; give one of them")


def _refuse(is_wrong: bool, message: str) -> None:
    from heisd.errors import BadInput

    if is_wrong:
        raise BadInput(message)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, in all): a bar on a terminal's stderr, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (done % LINE_EVERY == 0 or done == total):
                console.print(f"{label}: {done}/{total} observations", highlight=False)

        yield advance
