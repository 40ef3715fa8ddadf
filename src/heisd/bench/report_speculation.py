"""The report on what speculation did: kept guesses by token, origins and routes, and the split by kind of motion."""

from collections.abc import Sequence
from html import escape
from typing import Any

from heisd.bench.charts import positions_svg
from heisd.bench.report_run import Run, figure_text, percent_text, table_html
from heisd.types import TokenOrigin

_ORIGINS = tuple(origin.value for origin in TokenOrigin)


def acceptance(runs: Sequence[Run]) -> str:
    """Section: share of judged guesses kept at each token; empty when nothing was ever judged."""
    figures = "".join(
        f"<figure><figcaption><span class='what'>{escape(run.title)} · <b>{escape(name)}</b></span>"
        f"<span class='quiet'>{_lengths(block['speculation'])}</span></figcaption>"
        f"{positions_svg(block['speculation']['acceptance_by_position'])}</figure>"
        for run in runs
        for name, block in run.methods.items()
        if block["speculation"].get("n_verifications")
    )
    if not figures:
        return ""
    return (
        "<h2>Which guesses are kept</h2><p class='lead'>Percent of the judged guesses that were kept, token by token. "
        "A token counts as judged when every guess before it was kept. Acceptance length is counted without the "
        f"target's own token.</p><div class='films'>{figures}</div>"
    )


def _lengths(speculation: dict[str, Any]) -> str:
    ours = speculation["acceptance_length"]["mean"]
    theirs = speculation.get("acceptance_length_heisd", {}).get("mean")
    return (
        f"{speculation['n_verifications']} verifications · acceptance length {figure_text(ours)} "
        f"(as HeiSD counts: {figure_text(theirs)})"
    )


def origins_and_routes(runs: Sequence[Run]) -> str:
    """Section: where executed tokens came from and which routes the steps took."""
    tokens = [
        [f"{run.title} · {name}", *_origin_cells(block["speculation"])]
        for run in runs
        for name, block in run.methods.items()
    ]
    routes = [
        [f"{run.title} · {name}", *cells]
        for run in runs
        for name, block in run.methods.items()
        for cells in _route_rows(block["speculation"])
    ]
    head = ("method", "route", "why", "steps", "share")
    route_table = f"<h3>Routes</h3>{table_html(head, routes, n_text=3)}" if routes else ""
    return (
        "<h2>Where actions come from</h2><p class='lead'>Every executed token has one origin; every control step one "
        "route and one reason for it.</p>"
        + table_html(["method", *_ORIGINS, "LM forwards per action"], tokens)
        + route_table
    )


def _origin_cells(speculation: dict[str, Any]) -> list[str]:
    total = sum(speculation.get(origin, 0) for origin in _ORIGINS)
    shares = [percent_text(speculation.get(origin, 0) / total if total else None) for origin in _ORIGINS]
    return [*shares, figure_text(speculation.get("lm_forwards_per_action"))]


# Whoever guesses at every step or at none; older results say the first of plain decoding, too.
_UNDECIDED = (["speculate/always"], ["full/always"])


def _route_rows(speculation: dict[str, Any]) -> list[list[str]]:
    """One row a route and reason, most frequent first; none for a method that never decides, or for older results."""
    routes = speculation.get("routes", {})
    if list(routes) in _UNDECIDED:
        return []
    return [[*route.split("/", 1), str(counts["n"]), percent_text(counts["share"])] for route, counts in routes.items()]


def by_motion(runs: Sequence[Run]) -> str:
    """Section: the same figures per kind of motion; empty for results that do not have them."""
    rows = [
        [f"{run.title} · {name}", phase, *_motion_cells(sums)]
        for run in runs
        for name, block in run.methods.items()
        for phase, sums in block["speculation"].get("by_motion", {}).items()
    ]
    if not rows:
        return ""
    head = ("method", "motion", "steps", "share", "skipped", "LM forwards", "kept per check", "ms", "speed-up")
    return (
        "<h2>By kind of motion</h2><p class='lead'>Read from gripper commands, finger width and speed of the hand, "
        "never from the simulator; with one set of ranges for all methods. LM forwards and milliseconds are per "
        f"action; speed-ups are ratios of sums, without interval.</p>{table_html(head, rows, n_text=2)}"
    )


def _motion_cells(sums: dict[str, Any]) -> list[str]:
    return [
        str(sums["n"]), percent_text(sums["share"]), percent_text(sums["skipped_share"]),
        figure_text(sums["lm_forwards_per_action"]), figure_text(sums["acceptance_length"]),
        figure_text(sums["ms_per_action"]), figure_text(sums["speedup_vs_baseline"], unit="x"),
    ]  # fmt: skip
