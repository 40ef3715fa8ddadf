"""Small tables of README and docs/ from single result files: plain decoding, rendering, the demo, guesses …"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import NONE, TIMES, interval, number, scaled, share, table
from comparison import OURS
from rows import Group

from heisd.bench.rounds import actions_per_round
from heisd.bench.speculation import skip_share

_EXPERT = r"(\S+) (\d+|all): (\d+)/(\d+) success, (\d+) without retry, +(\d+ \[\d+-\d+\]) steps"

_LIMITS = ("default", "fitted")


def decoding(results: Path) -> list[str]:
    """Plain decoding against ``transformers.generate``, one row per file."""
    head = ("threads", "heisd", "transformers", "ratio of sums (95 %)", "six decode steps ÷ (vision + prefill)", "file")
    rows = [
        [
            str(run["threads"]), f"{run['wall']['ours_ms']:.1f} ms", f"{run['wall']['transformers_ms']:.1f} ms",
            f"**{interval(run['wall']['speedup'], run['wall']['ci95'], '.2f', TIMES)}**",
            f"{run['decode_over_vision_plus_prefill']:.2f}", f"`benchmarks/results/{name}`",
        ]
        for name, run in read_all(results, "plain_decoding_threads*.json")
    ]  # fmt: skip
    return table(head, rows, n_text=0) if rows else []


def recorded(results: Path) -> list[str]:
    """Presets on recorded observations: speed, measured and predicted, and machinery; of ``exact`` every token."""
    checks = {run["suite"]: run["exact"] for _, run in read_all(results, "check_exact-*.json")}
    predictions = {
        prediction["suite"]: prediction["methods"]
        for _, run in read_all(results, "predict-libero_*.json") for prediction in run["results"]
    }  # fmt: skip
    head = (
        "suite", "preset", "speed-up (95 %)", "ms / action", "predicted", "machinery", "LM forwards / action",
        "differing tokens", "steps",
    )  # fmt: skip
    rows = []
    for name, run in read_all(results, "bench_exact-*.json"):
        suite = name.removeprefix("bench_exact-").removesuffix(".json")
        for method, block in run["methods"].items():
            speed, check = block["speedup_vs_baseline"], checks.get(suite, {}).get(method)
            if speed is None:
                continue
            ratio = f"**{interval(speed['ratio'], speed['ci95'], '.2f', TIMES)}**"
            compared, done = [NONE] * 2, block.get("speculation")
            forwards = None if done is None else done["lm_forwards_per_action"]
            if check is not None:
                forwards = check["lm_forwards"] / check["n_steps"] if forwards is None else forwards
                compared = [f"{check['differing_tokens']} of {check['n_tokens']:,}", f"{check['n_steps']:,}"]
            mean_ms = f"{block['ms_per_action']['mean']:.2f}"
            error = predictions.get(suite, {}).get(method, {}).get("error")
            predicted = number(scaled(error, 100), "+.0f", " %")
            machinery = number(scaled(block.get("overhead_share_of_plain"), 100), ".1f", " %")
            rows.append(
                [suite, f"`{method}`", ratio, mean_ms, predicted, machinery, number(forwards, ".2f"), *compared]
            )
    return table(head, rows, n_text=2) if rows else []


def equality(results: Path) -> list[str]:
    """Every proposer, combination and exact preset against plain decoding, the suites side by side."""
    checks = {run["suite"]: run["exact"] for _, run in read_all(results, "check_exact-*.json")}
    columns = ("steps", "differing tokens", "guesses kept / action", "LM forwards / action", "faults")
    head = ("proposers or preset", *(f"{column}, {suite}" for suite in checks for column in columns))
    names = dict.fromkeys(name for check in checks.values() for name in check)
    rows = [
        [f"`{name}`", *(cell for check in checks.values() for cell in _check_cells(check.get(name)))] for name in names
    ]
    return table(head, rows, n_text=1) if rows else []


def _check_cells(block: dict[str, Any] | None) -> tuple[str, ...]:
    if block is None:
        return (NONE,) * 5
    n = block["n_steps"]
    kept, forwards = block["kept_tokens"] / n, block["lm_forwards"] / n
    return (
        f"{n:,}",
        f"{block['differing_tokens']} of {block['n_tokens']:,}",
        f"{kept:.2f}",
        f"{forwards:.2f}",
        str(block["faults"]),
    )


def precisions(results: Path) -> list[str]:
    """Presets in float32 and bfloat16 on the same observations, each beside plain decoding in its precision."""
    runs = {(run["suite"], run["dtype"]): run["methods"] for _, run in read_all(results, "recorded-*.json")}
    flips = {run["suite"]: run["flips"] for _, run in read_all(results, "flips-*.json")}
    head = (
        "suite", "preset", "float32, ms / action", "float32, speed-up (95 %)", "bfloat16, ms / action",
        "bfloat16, speed-up (95 %)", "bfloat16, tokens that are not plain decoding's",
    )  # fmt: skip
    rows = []
    for suite in sorted({suite for suite, dtype in runs if dtype == "bfloat16"}):
        full, half = runs[suite, "float32"], runs[suite, "bfloat16"]
        for name in (name for name in full if name in half or name in flips.get(suite, {})):
            flipped = flips.get(suite, {}).get(name)
            rows.append([
                suite, f"`{name}`", *_time_cells(full[name]), *_time_cells(half.get(name)),
                NONE if flipped is None else f"{100 * flipped['token_rate']:.2f} % of {flipped['n_tokens']:,}",
            ])  # fmt: skip
    return table(head, rows, n_text=2) if rows else []


def _time_cells(block: dict[str, Any] | None) -> tuple[str, str]:
    """Milliseconds an action, speed-up."""
    if block is None:
        return NONE, NONE
    speed = block["speedup_vs_baseline"]
    return (
        f"{block['ms_per_action']['mean']:.2f}",
        NONE if speed is None else f"**{interval(speed['ratio'], speed['ci95'], '.2f', TIMES)}**",
    )


def ladder(calibrations: Path) -> list[str]:
    """Every trial of every calibrated preset, the setting in use in bold."""
    head = (
        "preset", "suite", "skips in a row, score from", "paired success, points (95 %)", "pairs", "steps skipped",
        "bad audits", "bad skips an episode (95 %)",
    )  # fmt: skip
    rows = []
    for name, calibration in read_all(calibrations, "*.json"):
        for preset, setting in calibration["skips"].items():
            chosen = setting["evidence"].get("chosen")
            for trial in setting["evidence"].get("rungs", ()):
                mark = "**" if trial == chosen else ""
                rows.append([
                    f"`{preset}`", name.removesuffix(".json"), f"{mark}{trial['n_skips']}, {trial['threshold']}{mark}",
                    interval(trial["difference_points"], trial["difference_ci95"], "+.1f"), str(trial["n_pairs"]),
                    share(trial["skip_share"]), f"{trial['n_bad_audits']} of {trial['n_audits']:,}",
                    f"< {trial['bad_skips_per_episode_high95']:.1f}" if trial["skip_share"] else NONE,
                ])  # fmt: skip
    rows.sort(key=lambda row: row[0] != "`hybrid`")
    return table(head, rows, n_text=3) if rows else []


def sums(results: Path, groups: Sequence[Group]) -> list[str]:
    """What the cost model adds up for our presets on the test split, and what was measured [ms an action]."""
    blocks = [
        (prediction["suite"], name, block)
        for _, run in read_all(results, "predict-compare-*.json") for prediction in run["results"]
        for name, block in prediction["methods"].items()
    ]  # fmt: skip
    shown = {
        (group.suite, row.name): row.done["ms_per_action"]["mean"]
        for group in groups
        for row in group.rows
        if row.is_timed
    }
    parts = ("vision", "prefill", "decode", "rows", "lookup", "drafter", "overhead")
    head = ("suite", "preset", "forwards", "vision", "prefill", "further forwards", "rows and checks", "look-up",
            "drafter", "the rest", "sum", "measured", "speed-up predicted", "measured")  # fmt: skip
    rows = [
        [
            suite, f"`{name}`", f"{block['usage']['n_forwards']:.2f}",
            *(f"{block['predicted'][f'{part}_ms']:.2f}" for part in parts),
            f"{block['predicted']['total_ms']:.2f}", f"{block['measured_ms']:.2f}",
            number(block["predicted_speedup"], ".2f", TIMES), number(block["measured_speedup"], ".2f", TIMES),
        ]
        for suite, name, block in blocks
        if name in ("ar", *OURS) and shown.get((suite, name)) == block["measured_ms"]
    ]  # fmt: skip
    return table(head, rows, n_text=2) if rows else []


def experts(results: Path) -> list[str]:
    """Scripted experts on shipped states, a suite a row; what they print is the file."""
    head = ("suite", "solved", "without a retry", "steps, mean and range", "least solved task", "file")
    rows = []
    for path in sorted(results.glob("experts/*-shipped.txt")):
        found = re.findall(_EXPERT, path.read_text(encoding="utf-8"))
        tasks = [(int(k) / int(n), f"{task}: {k} of {n}") for suite, task, k, n, *_ in found if task != "all"]
        for suite, task, k, n, clean, steps in found:
            if task == "all":
                rows.append(
                    [suite, f"{k} of {n}", clean, steps, min(tasks)[1], f"`benchmarks/results/experts/{path.name}`"]
                )
    return table(head, rows, n_text=1) if rows else []


def rendering(results: Path) -> list[str]:
    """A control step with two cameras under both renderers, and physics alone."""
    head = ("suite", "task", "stock", "fast", "ratio of sums (95 %)", "physics alone")
    rows = [
        [
            *place.split("/"), *(f"{scene['mean_ms'][mode]:.1f} ms" for mode in ("stock", "fast")),
            f"**{interval(scene['stock_over_fast']['ratio'], scene['stock_over_fast']['ci95'], '.1f', TIMES)}**",
            f"{scene['mean_ms']['none']:.1f} ms",
        ]
        for _, run in read_all(results, "rendering.json") for place, scene in run["scenes"].items()
    ]  # fmt: skip
    return table(head, rows, n_text=2) if rows else []


def demo(results: Path) -> list[str]:
    """What ``make demo`` shows, from the committed run."""
    head = (
        "suite", "method", "solved", "ms / action", "speed-up (95 %)", "LM forwards / action", "actions a round",
        "skipped",
    )  # fmt: skip
    rows = []
    for _, run in sorted(read_all(results, "demo/*.json"), key=lambda found: found[0].startswith("flow-")):
        for method, block in run["methods"].items():
            speed, done, n = block["speedup_vs_baseline"], block["speculation"], block["n_episodes"]
            solved = sum(task["n_successes"] for task in block["per_task"])
            ratio, ends = (speed["ratio"], speed["ci95"]) if speed else (None, None)
            rows.append([
                run["config"]["suite"], f"`{method}`", f"{solved}/{n}", number(block["ms_per_action"]["mean"], ".1f"),
                interval(ratio, ends, ".2f", TIMES) if n > 1 else number(ratio, ".2f", TIMES),  # of one there is none
                number(done["lm_forwards_per_action"], ".2f"), number(actions_per_round(done), ".1f"),
                share(skip_share(block)),
            ])  # fmt: skip
    return table(head, rows, n_text=2) if rows else []


def guesses(results: Path) -> list[str]:
    """Share of whole guesses that are as good as the target's answer, by who guessed."""
    runs = {run["suite"]: run["sources"] for _, run in read_all(results, "guesses-*.json")}
    asked = {
        "nearest remembered step": ("retrieval", "first"), "best of the five nearest": ("retrieval", "any"),
        "the last action again": ("persistence", "first"), "the parallel drafter's best guess": ("parallel", "first"),
    }  # fmt: skip
    rows = [[what, *(share(run[source][which]) for run in runs.values())] for what, (source, which) in asked.items()]
    return table(("", *(f"`{suite}`" for suite in runs)), rows, n_text=1) if runs else []


