"""The comparison tables of README: presets against plain decoding, from `results/compare-SUITE/eval_info.json`.

Three tables, since one would be too wide: what it costs and gains, what was done, and the split by kind of motion.
"""

import json
from pathlib import Path
from typing import Any

PREFIX = "compare-"
# The published methods' clock: without the vision tower, and without look-ups and drafting.
PAPERS_STAGES = ("prefill", "decode", "accept")
ORIGINS = ("decoded", "accepted", "relaxed", "compensated", "skipped")
NONE = "–"  # noqa: RUF001 (a dash, on purpose)
Runs = list[tuple[str, dict[str, Any]]]  # (directory, result)


def read_comparisons(results: Path) -> Runs:
    """Complete comparison runs by suite."""
    found = [(path.parent.name, json.loads(path.read_text())) for path in results.glob(f"{PREFIX}*/eval_info.json")]
    return sorted((item for item in found if item[1]["status"] == "complete"), key=lambda item: item[0])


def comparison(runs: Runs) -> list[str]:
    """All three tables, with what their columns mean; nothing without runs."""
    if not runs:
        return []
    return [*gains(runs), "", *doings(runs), *motions(runs), "", *footnotes(runs)]


def gains(runs: Runs) -> list[str]:
    """Success and speed, one row per suite and preset."""
    head = (
        "suite", "preset", "success (95 %)", "n", "against the baseline, points (95 %)", "speed-up, full clock (95 %)",
        "ms / action", "papers' clock, ms", "papers' clock, ratio", "CPU s / action", "ms / episode", "peak MB",
    )  # fmt: skip
    rows = [
        [
            suite_of(run), f"`{name}`", interval(block["pc_success"], block["wilson95"], ".1f", " %"),
            str(block["n_episodes"]), paired_cell(block), speed_cell(block),
            number(block["ms_per_action"]["mean"], ".2f"), number(papers_ms(block), ".2f"),
            number(papers_ratio(block, first_block(run)), ".2f", "×"),  # noqa: RUF001
            number(block["cpu_s_per_action"], ".4f"), number(block["ms_per_episode"]["mean"], ".0f"),
            number(block["peak_rss_mb"], ".0f"),
        ]
        for _, run in runs for name, block in run["methods"].items()
    ]  # fmt: skip
    return markdown(head, rows, n_text=2)


def doings(runs: Runs) -> list[str]:
    """Forwards, acceptance, origins and routes, one row per suite and preset."""
    head = ("suite", "preset", "LM forwards / action", "acceptance length", "HeiSD's AL", *ORIGINS, "routes")
    rows = []
    for _, run in runs:
        for name, block in run["methods"].items():
            done = block["speculation"]
            total = sum(done[origin] for origin in ORIGINS)
            rows.append([
                suite_of(run), f"`{name}`", number(done["lm_forwards_per_action"], ".2f"),
                number(done["acceptance_length"]["mean"], ".2f"),
                number(done.get("acceptance_length_heisd", {}).get("mean"), ".2f"),
                *(share(done[origin] / total if total else None) for origin in ORIGINS), routes_cell(done),
            ])  # fmt: skip
    return markdown(head, rows, n_text=2)


def motions(runs: Runs) -> list[str]:
    """The split by kind of motion, one row per suite, preset and kind; nothing for results that lack it."""
    head = (
        "suite",
        "preset",
        "motion",
        "share",
        "skipped",
        "LM forwards / action",
        "kept per check",
        "ms / action",
        "speed-up",
    )
    rows = [
        [
            suite_of(run), f"`{name}`", kind, share(sums["share"]), share(sums["skipped_share"]),
            number(sums["lm_forwards_per_action"], ".2f"), number(sums["acceptance_length"], ".2f"),
            number(sums["ms_per_action"], ".2f"), number(sums["speedup_vs_baseline"], ".2f", "×"),  # noqa: RUF001
        ]
        for _, run in runs for name, block in run["methods"].items()
        for kind, sums in block["speculation"].get("by_motion", {}).items()
    ]  # fmt: skip
    return ["", *markdown(head, rows, n_text=3)] if rows else []


