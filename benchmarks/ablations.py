"""The ablations' table of docs/ablations.md: speed on recorded observations, success in the closed loop."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import NONE, TIMES, interval, number, percent, share, table
from rows import successes_in

from heisd.bench.report_run import Run, load_run
from heisd.bench.stats import paired_difference
from heisd.presets import ABLATIONS, PRESETS

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


def ablations(results: Path) -> list[str]:
    """One row per question and preset, the suites side by side; nothing without times and an episode played."""
    speeds = {path: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("recorded-*.json")}
    timed = {str(run["suite"]): run["methods"] for run in speeds.values() if run["dtype"] == "float32"}
    played = {
        run.suite: run
        for run in map(load_run, (path.parent for path in results.glob("ablations-*/eval_info.json")))
        if run.result["status"] == "complete"
    }
    suites = sorted(timed)
    if not (suites and played):
        return []
    columns = ("speed-up (95 %)", "skipped", "forwards", "solved", "to plain, points (95 %)")
    head = ("question", "method", *(f"{column}, {suite}" for suite in suites for column in columns))
    rows = [
        [
            "" if i else question, f"`{name}`",
            *(cell for suite in suites for cell in _cells(timed[suite], played.get(suite), name)),
        ]
        for question, names in QUESTIONS.items() for i, name in enumerate(names)
    ]  # fmt: skip
    return table(head, rows, n_text=2)


def _cells(timed: Mapping[str, Any], played: Run | None, name: str) -> tuple[str, ...]:
    block = timed[name]
    speed, done = block["speedup_vs_baseline"], block["speculation"]
    skipped = sum(part["share"] for route, part in done["routes"].items() if route.startswith("skip/"))
    return (
        interval(speed["ratio"], speed["ci95"], ".2f", TIMES),
        share(skipped),
        number(done["lm_forwards_per_action"], ".2f"),
        *((NONE, NONE) if played is None else _success_cells(played, name)),
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


if __name__ == "__main__":  # python benchmarks/ablations.py exact|lossy: their names, for scripts/ablations.sh
    print(",".join(methods(is_exact=sys.argv[1] == "exact")))
