"""The report on targets that move: success against the speed of the belt, a line per method and latency profile."""

from collections.abc import Sequence
from html import escape
from typing import Any

from heisd.bench.charts_xy import Span, legend_html, lines_svg
from heisd.bench.report_run import Run, table_html
from heisd.bench.report_speed import SAME, comparable
from heisd.presets import PRESETS
from heisd.sim.splits import Condition

# Success is compared over equal tasks: some targets cannot be carried.
_SAME = ("tasks", *(name for name in SAME if name not in ("condition", "realtime")))
_Lines = dict[str, dict[int, dict[str, Any]]]  # line -> belt's speed [cm/s] -> the method's block of a result


def on_the_belt(runs: Sequence[Run]) -> str:
    """Section: runs of the ``moving`` conditions, beside those of standing targets; empty when nothing moved."""
    standing_or_carried = [run for run in runs if _speed_cm_s(run) or run.result["condition"] == Condition.SHIPPED]
    groups = [group for group in comparable(standing_or_carried, _SAME) if any(_speed_cm_s(run) for run in group)]
    panels = "".join(_panel(group) for group in groups)
    if not panels:
        return ""
    return (
        "<h2>When the target moves</h2><p class='lead'>A belt carries the target along the table. Share solved over "
        "the belt's speed, with Wilson 95 % intervals, by what an answer was charged. At 0 the target stands. Hover "
        f"for numbers.</p>{panels}"
    )


def _speed_cm_s(run: Run) -> int:
    return round(100 * Condition(run.result["condition"]).belt_m_s)


def _panel(runs: Sequence[Run]) -> str:
    lines = _lines(runs)
    speeds = sorted({speed for blocks in lines.values() for speed in blocks})
    points = {
        name: [(float(speed), _span(block), f"{name}, {speed} cm/s: {_text(block)}")
               for speed, block in sorted(blocks.items())]
        for name, blocks in lines.items()
    }  # fmt: skip
    chart = lines_svg(points, x_label="speed of the belt", y_label="success", x_unit=" cm/s", kind="belt")
    head = ("method and profile", *(f"{speed} cm/s" for speed in speeds))
    rows = [[name, *(_text(blocks.get(speed)) for speed in speeds)] for name, blocks in lines.items()]
    return (
        f'<h3>{escape(runs[0].suite)} · {escape(runs[0].result["split"])}</h3><div class="wide">{chart}'
        f"{legend_html(list(lines))}</div>{table_html(head, rows)}"
    )


def _lines(runs: Sequence[Run]) -> _Lines:
    """What was played, method by method; of two equal runs the one with more episodes.

    A line is of one drafter, store and calibration; its name says which where there are several.
    """
    played: dict[str, _Lines] = {}
    for run in runs:
        for method, block in run.methods.items():
            name, speed = f"{method} · {_pace(run)}", _speed_cm_s(run)
            blocks = played.setdefault(name, {}).setdefault(_assets(run, method), {})
            if block["n_episodes"] > blocks.get(speed, {"n_episodes": 0})["n_episodes"]:
                blocks[speed] = block
    return {
        f"{name}, {assets}" if len(lines) > 1 else name: blocks
        for name, lines in sorted(played.items())
        for assets, blocks in sorted(lines.items())
        if blocks
    }


def _assets(run: Run, method: str) -> str:
    """What a method read beside the policy, by the beginnings of the hashes."""
    reads = PRESETS[method].reads if method in PRESETS else ()
    known = ((what, run.asset(what, method)) for what in reads)
    return ", ".join(f"{what} {sha256[:8]}" for what, sha256 in known if sha256) or "assets not recorded"


def _pace(run: Run) -> str:
    """How long the world waits for an answer, and what the robot does meanwhile."""
    settings = run.result["config"].get("realtime")
    if not settings:
        return "the world waits"
    return f"{run.result['latency_profile']['name']}, {settings['control_hz']} Hz, {settings['meanwhile']}"


def _span(block: dict[str, Any]) -> Span:
    return Span(block["pc_success"], *block["wilson95"])


def _text(block: dict[str, Any] | None) -> str:
    if block is None:
        return "–"  # noqa: RUF001 (a dash, on purpose)
    low, high = block["wilson95"]
    return f"{block['pc_success']:.0f} % of {block['n_episodes']} ({low:.0f} to {high:.0f})"