def footnotes(runs: Runs) -> list[str]:
    """What the columns mean and where they come from."""
    files = ", ".join(f"`benchmarks/results/{name}/eval_info.json`" for name, _ in runs)
    return [
        f"Files: {files}. Speed-up: baseline time over the preset's on the same observations, bootstrap over episodes. "
        f"Papers' clock: mean {' + '.join(PAPERS_STAGES)} per action, without vision tower, look-up and drafting; its "
        "ratio compares means of each preset's own episodes and is not paired. Acceptance length: guesses kept per "
        "verification, without the target's own token. A dash: not measured, or not defined."
    ]


def papers_ms(block: dict[str, Any]) -> float | None:
    """Milliseconds per action on the papers' clock; None for a run that was not timed."""
    n_steps = block["ms_per_action"]["n"]
    if not n_steps:
        return None
    stages = (block["stages"].get(name) for name in PAPERS_STAGES)
    # A stage that an episode never entered has no entries for its steps; it took no time there.
    return float(sum(stage["mean"] * stage["n"] for stage in stages if stage and stage["n"])) / int(n_steps)


def papers_ratio(block: dict[str, Any], baseline: dict[str, Any]) -> float | None:
    """Baseline over preset on the papers' clock; None for the baseline, and where nothing is left to divide by."""
    mine, plain = papers_ms(block), papers_ms(baseline)
    return plain / mine if plain and mine and block is not baseline else None


def first_block(run: dict[str, Any]) -> dict[str, Any]:
    """The baseline's block."""
    block: dict[str, Any] = next(iter(run["methods"].values()))
    return block


def suite_of(run: dict[str, Any]) -> str:
    """Suite and, where it is not the shipped one, condition."""
    condition = "" if run["condition"] == "shipped" else f", {run['condition']}"
    return f"{run['config']['suite']}{condition}"


def paired_cell(block: dict[str, Any]) -> str:
    """Paired difference in success."""
    paired = block["paired"]
    return NONE if paired is None else interval(paired["difference_points"], paired["ci95"], "+.1f")


def speed_cell(block: dict[str, Any]) -> str:
    """Speed-up; there is one only where both were timed."""
    speed = block["speedup_vs_baseline"]
    return NONE if speed is None else f"**{interval(speed['ratio'], speed['ci95'], '.2f', '×')}**"  # noqa: RUF001


def routes_cell(speculation: dict[str, Any]) -> str:
    """Shares by kind of route, most frequent first."""
    kinds: dict[str, float] = {}
    for route, counts in speculation.get("routes", {}).items():
        kind = route.split("/", 1)[0]
        kinds[kind] = kinds.get(kind, 0.0) + counts["share"]
    return ", ".join(f"{kind} {share(part)}" for kind, part in sorted(kinds.items(), key=lambda k: -k[1])) or NONE


def interval(value: float | None, ends: list[float] | None, form: str, unit: str = "") -> str:
    """A value with its interval."""
    if value is None or ends is None:
        return NONE
    return f"{value:{form}}{unit} ({ends[0]:{form}} to {ends[1]:{form}})"


def number(value: float | None, form: str, unit: str = "") -> str:
    """A number, or a dash."""
    return NONE if value is None else f"{value:{form}}{unit}"


def share(value: float | None) -> str:
    """Whole percent; what is not nothing never reads as 0."""
    if value is None:
        return NONE
    return "<1 %" if 0 < value < 0.005 else f"{100 * value:.0f} %"


def markdown(head: tuple[str, ...], rows: list[list[str]], *, n_text: int) -> list[str]:
    """A Markdown table; columns behind the first ``n_text`` are right-aligned."""
    rule = ["---" if i < n_text else "--:" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
