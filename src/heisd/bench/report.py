"""``heisd report``: finished runs -> one self-contained HTML page. Reads files only; plays nothing again."""

import json
import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from heisd.bench.charts import STAGE_CLASSES, histogram_svg, interval_svg, stacked_svg
from heisd.bench.overhead import overhead_text
from heisd.bench.report_belt import on_the_belt
from heisd.bench.report_calibration import calibrations
from heisd.bench.report_films import films, timelines
from heisd.bench.report_realtime import in_real_time
from heisd.bench.report_rounds import rounds
from heisd.bench.report_run import Run, load_run
from heisd.bench.report_shift import shifts
from heisd.bench.report_speculation import acceptance, by_motion, origins_and_routes
from heisd.bench.report_speed import distributions, plane, speedup_text
from heisd.errors import BadInput
from heisd.files import write_atomic

MOST_UNFOLDED = 3  # methods of a run shown one below the other


def write_report(run_paths: Sequence[Path], out: Path) -> Path:
    """Write the page for one or more runs; raises BadInput without runs, BadArtifact for unfinished ones."""
    if not run_paths:
        raise BadInput("a report needs at least one run directory")
    page = render_page([load_run(path) for path in run_paths])
    write_atomic(out, page.encode())
    return out


def render_page(runs: Sequence[Run]) -> str:
    """The whole page: nothing in it refers to another file or address."""
    style = files("heisd.bench").joinpath("report.css").read_text(encoding="utf-8")
    sections = (
        _header(runs),
        plane(runs),
        _comparison(runs),
        shifts(runs),
        in_real_time(runs),
        on_the_belt(runs),
        timelines(runs),
        films(runs),
        _success(runs),
        _latency(runs),
        acceptance(runs),
        rounds(runs),
        origins_and_routes(runs),
        by_motion(runs),
        calibrations(runs),
        _reading(),
        _setup(runs),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>heisd: {escape(', '.join(dict.fromkeys(run.suite for run in runs)))}</title>"
        f"<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(s for s in sections if s)
        + "\n</main></body></html>\n"
    )


def _header(runs: Sequence[Run]) -> str:
    cards = "".join(_card(run, name, block) for run in runs for name, block in run.methods.items())
    invalid = sum(run.result["invalid"]["n"] for run in runs)
    warning = f'<p class="note bad">{invalid} episodes could not be played and are in no rate.</p>' if invalid else ""
    return (
        "<header><h1>What the policy did, and how fast</h1>"
        "<p>Closed-loop episodes in LIBERO, simulated by MuJoCo. The policy sees two cameras, the arm's own "
        f"state and a sentence, and answers every control step. Rates carry Wilson 95 % intervals.</p></header>"
        f'<div class="cards">{cards}</div>{warning}'
    )


def _card(run: Run, name: str, block: dict[str, Any]) -> str:
    result = run.result
    chips = (result["split"] + " split", result["condition"], result["config"]["protocol"] + " protocol",
             result["rendering"] + " rendering", result["config"]["dtype"])  # fmt: skip
    rate = "none" if block["pc_success"] is None else f"{block['pc_success']:.0f}<small> %</small>"
    interval = "" if block["wilson95"] is None else f"{block['wilson95'][0]:.0f} to {block['wilson95'][1]:.0f} % · "
    return (
        f'<div class="card"><div class="name">{escape(run.suite)} · <b>{escape(name)}</b></div>'
        f'<div class="big">{rate}</div>'
        f'<div class="sub">{interval}{block["n_episodes"]} episodes</div>'
        + "".join(f'<span class="chip">{escape(chip)}</span>' for chip in chips if name == run.baseline)
        + "</div>"
    )


def _success(runs: Sequence[Run]) -> str:
    tables = "".join(_folded(run, [_success_table(run, name, b) for name, b in run.methods.items()]) for run in runs)
    return f"<h2>Success, task by task</h2><p class='lead'>Dot: share solved. Bar: 95 % interval.</p>{tables}"


def _folded(run: Run, blocks: Sequence[str]) -> str:
    """The blocks of a run's methods; behind a summary to click on when they are many."""
    text = "".join(blocks)
    if len(blocks) <= MOST_UNFOLDED:
        return text
    return f"<details><summary>{escape(run.title)}: each of {len(blocks)} methods</summary>{text}</details>"


def _success_table(run: Run, name: str, block: dict[str, Any]) -> str:
    rows = "".join(_success_row(f"{t['task_id']} · {t['instruction']}", t) for t in block["per_task"])
    successes = sum(t["n_successes"] for t in block["per_task"])
    total = _success_row("all tasks", {**block, "n_successes": successes}, "total") if block["n_episodes"] else ""
    return (
        f"<h3>{escape(run.suite)} · {escape(name)} · {escape(run.result['condition'])}</h3><div class='wide'><table>"
        '<tr><th>task</th><th class="num">solved</th><th>0 to 100 %</th><th class="num">mean steps</th></tr>'
        f"{rows}{total}</table></div>"
    )


