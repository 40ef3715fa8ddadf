"""The report on rounds of chunk policies: what became of them, what they cost, how much of the drafts was kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from heisd.bench.report_run import Run, figure_text, percent_text, table_html
from heisd.bench.rounds import RoundKind

_ROUNDS = (RoundKind.FULL, RoundKind.SPECULATE, RoundKind.REJECTED, RoundKind.SKIP)


def rounds(runs: Sequence[Run]) -> str:
    """Section; empty when no method of any run has rounds."""
    found = [
        (f"{run.title} · {name}", block["speculation"]["rounds"])
        for run in runs
        for name, block in run.methods.items()
        if block["speculation"].get("rounds")
    ]
    if not found:
        return ""
    kinds = table_html(
        ("method", "round", "rounds", "share", "actions a round", "ms a round"),
        [cells for title, block in found for cells in _kind_rows(title, block)],
        n_text=2,
    )
    drafts = table_html(
        ("method", "actions a round", "accepted a check", "of those that could be", "prefix age, steps",
         "prefills per action", "expert passes per action"),
        [[title, *_draft_cells(block)] for title, block in found],
    )  # fmt: skip
    return (
        "<h2>Rounds of chunks</h2><p class='lead'>A round makes a chunk or checks a draft of one; the steps in between "
        "take the next action in hand. A rejected round has checked a draft in vain and denoised in the same call. "
        "Milliseconds per action, elsewhere on this page, are means over executed actions.</p>" + kinds + drafts
    )


def _kind_rows(title: str, block: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for kind in _ROUNDS:
        if row := block["kinds"].get(kind.value):
            actions = figure_text(row["actions"] / row["n"])
            rows.append([title, kind.value, str(row["n"]), percent_text(row["share"]), actions, figure_text(row["ms"])])
    return rows


def _draft_cells(block: Mapping[str, Any]) -> list[str]:
    acceptance, ages = block["acceptance"], block["prefix_age_steps"]
    n_checks = sum(ages.values())
    mean_age = sum(int(age) * n for age, n in ages.items()) / n_checks if n_checks else None
    return [
        figure_text(block["actions_per_round"]), figure_text(acceptance["mean"]), percent_text(acceptance["share"]),
        figure_text(mean_age), figure_text(block["prefills_per_action"]),
        figure_text(block["expert_passes_per_action"]),
    ]  # fmt: skip
