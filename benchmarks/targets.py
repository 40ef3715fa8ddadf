"""What this project set out to reach, and what was measured: the tables of bars for tokens and for chunks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cells import NONE, TIMES, percent, table
from comparison import by_suite_and_all, headline, points, scope, speed_cells
from flow import predictions
from measured import read_all
from rows import Group, kinds, pooled, sped, sped_in_loop

from heisd.bench.stats import Estimate

EXACT_BAR, HYBRID_BAR = 1.10, 1.8  # times plain decoding, full clock
FLOW_BAR = 1.8  # times full, per executed action, full clock
OURS_OF_CHUNKS, NO_RIVALS = "flow_hybrid", ("full", "full_naive")
LOSS_BAR, LOSS_LOW_BAR, MIN_PAIRS = -0.01, -0.03, 1000  # of success, paired
MIN_EQUAL_STEPS = 10_000
_HEAD = ("what", "bar", "goal", "measured", "outcome")
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
        _success(mine, "hybrid"),
        *_equality(results),
        *_machinery(mine),
        *_predictions(results),
        *_lookup(results),
    ]
    return table(_HEAD, rows, n_text=5)


def flow_targets(groups: Sequence[Group], results: Path) -> list[str]:
    """This project's own preset of chunk policies: its headline, then one row a bar; nothing before all are timed."""
    mine, name = next(kinds(groups), []), OURS_OF_CHUNKS
    speed = sped(mine, name)
    if speed is None or speed_cells(mine, name)[0] == NONE:
        return []
    rivals = [each for each in dict.fromkeys(row.name for group in mine for row in group.rows) if each != name]
    rows = [
        _speed(f"`{name}`, speed-up per executed action", speed, FLOW_BAR, "2.5", mine, name),
        _success(mine, name),
        *(_beside(mine, name, rival) for rival in rivals if rival not in NO_RIVALS),
        *_rounds_model(groups, results),
    ]
    return [*headline(mine, (name,)), "", *table(_HEAD, rows, n_text=5)]


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


def _success(groups: list[Group], name: str) -> list[str]:
    found, n_pairs = pooled(groups, name)
    is_met = found is not None and found.value >= LOSS_BAR and found.low >= LOSS_LOW_BAR and n_pairs >= MIN_PAIRS
    bar = f"{100 * LOSS_BAR:.0f} points or better, lower bound {100 * LOSS_LOW_BAR:.0f}, {MIN_PAIRS:,} pairs"
    return [
        f"`{name}`, success to {groups[0].plain}",
        bar,
        "2,000 pairs",
        f"{percent(found, '+.1f', '')}, {n_pairs:,} pairs",
        _verdict(is_met),
    ]


def _beside(groups: list[Group], name: str, rival: str) -> list[str]:
    """Whether a preset is faster than another, suite by suite and over all, wherever that one solves no more."""
    told, outcomes = [], []
    for part in by_suite_and_all(groups):
        timed = [group for group in part if _is_timed(group, rival) and _is_timed(group, name)]
        mine, other = sped(timed, name), sped(timed, rival)
        success, _ = pooled(part, name, rival)
        if mine is None or other is None or success is None:
            continue
        is_judged = success.value >= 0
        outcomes += [mine.value > other.value] if is_judged else []
        told.append(
            f"{scope(part)}: {mine.value:.2f}{TIMES} to {other.value:.2f}{TIMES}, success {points(success)}"
            f"{'' if is_judged else ', not judged'}"
        )
    return [
        f"`{name}` beside `{rival}`", "faster wherever that solves no more", NONE, "; ".join(told) or NONE,
        _verdict(all(outcomes)) if outcomes else NONE,
    ]  # fmt: skip


def _rounds_model(groups: Sequence[Group], results: Path) -> Iterable[list[str]]:
    errors = [predicted["error"] for *_, predicted in predictions(groups, results)]
    if errors:
        n = sum(abs(error) <= PREDICTION_BAR for error in errors)
        bar = f"within {100 * PREDICTION_BAR:.0f} % of what is measured"
        yield ["shares of rounds times costs", bar, NONE, f"{n} of {len(errors)} times", _verdict(n == len(errors))]


def _equality(results: Path) -> Iterable[list[str]]:
    blocks = [block for _, run in read_all(results, "check_exact-*.json") for block in run["exact"].items()]
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
        for _, run in read_all(results, "predict-*.json") for each in run["results"]
        for block in each["methods"].values()
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
    for _, run in read_all(results, "index.json"):
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
