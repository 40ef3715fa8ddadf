"""The report on runs in which the world did not wait: success beside what lateness did to control."""

from collections.abc import Sequence
from typing import Any

from heisd.bench.report_run import Run, figure_text, percent_text, table_html

_HEAD = ("run", "method", "solved", "new actions a second", "steps without one", "age [steps]", "late answers",
         "charged, mean [ms]", "p95 [ms]")  # fmt: skip


def in_real_time(runs: Sequence[Run]) -> str:
    """Section: every method of the runs with ``--realtime``; empty when there is none."""
    charged = [run for run in runs if run.result["config"].get("realtime")]
    if not charged:
        return ""
    rows = [_row(run, name, block) for run in charged for name, block in run.methods.items()]
    profiles = "; ".join(dict.fromkeys(_profile_text(run) for run in charged))
    return (
        "<h2>When the world does not wait</h2><p class='lead'>The world goes on while the policy thinks. Every answer "
        "is charged what it would have taken on other hardware, in whole control steps; no clock is read. Age: control "
        "steps since the policy saw what the action in force answers to. Late: charged more than one control step. "
        f"{profiles}.</p>{table_html(_HEAD, rows, n_text=2)}"
    )


def _profile_text(run: Run) -> str:
    profile, settings = run.result["latency_profile"], run.result["config"]["realtime"]
    return (
        f"{profile['name']}: {profile['model']} on {profile['hardware']}, {settings['control_hz']} Hz, meanwhile "
        f"{settings['meanwhile']}"
    )


def _row(run: Run, name: str, block: dict[str, Any]) -> list[str]:
    pace, rate = block["realtime"], block["pc_success"]
    return [
        run.title,
        name,
        "no episode" if rate is None else f"{rate:.0f} % of {block['n_episodes']}",
        figure_text(pace["effective_control_hz"], ".1f"),
        percent_text(pace["stale_action_ratio"]),
        figure_text(pace["mean_action_age_steps"], ".1f"),
        percent_text(pace["deadline_misses"]["share"]),
        figure_text(pace["charged_ms"]["mean"], ".1f"),
        figure_text(pace["charged_ms"]["p95"], ".1f"),
    ]
