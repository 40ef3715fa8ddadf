"""The ablations' tables of docs/ablations.md, one for each family of policies.

Token policies: speed on recorded observations, success in the closed loop. Chunk policies: both in the closed loop,
since their rounds rest on what was executed before.
"""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cells import NONE, TIMES, interval, number, percent, share, table
from rows import successes_in

from heisd.bench.report_run import Run, load_run
from heisd.bench.speculation import skip_share
from heisd.bench.stats import paired_difference
from heisd.policies.manifest import FLOW_FORMAT, FORMAT
from heisd.presets import ABLATIONS, PRESETS
from heisd.presets.flash import SuiteSetting, suite_setting

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "HeiSD's ideas, one by one": ("heisd_code_boundary", "heisd_code_skip", "heisd_code"),
    "fixed 2:1, or a threshold": ("heisd_code", "heisd_code_adaptive", "hybrid_2to1", "hybrid"),
    "speed, or F": ("heisd_code_speed", "heisd_code"),
    "bounds of a block": ("heisd_code_10_5", "heisd_code_30_15", "heisd_code"),
    "last action, or Kalman": ("kerv_paper_persistence", "kerv_paper"),
    "gripper relaxed, or exact": (
        "heisd_code_any_gripper", "heisd_code", "spec_vla_relaxed_gripper", "spec_vla_relaxed",
    ),
    "share of the store, ours": ("hybrid_store_10", "hybrid_store_25", "hybrid_store_50", "hybrid"),
    "share of the store, HeiSD": (
        "heisd_code_store_10", "heisd_code_store_25", "heisd_code_store_50", "heisd_code",
    ),
    "share of the store, RT-Cache": ("rt_cache_store_10", "rt_cache_store_25", "rt_cache_store_50", "rt_cache"),
    "8 nodes, or 50": (
        "spec_vla_strict_8_nodes", "spec_vla_strict", "spec_vla_relaxed_8_nodes", "spec_vla_relaxed",
    ),
    "two passes, or one": ("exact_two_pass", "exact", "retrieval_sd_two_pass", "retrieval_sd"),
}  # fmt: skip
FLOW_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "how many levels, or the largest": ("flash_at_05", "flash_at_10", "flash", "flash_4_levels"),
    "δ": ("flash_delta_05", "flash_delta_10", "flash", "flash_delta_30"),
    "one δ, or one bound on the velocity": ("flash_velocity", "flash"),
    "two noises, or two levels": ("flash_2_noises", "flash_at_10", "flash"),
    "FLASH's guards and period": (
        "flash_no_verify_stop", "flash_no_post_cut", "flash_guarded", "flash_no_period", "flash_period_4", "flash",
    ),
    "fallbacks, ours": (
        "flow_hybrid_no_similarity", "flow_hybrid_no_margin", "flow_hybrid_no_watch", "flow_hybrid",
    ),
    "who drafts": (
        "flow_hybrid_with_tail", "flow_hybrid_tail", "flow_hybrid_persistence", "flow_hybrid_retrieval",
        "flow_hybrid_all_drafts", "flow_hybrid_no_skip",
    ),
    "skips": (
        "flow_hybrid_no_skip", "flow_hybrid_2to1", "flow_hybrid_through", "flow_hybrid_looking", "flow_hybrid_blind",
        "flow_hybrid",
    ),
    "how far a denoised chunk is executed": ("flow_hybrid_even", "full_calm", "flow_hybrid"),
    "cheaper than speculation": ("full_calm", "full_longer", "tail_2to1", "flash_retrieval", "flash", "flow_hybrid"),
}  # fmt: skip
# Where a suite's published setting is what the ablation sets, it is its parent, and not played.
PARENT_WHERE: Mapping[str, Callable[[SuiteSetting], bool]] = {
    "flash_guarded": lambda published: published.guards_gripper,
    "flash_no_verify_stop": lambda published: not published.guards_gripper,
    "flash_no_post_cut": lambda published: not published.guards_gripper,
    "flash_period_4": lambda published: published.period == 4,
    "flash_no_period": lambda published: published.period == 0,
}


