"""Rewrite the tables of README.md from the committed result files: `make figures`.

Every row names the file it comes from; the command that made it is in benchmarks/README.md.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"


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
    found = [(path.parent.name, json.loads(path.read_text())) for path in HERE.glob("results/*/eval_info.json")]
    tests = [(name, run) for name, run in found if run["split"] == "test" and run["status"] == "complete"]
    order = ["shipped", "jitter", "jitter4"]
    return sorted(
        tests,
        key=lambda item: (
            item[1]["config"]["suite"], item[1]["policy"]["name"], order.index(item[1]["condition"]), item[0],
        ),
    )  # fmt: skip


def main() -> None:
    """Replace what stands between the two markers."""
    text = README.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    table = "\n".join(success_table(read_runs()))
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    print(table)


if __name__ == "__main__":
    main()
