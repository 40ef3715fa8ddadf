"""The report on targets that move: success against the speed of the belt, a line per method and latency profile."""

from collections.abc import Sequence
from html import escape

from heisd.bench.charts_xy import legend_html, lines_svg
from heisd.bench.curves import Lines, lines_of, pace_text, points_of, rate_text, xs_of
from heisd.bench.report_run import Run, table_html
from heisd.bench.report_speed import SAME, comparable
from heisd.sim.splits import Condition

# Success is compared over equal tasks: some targets cannot be carried.
_SAME = ("tasks", *(name for name in SAME if name not in ("condition", "realtime")))


def on_the_belt(runs: Sequence[Run]) -> str:
    """Section: runs of the ``moving`` conditions, beside those of standing targets; empty when nothing moved."""
    panels = "".join(_panel(group) for group in carried(runs))
    if not panels:
        return ""
    return (
        "<h2>When the target moves</h2><p class='lead'>A belt carries the target along the table. Share solved over "
        "the belt's speed, with Wilson 95 % intervals, by what an answer was charged. At 0 the target stands. Hover "
        f"for numbers.</p>{panels}"
    )


def carried(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that are one picture: alike but for the belt's speed and the pace, and on some of them a target moves."""
    standing_or_carried = [run for run in runs if _speed_cm_s(run) or run.result["condition"] == Condition.SHIPPED]
    return [group for group in comparable(standing_or_carried, _SAME) if any(_speed_cm_s(run) for run in group)]


def belt_lines(runs: Sequence[Run]) -> Lines:
    """Of one picture's runs a line per method and pace, over the belt's speed [cm/s]."""
    return lines_of(runs, lambda run, method: f"{method} · {pace_text(run)}", _speed_cm_s)


def belt_svg(lines: Lines, *, has_legend: bool = False) -> str:
    """The picture of :func:`belt_lines`."""
    return lines_svg(
        points_of(lines, "cm/s"), x_label="speed of the belt", y_label="success", x_unit=" cm/s", kind="belt",
        has_legend=has_legend,
    )  # fmt: skip


def _speed_cm_s(run: Run) -> int:
    return round(100 * Condition(run.result["condition"]).belt_m_s)


def _panel(runs: Sequence[Run]) -> str:
    lines = belt_lines(runs)
    speeds = xs_of(lines)
    head = ("method and profile", *(f"{speed:g} cm/s" for speed in speeds))
    rows = [[name, *(rate_text(blocks.get(speed)) for speed in speeds)] for name, blocks in lines.items()]
    return (
        f'<h3>{escape(runs[0].suite)} · {escape(runs[0].result["split"])}</h3><div class="wide">{belt_svg(lines)}'
        f"{legend_html(list(lines))}</div>{table_html(head, rows)}"
    )
