"""``heisd demo``: the bundled policy at work on a few LIBERO tasks, plain and accelerated, then a table and a page."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from heisd.config import EvalConfig
from heisd.errors import BadArtifact
from heisd.sim.splits import Split
from heisd.types import TokenOrigin

SUITES = ("libero_object", "libero_spatial")
PLAIN, ACCELERATED = "ar", ("exact", "hybrid")
# Episodes per suite and method, by the number of methods: a demo stays under 4 minutes on 2 cores, since an episode
# takes about 8 s and the accelerated methods' steps are timed against plain decoding's as well.
DEFAULT_EPISODES = {1: 5, 2: 4, 3: 3}


def demo_config(suite: str, weights: str, episodes: int | None, methods: tuple[str, ...] = (PLAIN,)) -> EvalConfig:
    """One episode of ``episodes`` tasks spread over the suite, the same for all methods, timed and filmed.

    Validation starts: showing them off must neither train on nor use up the test split. None: as many as there is
    time for.
    """
    n = DEFAULT_EPISODES[len(methods)] if episodes is None else episodes
    tasks = tuple(sorted({i * 10 // n for i in range(min(n, 10))}))
    return EvalConfig(
        suite=suite, methods=methods, split=Split.VALIDATION, episodes=n, tasks=tasks,
        weights=weights, timing=True, videos=len(tasks),
    )  # fmt: skip


def methods_for(suite: str, weights: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Plain decoding and what has all it needs beside the policy; and why each of the others is left out.

    Raises UnknownName or BadArtifact when the policy itself is not there, BadInput for a flow-matching one.
    """
    from heisd.bench.weights import require_policy, resolve_weights
    from heisd.policies.manifest import FORMAT
    from heisd.presets.assets import require

    directory, chosen, missing = resolve_weights(weights, suite), [PLAIN], {}
    instead = f"play it: heisd eval --suite {suite} --method full --weights {weights} --out DIR"
    require_policy(directory, FORMAT, "the demo", instead)
    for method in ACCELERATED:
        try:
            require(directory, suite, [method])
        except BadArtifact as error:
            missing[method] = str(error)
        else:
            chosen.append(method)
    return tuple(chosen), missing


def run_demo(out: Path, *, weights: str, episodes: int | None) -> dict[str, Any]:
    """Evaluate on both suites into a new directory under ``out`` and write ``out/report.html``."""
    from heisd import cli_run
    from heisd.bench.libero_world import libero_setting
    from heisd.bench.report import write_report

    began = time.monotonic()
    available = {suite: methods_for(suite, weights) for suite in SUITES}
    configs = [demo_config(suite, weights, episodes, methods) for suite, (methods, _) in available.items()]
    for config in configs:  # whatever is missing is said before anything is played
        libero_setting(config)
    missing = {suite: reasons for suite, (_, reasons) in available.items() if reasons}
    if missing:
        cli_run.stderr.print(missing_line(missing), soft_wrap=True, highlight=False, markup=False)
    runs = {config.suite: out / time.strftime("%Y%m%d-%H%M%S") / config.suite for config in configs}
    results = {config.suite: cli_run.evaluate(config, runs[config.suite]) for config in configs}
    page = write_report(list(runs.values()), out / "report.html")
    elapsed_s = round(time.monotonic() - began, 1)
    return {"elapsed_s": elapsed_s, "report": str(page), "missing": missing, "results": results}


def missing_line(missing: Mapping[str, Mapping[str, str]]) -> str:
    """One line: the methods that are left out, and what the first of them needs."""
    names = dict.fromkeys(method for reasons in missing.values() for method in reasons)
    first = next(iter(next(iter(missing.values())).values()))
    return f"not shown: {', '.join(names)}; {first}"


def speed_table(methods: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per method of a timed run; its speed-up is against plain decoding on the same observations."""
    table = Table(title="a handful of episodes: a look, not a measurement", title_justify="left")
    for column in ("method", "solved", "ms per action", "speed-up (95 %)", "LM forwards", "skipped"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, block in methods.items():
        speed, spoken = block["speedup_vs_baseline"], block["speculation"]
        mean_ms, forwards = block["ms_per_action"]["mean"], spoken["lm_forwards_per_action"]
        n_tokens = sum(spoken[origin.value] for origin in TokenOrigin)
        table.add_row(
            name,
            f"{sum(task['n_successes'] for task in block['per_task'])}/{block['n_episodes']}",
            "-" if mean_ms is None else f"{mean_ms:.1f}",
            "-" if speed is None else f"{speed['ratio']:.2f}x ({speed['ci95'][0]:.2f}-{speed['ci95'][1]:.2f})",
            "-" if forwards is None else f"{forwards:.2f}",
            f"{100 * spoken[TokenOrigin.SKIPPED.value] / n_tokens:.0f} %" if n_tokens else "-",
        )
    return table


def show(result: dict[str, Any]) -> None:
    """Tables and the path of the page on stdout."""
    from heisd import cli_run

    for suite_result in result["results"].values():
        methods = suite_result["methods"]
        cli_run.stdout.print(cli_run.success_table(suite_result))
        if len(methods) > 1:
            cli_run.stdout.print(speed_table(methods))
        for name, block in methods.items():
            table = cli_run.latency_table(f"{name}: milliseconds per action", block["ms_per_action"], block["stages"])
            cli_run.stdout.print(table)
    cli_run.stdout.print(f"films and figures: {result['report']}  ({result['elapsed_s']:.0f} s)", soft_wrap=True)
