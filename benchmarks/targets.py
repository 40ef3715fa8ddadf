"""What this project set out to reach with tokens, and what was measured: the table of bars in README."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cells import NONE, TIMES, percent, table
from comparison import speed_cells
from rows import Group, kinds, pooled, sped, sped_in_loop

from heisd.bench.stats import Estimate

EXACT_BAR, HYBRID_BAR = 1.10, 1.8  # times plain decoding, full clock
LOSS_BAR, LOSS_LOW_BAR, MIN_PAIRS = -0.01, -0.03, 1000  # of success, paired
MIN_EQUAL_STEPS = 10_000
MACHINERY_BAR, PREDICTION_BAR = 0.03, 0.10  # of a plain step; of the measured time
LOOKUP_BAR_MS = 1.0


def targets(groups: Sequence[Group], results: Path) -> list[str]:
    """One row a bar; nothing before all suites are timed."""
    mine = next(kinds(groups), [])
    exact, hybrid = sped(mine, "exact"), sped(mine, "hybrid")
    if exact is None or hybrid is None:
        return []
    rows = [
        _speed("`exact`, speed-up", exact, EXACT_BAR, "1.3", mine, "exact"),
        _speed("`hybrid`, speed-up", hybrid, HYBRID_BAR, "2.5", mine, "hybrid"),
        _success(mine),
        *_equality(results),
        *_machinery(mine),
        *_predictions(results),
        *_lookup(results),
    ]
    return table(("what", "bar", "goal", "measured", "outcome"), rows, n_text=5)


def _speed(what: str, speed: Estimate, bar: float, goal: str, groups: list[Group], name: str) -> list[str]:
    suites = {group.suite: sped([group], name) for group in groups if _is_timed(group, name)}
    apart = ", ".join(f"{suite} {each.value:.2f}" for suite, each in suites.items() if each is not None)
    company = sped_in_loop([group for group in groups if _is_timed(group, name)], name)
    between = (
        "" if company is None else f"; simulator between: {company.value:.2f} ({company.low:.2f} to {company.high:.2f})"
    )
    measured = f"{speed_cells(groups, name)[0]}: {apart}{between}"
    is_met = speed.value >= bar and speed.low > 1.0
    return [what, f"{bar:.2f}{TIMES}, lower bound above 1", f"{goal}{TIMES}", measured, _verdict(is_met)]


def _success(groups: list[Group]) -> list[str]:
    found, n_pairs = pooled(groups, "hybrid")
    is_met = found is not None and found.value >= LOSS_BAR and found.low >= LOSS_LOW_BAR and n_pairs >= MIN_PAIRS
    bar = f"{100 * LOSS_BAR:.0f} points or better, lower bound {100 * LOSS_LOW_BAR:.0f}, {MIN_PAIRS:,} pairs"
    return [
        "`hybrid`, success to plain",
        bar,
        "2,000 pairs",
        f"{percent(found, '+.1f', '')}, {n_pairs:,} pairs",
        _verdict(is_met),
    ]


def _equality(results: Path) -> Iterable[list[str]]:
    blocks = [block for run in _read(results, "check_exact-*.json") for block in run["exact"].items()]
    if not blocks:
        return
    names = dict.fromkeys(name for name, _ in blocks)
    steps = [sum(block["n_steps"] for other, block in blocks if other == name) for name in names]
    differing = sum(block["differing_tokens"] for _, block in blocks)
    measured = (
        f"{differing} differing tokens; {len(names)} proposers, combinations and presets, {min(steps):,} steps each"
    )
    is_met = differing == 0 and min(steps) >= MIN_EQUAL_STEPS
    yield ["plain decoding's tokens", f"all of them, over {MIN_EQUAL_STEPS:,} steps", NONE, measured, _verdict(is_met)]


def _machinery(groups: list[Group]) -> Iterable[list[str]]:
    for name in ("exact", "hybrid"):
        shares = [
            row.done.get("overhead_share_of_plain") for group in groups if (row := group.row(name)) and row.is_timed
        ]
        known = [share for share in shares if share is not None]
        if known:
            measured = " and ".join(f"{100 * share:.1f} %" for share in sorted(known))
            yield [
                f"`{name}`, trie + route + accept + act + record", f"{100 * MACHINERY_BAR:.0f} % of a plain step",
                "1 %", measured, _verdict(max(known) < MACHINERY_BAR),
            ]  # fmt: skip


def _predictions(results: Path) -> Iterable[list[str]]:
    rows = [
        block
        for run in _read(results, "predict-*.json") for each in run["results"] for block in each["methods"].values()
        if block["error"] is not None
    ]  # fmt: skip
    if rows:
        n = sum(abs(row["error"]) <= PREDICTION_BAR for row in rows)
        speeds = [row for row in rows if row["predicted_speedup"] and row["measured_speedup"]]
        n_speeds = sum(abs(row["predicted_speedup"] / row["measured_speedup"] - 1) <= PREDICTION_BAR for row in speeds)
        measured = f"{n} of {len(rows)} times, {n_speeds} of {len(speeds)} speed-ups"
        yield [
            "cost model",
            f"within {100 * PREDICTION_BAR:.0f} % of what is measured",
            NONE,
            measured,
            _verdict(n == len(rows)),
        ]


def _lookup(results: Path) -> Iterable[list[str]]:
    for run in _read(results, "index.json"):
        shard = run["index"]["largest_task"]
        yield [
            "look-up, 10,147 rows", f"p99 below {LOOKUP_BAR_MS:.0f} ms, recall@1 of 1", NONE,
            f"p99 {shard['p99_ms']:.2f} ms, recall@1 {shard['recall_at_1']:g}",
            _verdict(shard["p99_ms"] < LOOKUP_BAR_MS and shard["recall_at_1"] == 1.0),
        ]  # fmt: skip


def _is_timed(group: Group, name: str) -> bool:
    row = group.row(name)
    return row is not None and bool(row.timings)


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def _read(results: Path, pattern: str) -> list[Mapping[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob(pattern))]
