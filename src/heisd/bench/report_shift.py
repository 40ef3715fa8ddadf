"""The report on shifts: each method against plain decoding under the same change, and how its skips were withdrawn."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from heisd.bench.report_run import Run, figure_text, percent_text, table_html
from heisd.bench.speculation import skip_share
from heisd.bench.stats import Estimate, paired_difference
from heisd.sim.protocols import base_suite

MEMORY = "retrieval"


def shifts(runs: Sequence[Run]) -> str:
    """Section: one row per changed run and method, then each method over all of them; empty without such runs."""
    compared = [
        (run, name, block) for run in runs if is_changed(run) for name, block in run.methods.items() if block["paired"]
    ]
    if not compared:
        return ""
    head = ("run", "method", "episodes", "plain", "solved", "difference (95 %)", "skipped", "of its skips kept",
            "of memory's tokens kept", "steps until withdrawn (p50, p95)", "withdrawn in")  # fmt: skip
    rows = [_row(run, name, block, _unchanged(run, name, runs)) for run, name, block in compared]
    rows += [_pooled_row(name, runs) for name in dict.fromkeys(name for _, name, _ in compared)]
    return (
        "<h2>When the scene changes</h2><p class='lead'>Every method plays the same starts under the same change as "
        "the first of its run; differences are paired, with Tango's interval. Shares kept are against the same method "
        "where nothing changes, if such a run is on this page. Skips are withdrawn at the first control step, from the "
        f"onset on, at which an alarm forbids them.</p>{table_html(head, rows, n_text=2)}"
    )


def is_changed(run: Run) -> bool:
    """Whether a run is of changed scenes: under a shift, or of a suite that is a variant of another."""
    return run.shift is not None or _usual_suite(run.suite) != run.suite


def _usual_suite(suite: str) -> str:
    """The suite that a variant such as ``libero_goal_swap`` changes; any other is its own."""
    base = base_suite(suite)
    return base if suite.startswith(f"{base}_") else suite


def _row(run: Run, name: str, block: dict[str, Any], unchanged: dict[str, Any] | None) -> list[str]:
    paired, plain = block["paired"], run.methods[run.baseline]
    return [
        run.title,
        name,
        str(paired["n_pairs"]),
        figure_text(plain["pc_success"], ".1f", " %"),
        figure_text(block["pc_success"], ".1f", " %"),
        _difference(paired["difference_points"], *paired["ci95"]),
        percent_text(skip_share(block)),
        percent_text(_kept(skip_share, block, unchanged)),
        percent_text(_kept(_memory_share, block, unchanged)),
        *_withdrawn(block.get("withdrawal")),
    ]


def _withdrawn(withdrawal: dict[str, Any] | None) -> tuple[str, str]:
    """How long it took, and in how many of the episodes that lived to see the shift."""
    if withdrawal is None:
        return figure_text(None), figure_text(None)
    wait = withdrawal["steps_until_withdrawn"]
    text = f"{wait['p50']:.0f}, {wait['p95']:.0f}" if wait["n"] else figure_text(None)
    return text, f"{withdrawal['n_withdrawn']} of {withdrawal['n_begun']}"


def _pooled_row(name: str, runs: Sequence[Run]) -> list[str]:
    pairs = list(_pairs(name, runs))
    plain, mine = ([pair[i] for pair in pairs] for i in (0, 1))
    pooled = paired_difference(plain, mine)
    assert pooled is not None, "a method that is compared has pairs"
    rest = [figure_text(None)] * 5
    return [
        "all of these", name, str(len(pairs)), f"{100 * sum(plain) / len(pairs):.1f} %",
        f"{100 * sum(mine) / len(pairs):.1f} %", _in_points(pooled), *rest,
    ]  # fmt: skip


def _pairs(name: str, runs: Sequence[Run]) -> Iterator[tuple[bool, bool]]:
    """(plain solved it, the method solved it) of every start that both have played and seen alike, in changed runs."""
    for run in runs:
        if not is_changed(run) or name == run.baseline or name not in run.methods:
            continue
        plain = {(r.key, r.start_hash): r.success for r in run.records if r.method == run.baseline}
        for r in run.records:
            if r.method == name and (r.key, r.start_hash) in plain:
                yield plain[r.key, r.start_hash], r.success


def _unchanged(run: Run, name: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """The block of the same method where nothing changes: of the base suite, without a shift; None if not given."""
    found = (
        other.methods[name]
        for other in runs
        if not is_changed(other) and other.suite == _usual_suite(run.suite) and name in other.methods
        and other.result["condition"] == run.result["condition"]
    )  # fmt: skip
    return next(found, None)


def _memory_share(block: dict[str, Any]) -> float | None:
    """Tokens of memory that a verification kept, per control step."""
    spoken = block["speculation"]
    n_steps = sum(count["n"] for count in spoken.get("routes", {}).values())
    return spoken.get("by_source", {}).get(MEMORY, 0) / n_steps if n_steps else None


def _kept(
    share_of: Callable[[dict[str, Any]], float | None], block: dict[str, Any], unchanged: dict[str, Any] | None
) -> float | None:
    """What is left of a share; None where there is nothing to compare with, or was nothing."""
    share, before = share_of(block), None if unchanged is None else share_of(unchanged)
    return None if share is None or not before else share / before


def _difference(points: float, low: float, high: float) -> str:
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f})"


def _in_points(estimate: Estimate) -> str:
    return _difference(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)
