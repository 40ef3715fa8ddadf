"""Rewrite the tables of README.md from the committed result files: `make figures`.

Every row names the file it comes from; the command that made it is in benchmarks/README.md.
"""

import json
from pathlib import Path
from typing import Any

from comparison import PREFIX, comparison, read_comparisons

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def success_table(runs: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """One row per evaluation run, in the order of the suites and conditions."""
    lines = [
        "| suite | condition | policy | rendering | success | 95 % interval | n | mean steps | file |",
        "|---|---|---|---|--:|---|--:|--:|---|",
    ]
    for name, run in runs:
        block = next(iter(run["methods"].values()))
        low, high = block["wilson95"]
        lines.append(
            f"| {run['config']['suite']} | {run['condition']} | {run['policy']['name']} | {run['rendering']} "
            f"| **{block['pc_success']:.0f} %** | {low:.1f}–{high:.1f} | {block['n_episodes']} "  # noqa: RUF001
            f"| {block['mean_steps']:.0f} | `benchmarks/results/{name}/eval_info.json` |"
        )
    return lines


def read_runs() -> list[tuple[str, dict[str, Any]]]:
    """Complete test-split runs, sorted by suite, policy and condition."""
    paths = [path for path in HERE.glob("results/*/eval_info.json") if not path.parent.name.startswith(PREFIX)]
    found = [(path.parent.name, json.loads(path.read_text())) for path in paths]
    tests = [(name, run) for name, run in found if run["split"] == "test" and run["status"] == "complete"]
    order = ["shipped", "jitter", "jitter4"]
    return sorted(
        tests,
        key=lambda item: (
            item[1]["config"]["suite"], item[1]["policy"]["name"], order.index(item[1]["condition"]), item[0],
        ),
    )  # fmt: skip


def replaced(text: str, name: str, lines: list[str]) -> str:
    """``text`` with ``lines`` between ``<!-- name -->`` and ``<!-- /name -->``; without lines it stays as it is.

    Exits when there is something to write and no place for it.
    """
    if not lines:
        return text
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"{README} has no {begin} … {end}: add the two markers where the table belongs")
    table = "\n".join(lines)
    print(table)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    """Replace what stands between the markers."""
    text = replaced(README.read_text(), "results", success_table(read_runs()))
    README.write_text(replaced(text, "comparison", comparison(read_comparisons(HERE / "results"))))


if __name__ == "__main__":
    main()