def ablations(results: Path) -> list[str]:
    """One row per question and preset, the suites side by side; nothing without times and an episode played."""
    speeds = {path: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("recorded-*.json")}
    timed = {str(run["suite"]): run["methods"] for run in speeds.values() if run["dtype"] == "float32"}
    played = _played(results, FORMAT)
    suites = sorted(timed)
    if not (suites and played):
        return []
    columns = ("speed-up (95 %)", "skipped", "forwards", "solved", "to plain, points (95 %)")
    cells = {suite: partial(_cells, timed[suite], played.get(suite)) for suite in suites}
    return _by_question(QUESTIONS, columns, cells)


def flow_ablations(results: Path) -> list[str]:
    """The same of chunk policies; times where a run was timed."""
    columns = (
        "speed-up (95 %)", "prefills", "actions a round", "skipped", "solved", "to `full`, points (95 %)",
    )  # fmt: skip
    played = _played(results, FLOW_FORMAT)
    cells = {suite: partial(_flow_cells, len(columns), played[suite]) for suite in sorted(played)}
    return _by_question(FLOW_QUESTIONS, columns, cells) if cells else []


def _played(results: Path, policy: str) -> dict[str, Run]:
    """Suite -> its complete run of ablations of one kind of policy."""
    runs = map(load_run, (path.parent for path in results.glob("ablations-*/eval_info.json")))
    return {
        run.suite: run for run in runs if run.result["status"] == "complete" and PRESETS[run.baseline].policy == policy
    }


def _by_question(
    questions: Mapping[str, tuple[str, ...]],
    columns: tuple[str, ...],
    cells: Mapping[str, Callable[[str], tuple[str, ...]]],
) -> list[str]:
    """Rows of question and method; ``cells`` has each suite's by method."""
    head = ("question", "method", *(f"{column}, {suite}" for suite in cells for column in columns))
    rows = [
        ["" if i else question, f"`{name}`", *(cell for of in cells.values() for cell in of(name))]
        for question, names in questions.items() for i, name in enumerate(names)
    ]  # fmt: skip
    return table(head, rows, n_text=2)


def _cells(timed: Mapping[str, Any], played: Run | None, name: str) -> tuple[str, ...]:
    block = timed[name]
    speed, done = block["speedup_vs_baseline"], block["speculation"]
    return (
        interval(speed["ratio"], speed["ci95"], ".2f", TIMES),
        share(skip_share(block)),
        number(done["lm_forwards_per_action"], ".2f"),
        *((NONE, NONE) if played is None else _success_cells(played, name)),
    )


def _flow_cells(n: int, played: Run, name: str) -> tuple[str, ...]:
    """Dashes for what is its parent on this suite, and for what was not played."""
    if name not in played.methods:
        return (NONE,) * n
    block = played.methods[name]
    speed, done = block["speedup_vs_baseline"], block["speculation"]
    return (
        interval(speed and speed["ratio"], speed and speed["ci95"], ".2f", TIMES),
        number(done["rounds"]["prefills_per_action"], ".3f"),
        number(done["rounds"]["actions_per_round"], ".1f"),
        share(skip_share(block)),
        *_success_cells(played, name),
    )


def _success_cells(played: Run, name: str) -> tuple[str, str]:
    """Solved, and paired by start; dashes for presets that promise plain decoding's tokens and were not played."""
    ours, plain = successes_in(played, name), successes_in(played, played.baseline)
    both = [start for start in ours if start in plain]
    if not both:
        return NONE, NONE
    difference = paired_difference([plain[s] for s in both], [ours[s] for s in both])
    return f"{sum(ours.values())} of {len(ours)}", percent(difference, "+.0f", "")


def methods(*, is_exact: bool) -> list[str]:
    """Every ablation that promises plain decoding's tokens, or every other, once."""
    names = dict.fromkeys(name for names in QUESTIONS.values() for name in names if name in ABLATIONS)
    return [name for name in names if PRESETS[name].is_exact is is_exact]


def flow_methods(suite: str) -> list[str]:
    """``full``, then every row that is a preset of its own on a suite, once."""
    published = suite_setting(suite)
    names = dict.fromkeys(name for names in FLOW_QUESTIONS.values() for name in names)
    return ["full", *(name for name in names if not (name in PARENT_WHERE and PARENT_WHERE[name](published)))]


if __name__ == "__main__":  # python benchmarks/ablations.py exact|lossy|SUITE: names for scripts/ablations.sh
    what = sys.argv[1]
    print(",".join(methods(is_exact=what == "exact") if what in ("exact", "lossy") else flow_methods(what)))
