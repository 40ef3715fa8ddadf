"""``heisd demo``: the bundled policy at work on a few LIBERO tasks, then a table and a page with films."""

import time
from pathlib import Path
from typing import Any

from heisd.config import EvalConfig
from heisd.sim.splits import Split

SUITES = ("libero_object", "libero_spatial")


def demo_config(suite: str, weights: str, episodes: int) -> EvalConfig:
    """One episode of ``episodes`` tasks spread over the suite, timed and filmed.

    Validation starts: showing them off must neither train on nor use up the test split.
    """
    tasks = tuple(sorted({i * 10 // episodes for i in range(min(episodes, 10))}))
    return EvalConfig(
        suite=suite, methods=("ar",), split=Split.VALIDATION, episodes=episodes, tasks=tasks,
        weights=weights, timing=True, videos=len(tasks),
    )  # fmt: skip


def run_demo(out: Path, *, weights: str, episodes: int) -> dict[str, Any]:
    """Evaluate on both suites into a new directory under ``out`` and write ``out/report.html``."""
    from heisd import cli_run
    from heisd.bench.libero_world import libero_setting
    from heisd.bench.report import write_report

    began = time.monotonic()
    configs = [demo_config(suite, weights, episodes) for suite in SUITES]
    for config in configs:  # whatever is missing is said before anything is played
        libero_setting(config)
    runs = {config.suite: out / time.strftime("%Y%m%d-%H%M%S") / config.suite for config in configs}
    results = {config.suite: cli_run.evaluate(config, runs[config.suite]) for config in configs}
    page = write_report(list(runs.values()), out / "report.html")
    return {"elapsed_s": round(time.monotonic() - began, 1), "report": str(page), "results": results}


def show(result: dict[str, Any]) -> None:
    """Tables and the path of the page on stdout."""
    from heisd import cli_run

    for suite_result in result["results"].values():
        cli_run.stdout.print(cli_run.success_table(suite_result))
        for name, block in suite_result["methods"].items():
            table = cli_run.latency_table(f"{name}: milliseconds per action", block["ms_per_action"], block["stages"])
            cli_run.stdout.print(table)
    cli_run.stdout.print(f"films and figures: {result['report']}  ({result['elapsed_s']:.0f} s)", soft_wrap=True)
