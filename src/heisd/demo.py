"""``heisd demo``: the bundled policies at work on a few LIBERO tasks, plain and accelerated, then tables and a page."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from heisd.config import EvalConfig
from heisd.errors import BadArtifact
from heisd.policies.manifest import FLOW_FORMAT, FORMAT
from heisd.sim.splits import Split

SUITES = ("libero_object", "libero_spatial")
METHODS = {FORMAT: ("ar", "exact", "hybrid"), FLOW_FORMAT: ("full", "flow_hybrid")}  # of a policy's format; plain first
# Episodes per suite and method, by the number of methods: a demo stays under 4 minutes on 2 cores, since an episode
# takes about 8 s and the accelerated methods' steps are timed against plain decoding's as well.
DEFAULT_EPISODES = {1: 5, 2: 4, 3: 3}
SHARED_EPISODES = {FORMAT: 2, FLOW_FORMAT: 1}  # where policies of both formats are shown


@dataclass(frozen=True, slots=True)
class Show:
    """What is played on one suite with one policy."""

    suite: str
    policy: str  # its format
    methods: tuple[str, ...]  # plain first
    missing: Mapping[str, str]  # method that is left out -> why

    @property
    def name(self) -> str:
        """Of its run's directory, and in the result."""
        return self.suite if self.policy == FORMAT else f"flow-{self.suite}"


def shows(weights: str) -> list[Show]:
    """What can be played: with the named policy or, for ``default``, with the bundled one that decodes tokens.

    A bundled flow-matching policy comes behind that one if it has all that its accelerated method needs, and a
    calibration: without one that method goes by a first guess. Raises UnknownName or BadArtifact when the policy itself
    is not there.
    """
    from heisd.bench.weights import DEFAULT, resolve_weights
    from heisd.policies.bundle import find_policy, list_bundled
    from heisd.policies.identity import policy_format
    from heisd.presets.assets import place_of

    if weights != DEFAULT:
        kind = policy_format(find_policy(weights))
        return [Show(suite, kind, *methods_for(suite, weights, kind)) for suite in SUITES]
    found = [Show(suite, FORMAT, *methods_for(suite, weights)) for suite in SUITES]
    if list_bundled(FLOW_FORMAT):
        for suite in SUITES:
            show = Show(suite, FLOW_FORMAT, *methods_for(suite, weights, FLOW_FORMAT))
            calibration = place_of(resolve_weights(weights, suite, FLOW_FORMAT), suite, "calibration")
            found += [show] if not show.missing and calibration.is_file() else []
    return found


def methods_for(suite: str, weights: str, policy: str = FORMAT) -> tuple[tuple[str, ...], dict[str, str]]:
    """The plain method and what has all it needs beside the policy; and why each of the others is left out.

    ``policy`` is its format. Raises UnknownName or BadArtifact when the policy itself is not there.
    """
    from heisd.bench.weights import resolve_weights
    from heisd.presets.assets import require

    directory, (plain, *accelerated) = resolve_weights(weights, suite, policy), METHODS[policy]
    chosen, missing = [plain], {}
    for method in accelerated:
        try:
            require(directory, suite, [method])
        except BadArtifact as error:
            missing[method] = str(error)
        else:
            chosen.append(method)
    return tuple(chosen), missing


def demo_config(suite: str, weights: str, episodes: int, methods: tuple[str, ...]) -> EvalConfig:
    """One episode of ``episodes`` tasks spread over the suite, the same for all methods, timed and filmed.

    Validation starts: showing them off must neither train on nor use up the test split.
    """
    tasks = tuple(sorted({i * 10 // episodes for i in range(min(episodes, 10))}))
    return EvalConfig(
        suite=suite, methods=methods, split=Split.VALIDATION, episodes=episodes, tasks=tasks,
        weights=weights, timing=True, videos=len(tasks),
    )  # fmt: skip


def default_episodes(played: Sequence[Show]) -> dict[str, int]:
    """Episodes per method of every show, by name: as many as there is time for."""
    is_shared = len({show.policy for show in played}) > 1
    return {
        show.name: SHARED_EPISODES[show.policy] if is_shared else DEFAULT_EPISODES[len(show.methods)] for show in played
    }


def run_demo(out: Path, *, weights: str, episodes: int | None) -> dict[str, Any]:
    """Evaluate on both suites into a new directory under ``out`` and write ``out/report.html``.

    ``episodes`` are per suite and method; None: as many as there is time for.
    """
    from heisd import cli_run
    from heisd.bench.libero_world import libero_setting
    from heisd.bench.report import write_report

    began, played = time.monotonic(), shows(weights)
    n_episodes = default_episodes(played)
    configs = {
        show.name: demo_config(show.suite, weights, episodes or n_episodes[show.name], show.methods) for show in played
    }
    for config in configs.values():  # whatever is missing is said before anything is played
        libero_setting(config)
    missing = {show.name: dict(show.missing) for show in played if show.missing}
    if missing:
        cli_run.stderr.print(missing_line(missing), soft_wrap=True, highlight=False, markup=False)
    runs = {name: out / time.strftime("%Y%m%d-%H%M%S") / name for name in configs}
    results = {name: cli_run.evaluate(config, runs[name]) for name, config in configs.items()}
    page = write_report(list(runs.values()), out / "report.html")
    elapsed_s = round(time.monotonic() - began, 1)
    return {"elapsed_s": elapsed_s, "report": str(page), "missing": missing, "results": results}


def missing_line(missing: Mapping[str, Mapping[str, str]]) -> str:
    """One line: the methods that are left out, and what the first of them needs."""
    names = dict.fromkeys(method for reasons in missing.values() for method in reasons)
    first = next(iter(next(iter(missing.values())).values()))
    return f"not shown: {', '.join(names)}; {first}"


def speed_table(methods: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per method of a timed run; its speed-up is against the plain method on the same observations.

    A prefill is the one forward of a language model that a chunk policy asks; a token policy's round is one action.
    """
    from heisd.bench.rounds import actions_per_round
    from heisd.bench.speculation import skip_share

    table = Table(title="a handful of episodes: a look, not a measurement", title_justify="left")
    for column in (
        "method", "solved", "ms per action", "speed-up (95 %)", "LM forwards", "actions a round", "skipped",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, block in methods.items():
        spoken, skipped = block["speculation"], skip_share(block)
        mean_ms, forwards = block["ms_per_action"]["mean"], spoken["lm_forwards_per_action"]
        table.add_row(
            name,
            f"{sum(task['n_successes'] for task in block['per_task'])}/{block['n_episodes']}",
            "-" if mean_ms is None else f"{mean_ms:.1f}",
            _speed_text(block),
            "-" if forwards is None else f"{forwards:.2f}",
            f"{actions_per_round(spoken):.1f}",
            "-" if skipped is None else f"{100 * skipped:.0f} %",
        )
    return table


def _speed_text(block: Mapping[str, Any]) -> str:
    """A single episode has no interval."""
    speed = block["speedup_vs_baseline"]
    if speed is None:
        return "-"
    ends = f" ({speed['ci95'][0]:.2f}-{speed['ci95'][1]:.2f})" if block["n_episodes"] > 1 else ""
    return f"{speed['ratio']:.2f}x{ends}"


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