def _success_row(label: str, block: dict[str, Any], kind: str = "") -> str:
    return (
        f'<tr class="{kind}"><td>{escape(label)}</td>'
        f'<td class="num">{block["n_successes"]} / {block["n_episodes"]}</td>'
        f"<td>{interval_svg(block['pc_success'], *block['wilson95'])}</td>"
        f'<td class="num">{block["mean_steps"]:.0f}</td></tr>'
    )


def _latency(runs: Sequence[Run]) -> str:
    timed = [(run, name, block) for run in runs for name, block in run.methods.items() if block["ms_per_action"]["n"]]
    if not timed:
        return (
            "<h2>Latency</h2><p class='note'>Not measured in these runs: only <code>heisd eval --timing</code> "
            "(serial, nothing beside it) and <code>heisd bench</code> report times.</p>"
        )
    scale = max(block["ms_per_action"]["mean"] for _, _, block in timed)
    parts = "".join(
        _folded(run, [_latency_block(run, name, block, scale) for of, name, block in timed if of is run])
        for run in runs
    )
    return (
        "<h2>Latency by stage</h2><p class='lead'>Full clock: from the observation handed over to the action handed "
        f"back. Bars are means, on one scale.</p>{distributions(runs)}{parts}"
    )


def _latency_block(run: Run, name: str, block: dict[str, Any], scale_ms: float) -> str:
    stages = {stage: row["mean"] for stage, row in block["stages"].items()}
    rest = max(block["ms_per_action"]["mean"] - sum(stages.values()), 0.0)
    series = [ms for r in run.records if r.method == name and r.timing for ms in r.timing.latency_ms]
    shown = {**block["stages"], "other": None, "full clock": block["ms_per_action"]}
    rows = "".join(_stage_row(i, stage, row) for i, (stage, row) in enumerate(shown.items()) if row)
    head = "".join(f'<th class="num">{title}</th>' for title in ("n", "p50", "p95", "p99", "mean [ms]"))
    overhead = overhead_text(block)
    note = f"<p class='note'>{escape(overhead)}</p>" if overhead else ""
    return (
        f"<h3>{escape(run.suite)} · {escape(name)}</h3><div class='wide'>"
        f"{stacked_svg({**stages, 'other': rest}, scale_ms=scale_ms)}<table><tr><th>stage</th>{head}</tr>{rows}</table>"
        f"{note}{histogram_svg(series, unit='ms')}</div>"
    )


def _stage_row(position: int, stage: str, row: dict[str, Any]) -> str:
    is_total = stage == "full clock"
    swatch = "" if is_total else f'<i class="swatch stage-{position % STAGE_CLASSES}"></i>'
    figures = "".join(f'<td class="num">{row[key]:.2f}</td>' for key in ("p50", "p95", "p99", "mean"))
    return (
        f'<tr class="{"total" if is_total else ""}"><td>{swatch}{escape(stage)}</td>'
        f'<td class="num">{row["n"]}</td>{figures}</tr>'
    )


def _comparison(runs: Sequence[Run]) -> str:
    """Methods against the first one of their run; empty when a run has a single method."""
    rows = "".join(
        _comparison_row(run, name, block) for run in runs for name, block in run.methods.items() if block["paired"]
    )
    if not rows:
        return ""
    return (
        "<h2>Against the baseline</h2><p class='lead'>Same starts, paired. An interval that contains zero is not proof "
        'of no loss.</p><div class="wide"><table><tr><th>run</th><th class="num">success, points</th>'
        f'<th class="num">speed, full clock</th><th class="num">LM forwards per action</th></tr>{rows}</table></div>'
    )


def _comparison_row(run: Run, name: str, block: dict[str, Any]) -> str:
    paired, speed = block["paired"], block["speedup_vs_baseline"]
    points = f"{paired['difference_points']:+.1f} ({paired['ci95'][0]:+.1f} to {paired['ci95'][1]:+.1f})"
    forwards = block["speculation"]["lm_forwards_per_action"]
    return (
        f'<tr><td>{escape(run.suite)} · {escape(name)}</td><td class="num">{points}</td>'
        f'<td class="num">{speedup_text(speed)}</td><td class="num">{forwards:.2f}</td></tr>'
    )


def _reading() -> str:
    return (
        "<h2>How to read this</h2><p class='lead'>LIBERO's targets hardly move between its shipped starts, so a policy "
        "that ignores its cameras can get surprisingly far: read a rate beside the blind baseline and the jittered "
        "condition. An episode that ended in an error is not a failure of the policy; it is left out and counted "
        "apart. The bundled policy saw other demonstrations, cameras and proprioception than OpenVLA-7B: the two do "
        "not belong in one table.</p>"
    )


def _setup(runs: Sequence[Run]) -> str:
    hidden = {"per_task", "per_group", "overall", "methods"}
    blocks = "".join(
        f"<details><summary>{escape(run.suite)}: configuration, versions, seeds</summary><pre>"
        + escape(json.dumps({k: v for k, v in run.result.items() if k not in hidden}, indent=2))
        + "</pre></details>"
        for run in runs
    )
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"<h2>Exactly what ran</h2>{blocks}<footer>Written by heisd on {written}.</footer>"
