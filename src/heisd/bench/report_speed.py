"""The report on speed: the speed-success plane of all runs, and how answering times are distributed."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from heisd.bench.charts_xy import PlanePoint, Span, cdf_svg, legend_html, plane_svg
from heisd.bench.overhead import PLAIN_METHODS
from heisd.bench.report_run import Run

# What has to agree before the speed of one run may stand beside the success of another.
SAME = (
    "suite",
    "split",
    "condition",
    "shift",
    "fresh",
    "protocol",
    "rendering",
    "dtype",
    "image_size",
    "calibration",
    "euler_steps",
    "executed",
    "realtime",
)


def plane(runs: Sequence[Run]) -> str:
    """Section: every method that was both timed and played, per suite and condition; empty when there is none."""
    panels = "".join(_panel(group) for group in comparable(runs))
    if not panels:
        return ""
    return (
        "<h2>Speed and success</h2><p class='lead'>Up and to the right is better. Speed-up: baseline time over the "
        "method's time on the same observations, full clock, 95 % bootstrap over episodes; only timed runs have one. "
        f"Success: Wilson 95 %. The diamond is the baseline. Hover for numbers.</p>{panels}"
    )


def comparable(runs: Sequence[Run], same: Sequence[str] = SAME) -> list[list[Run]]:
    """Runs of the same policy, baseline and settings, together: one may give the times, another the successes.

    An untimed run without a plain method joins the first such group whose baseline is one: it plays on starts that
    plain decoding has played there.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=_is_without_plain):
        config, policy = run.result["config"], run.result.get("policy", {})
        settings = json.dumps([{name: config.get(name) for name in same}, policy.get("sha256")], sort_keys=True)
        hosts = (baseline for theirs, baseline in groups if theirs == settings and baseline in PLAIN_METHODS)
        baseline = next(hosts, run.baseline) if _is_without_plain(run) else run.baseline
        groups.setdefault((settings, baseline), []).append(run)
    return list(groups.values())


def _is_without_plain(run: Run) -> bool:
    return not run.result["config"]["timing"] and PLAIN_METHODS.isdisjoint(run.methods)


def _panel(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(name for run in runs for name in run.methods)
    points = [point for name in names if (point := _point(runs, name)) is not None]
    if all(point.is_baseline for point in points):  # nothing was timed against it
        return ""
    return f'<h3>{escape(runs[0].title)}</h3><div class="wide">{plane_svg(points)}</div>'


def _point(runs: Sequence[Run], name: str) -> PlanePoint | None:
    """Success from the run with the most episodes of the method, speed from the one with the most timed steps."""
    blocks = [run.methods[name] for run in runs if name in run.methods]
    played = max(blocks, key=lambda block: int(block["n_episodes"]))
    if played["pc_success"] is None:
        return None
    success = Span(played["pc_success"], *played["wilson95"])
    note = f"success over {played['n_episodes']} episodes"
    if name == runs[0].baseline:
        return PlanePoint(name, Span(1.0, 1.0, 1.0), success, note, is_baseline=True)
    timed = [block for block in blocks if block["speedup_vs_baseline"]]
    if not timed:
        return None
    block = max(timed, key=lambda block: int(block["ms_per_action"]["n"]))
    speed = block["speedup_vs_baseline"]
    note += f", speed over {block['ms_per_action']['n']} steps"
    return PlanePoint(name, Span(speed["ratio"], *speed["ci95"]), success, note)


def distributions(runs: Sequence[Run]) -> str:
    """Answering times of all methods of a run in one picture; empty where fewer than two were timed."""
    parts = []
    for run in runs:
        series = {name: values for name in run.methods if (values := _latencies(run, name))}
        if len(series) > 1:
            parts.append(
                f"<h3>{escape(run.title)}: all methods</h3>"
                f'<div class="wide">{cdf_svg(series)}{legend_html(list(series))}</div>'
            )
    return "".join(parts)


def _latencies(run: Run, method: str) -> list[float]:
    return [
        ms for record in run.records if record.method == method and record.timing for ms in record.timing.latency_ms
    ]


def speedup_text(speed: dict[str, Any] | None) -> str:
    """A speed-up with its interval, or that there is none."""
    if speed is None:
        return "not timed"
    return f"{speed['ratio']:.2f}x ({speed['ci95'][0]:.2f} to {speed['ci95'][1]:.2f})"