def older_pictures(results: Path) -> list[str]:
    """The same of the parallel drafter, by the age of the pictures, and with all else of then."""
    runs = {run["suite"]: run["without_a_look"]["older"] for _, run in read_all(results, "guesses-*.json")}
    ages = next(iter(runs.values()), {"pictures": {}})["pictures"]
    rows = [
        [f"{suite}{more}", *map(share, run[what].values())]
        for what, more in (("pictures", ""), ("everything", ", all of then")) for suite, run in runs.items()
    ]  # fmt: skip
    return table(("age of the look, control steps", *ages), rows, n_text=1) if runs else []


def watch(results: Path) -> list[str]:
    """In how many episodes an alarm came, by fault; faults that look alike share a row."""
    runs = {run["suite"]: run for _, run in read_all(results, "watch-*.json")}
    faults: dict[tuple[str, ...], list[str]] = {}
    for fault in next(iter(runs.values()), {"default": {"faults": {}}})["default"]["faults"]:
        cells = tuple(_alarmed(run[limits]["faults"][fault]) for run in runs.values() for limits in _LIMITS)
        faults.setdefault(cells, []).append(f"`{fault}`")
    head = ("fault", *(name for suite in runs for name in (f"`{suite}`, default limits", "fitted limits")))
    return table(head, [[", ".join(alike), *cells] for cells, alike in faults.items()], n_text=1) if runs else []


def _alarmed(fault: dict[str, Any]) -> str:
    """So many episodes, and after how many control steps if not at once."""
    steps = fault["median_steps"] or 0
    return f"{fault['alarmed']}" + (f" ({steps:g} step{'s' * (steps != 1)})" if steps else "")


def memory(results: Path) -> dict[str, float]:
    """Preset -> peak resident MB of a process that runs it alone (`benchmarks/memory.py`); empty without the file."""
    found = read_all(results, "memory.json")
    return {} if not found else {name: block["peak_rss_mb"] for name, block in found[0][1]["methods"].items()}


def read_all(results: Path, pattern: str) -> list[tuple[str, dict[str, Any]]]:
    """(file name, its object), by name."""
    return [(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(results.glob(pattern))]
