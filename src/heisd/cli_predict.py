"""``heisd predict``: what the cost model says beside what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from heisd.cli_base import Json, emit, guarded

PARTS = ("vision_ms", "prefill_ms", "decode_ms", "rows_ms", "lookup_ms", "drafter_ms", "overhead_ms")


@guarded
def predict(
    costs: Annotated[Path, typer.Argument(help="What heisd bench --costs --json has printed.")],
    results: Annotated[
        list[Path], typer.Argument(help="What heisd bench --json has printed, or run directories of heisd eval.")
    ],
    json: Json = False,
) -> None:
    """Milliseconds per action by the cost model beside those measured, for every method of a result."""
    from heisd.bench.costs_file import predictions
    from heisd.route.costs_file import read_costs

    result = predictions(read_costs(costs), results)
    emit(result, json, lambda: show(result))


def show(result: dict[str, Any]) -> None:
    """One table per result: what the prediction is made of, the measurement, the relative error."""
    from rich.table import Table

    from heisd.cli_run import stdout

    for each in result["results"]:
        table = Table(title=f"{each['suite']}: ms per action, {each['file']}", title_justify="left")
        table.add_column("method")
        heads = [part.removesuffix("_ms") for part in PARTS]
        for column in (*heads, "predicted", "measured", "error", "speed-up", "measured"):
            table.add_column(column, justify="right")
        for name, method in each["methods"].items():
            table.add_row(name, *_cells(method), style=None if method["is_within_10_percent"] is not False else "red")
        stdout.print(table)
        if each["has_same_observations"]:
            stdout.print("note: the table of costs was measured on the same observations; another file says more")
    if result["largest_error"] is not None:
        verdict = "within" if result["is_within_10_percent"] else "beyond"
        stdout.print(f"largest error {100 * result['largest_error']:+.1f} %: {verdict} 10 %")


def _cells(method: Mapping[str, Any]) -> list[str]:
    predicted, error = method["predicted"], method["error"]
    return [
        *(f"{predicted[part]:.2f}" for part in PARTS),
        f"{predicted['total_ms']:.2f}",
        "-" if method["measured_ms"] is None else f"{method['measured_ms']:.2f}",
        "-" if error is None else f"{100 * error:+.1f} %",
        f"{method['predicted_speedup']:.2f}x",
        "-" if method["measured_speedup"] is None else f"{method['measured_speedup']:.2f}x",
    ]
