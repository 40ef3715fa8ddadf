"""`make figures`: the tables, pictures and numbers of README.md and docs/, from the committed result files.

What is written stands between two markers, ``<!-- NAME -->`` and ``<!-- /NAME -->``: lines of their own for tables and
pictures (:func:`blocks`), within a line for a number of running text (:mod:`prose`). The command behind every file is
in benchmarks/README.md.
"""

import json
from pathlib import Path
from typing import Any

import flow
import measured
import paced
import prose
from ablations import ablations, flow_ablations
from comparison import comparison, details, headline
from pictures import planes
from rows import CHUNKS, CONDITIONS, PREFIXES, has_place, read_groups
from targets import flow_targets, targets

ROOT = Path(__file__).parents[1]
WEIGHTS = Path("src") / "heisd" / "weights"


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


def read_runs(results: Path) -> list[tuple[str, dict[str, Any]]]:
    """Complete test-split runs in a plain world, the comparison's apart, sorted by suite, policy and condition."""
    paths = [path for path in results.glob("*/eval_info.json") if not path.parent.name.startswith(PREFIXES)]
    found = [(path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    tests = [
        (name, run)
        for name, run in found
        if run["split"] == "test" and run["status"] == "complete" and has_place(run["config"])
    ]
    return sorted(
        tests,
        key=lambda item: (
            item[1]["config"]["suite"], item[1]["policy"]["name"], CONDITIONS.index(item[1]["condition"]), item[0],
        ),
    )  # fmt: skip


def blocks(root: Path) -> dict[str, list[str]]:
    """Marker -> the lines between; pictures are written on the way. No lines where there is nothing to show."""
    results, pictures, weights = root / "benchmarks" / "results", root / "docs" / "figures", root / WEIGHTS
    groups, flows, runs = read_groups(results), read_groups(results, CHUNKS), paced.read_paced(results)
    return {
        "results": success_table(read_runs(results)),
        "headline": headline(groups),
        "comparison": comparison(groups, measured.memory(results)),
        "plane": planes(groups, pictures),
        "comparison-details": details(groups),
        "decoding": measured.decoding(results),
        "recorded": measured.recorded(results),
        "targets": targets(groups, results),
        "sums": measured.sums(results, groups),
        "experts": measured.experts(results),
        "equality": measured.equality(results),
        "precisions": measured.precisions(results),
        "ablations": ablations(results),
        "ablations-flow": flow_ablations(results),
        "ladder": measured.ladder(weights / "libero-calibration"),
        "rendering": measured.rendering(results),
        "demo": measured.demo(results),
        "guesses": measured.guesses(results),
        "older-pictures": measured.older_pictures(results),
        "watch": measured.watch(results),
        "flow-targets": flow_targets(flows, results),
        "flow-comparison": flow.comparison(flows, weights / "libero-flow-calibration"),
        "flow-plane": planes(flows, pictures, family="flow-", link="figures"),
        "flow-rounds": flow.details(flows),
        "flow-model": flow.model(flows, results),
        "realtime": paced.paced(runs),
        "realtime-figures": paced.over_profiles(runs, pictures),
        "belt": paced.on_the_belt(runs, pictures),
    }


def documents(root: Path) -> list[Path]:
    """README and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def replaced(text: str, name: str, lines: list[str]) -> str:
    """``text`` with ``lines`` between the two markers of ``name``, if it has them; without lines it stays as it is."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (lines and found_begin and found_end):
        return text
    return "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])


def written(root: Path) -> dict[Path, str]:
    """Document -> what it says with every block and number up to date.

    Exits when a block has lines and no document a place, and when a number is marked that nobody knows.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in documents(root)}
    for name, lines in blocks(root).items():
        if lines and not any(f"<!-- {name} -->" in text and f"<!-- /{name} -->" in text for text in texts.values()):
            raise SystemExit(
                f"there is no <!-- {name} --> … <!-- /{name} --> in README.md or docs/: "
                "add the two markers where it belongs"
            )
        texts = {path: replaced(text, name, lines) for path, text in texts.items()}
    return {path: with_numbers(text, path.name, prose.Files(root)) for path, text in texts.items()}


def with_numbers(text: str, document: str, files: prose.Files) -> str:
    """``text`` with the numbers of its running text up to date; exits for a marker without one, naming it."""
    for name in sorted(prose.names_in(text)):
        if name not in prose.VALUES:
            raise SystemExit(f"{document}: nobody knows the number <!-- {name} -->; benchmarks/prose.py has all")
        text = prose.filled(text, name, prose.VALUES[name](files))
    return text


def main() -> None:
    """Replace what stands between the markers; print which documents changed."""
    for path, text in written(ROOT).items():
        state = "as it was" if path.read_text(encoding="utf-8") == text else "rewritten"
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {state}")


if __name__ == "__main__":
    main()
