"""The report on calibrated skips: what the score promised against what held-out steps showed, and the ladder."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heisd.bench.charts_xy import Span, calibration_svg
from heisd.bench.report_run import Run, table_html
from heisd.bench.stats import wilson
from heisd.errors import HeisdError
from heisd.presets import PRESETS
from heisd.presets.skippers import ALL_SKIPPERS

if TYPE_CHECKING:
    from heisd.presets.calibration import Calibration, SkipSetting

BESIDE_RUN = "calibration.json"


def calibrations(runs: Sequence[Run]) -> str:
    """Section: one block per run and calibrated preset; empty when no run has a calibration to show."""
    blocks = dict.fromkeys(block for run in runs for block in _blocks(run))  # runs that share a file show it once
    if not blocks:
        return ""
    return (
        "<h2>Calibration of skips</h2><p class='lead'>Score: the probability, from what is known before the language "
        "model runs, that a skipped action is good. Dots: share of good ones among held-out steps of that score, with "
        f"Wilson 95 % intervals; dashed: a perfect score.</p>{''.join(blocks)}"
    )


def _blocks(run: Run) -> list[str]:
    methods = {_that_waits(name) for name in run.methods}
    if not any(name in ALL_SKIPPERS or "calibration" in PRESETS[name].needs for name in methods if name in PRESETS):
        return []
    calibration = _calibration_of(run)
    if isinstance(calibration, str):
        return [f'<p class="note">{escape(calibration)}</p>'] if calibration else []
    return [_block(calibration.suite, name, s) for name, s in calibration.skips.items() if name in methods]


def _that_waits(method: str) -> str:
    """The preset whose settings a method has: of late chunks the one without a delay."""
    return (PRESETS[method].delays or method) if method in PRESETS else method


def _calibration_of(run: Run) -> "Calibration | str":
    """The file the run was played with; why it cannot be shown; or "" when there is none."""
    from heisd.presets.calibration import Calibration

    try:
        path = next((path for path in _places(run) if path.is_file()), None)
        if path is None:
            return ""
        if not _played_with(run, path):
            return f"{run.title}: no calibration to show; {path} was made anew after this run"
        return Calibration.load(path, run.result["policy"]["sha256"])
    except HeisdError as error:  # the policy may be gone, or another one by now: the run is still a run
        return f"{run.title}: no calibration to show; {error}"


def _played_with(run: Run, path: Path) -> bool:
    """Whether it was this file, as far as the result says: by its hash, or by what it says to each method."""
    from heisd.policies.manifest import sha256_of
    from heisd.presets.assets import deciding_hash

    if "calibration" in run.result:
        return bool(run.result["calibration"].get("sha256") in (None, sha256_of(path)))
    known = {name: run.asset("calibration", name) for name in run.methods if _that_waits(name) in ALL_SKIPPERS}
    return all(sha256 in (None, deciding_hash(path, name)) for name, sha256 in known.items())


def _places(run: Run) -> list[Path]:
    from heisd.bench.libero_world import calibrated_suite
    from heisd.bench.weights import resolve_weights
    from heisd.presets.assets import place_of

    config = run.result["config"]
    if config.get("calibration"):
        return [Path(config["calibration"])]
    directory = resolve_weights(config["weights"], run.suite)
    beside_policy = place_of(directory, calibrated_suite(directory, run.suite), "calibration")
    return [run.path / BESIDE_RUN, beside_policy]


def _block(suite: str, method: str, setting: "SkipSetting") -> str:
    evidence = setting.evidence
    rows = [row for row in _curve(evidence) if row.get("n")]
    limits = f"Skips from a score of {setting.threshold:g} on, at most {setting.n_skips} in a row."
    if setting.calm:
        limits += " Denoised chunks that leave the gripper alone are executed further than others."
    if not setting.n_skips:
        tried = "no trial on the ladder was good enough" if evidence.get("rungs") else "its score was never high enough"
        limits = f"Never skips: {tried}."
    head = f"<h3>{escape(suite)} · {escape(method)}</h3><p class='lead'>{limits}</p>"
    if not rows:
        return f'{head}<p class="note">The calibration file holds no held-out curve.</p>'
    threshold = setting.threshold if setting.n_skips else None
    curve = [(float(_either(row, "score", "mean_score")), _good_percent(row), int(row["n"])) for row in rows]
    picture = f'<div class="wide">{calibration_svg(curve, threshold=threshold)}</div>'
    return head + picture + _rungs(evidence.get("rungs", []))


def _curve(evidence: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The held-out curve, at the top of the evidence or one level below."""
    nested = [part for part in evidence.values() if isinstance(part, dict)]
    found: Sequence[Mapping[str, Any]] = next((part["curve"] for part in (evidence, *nested) if part.get("curve")), ())
    return found


def _either(row: Mapping[str, Any], *names: str) -> Any:
    return next(row[name] for name in names if name in row)


def _good_percent(row: Mapping[str, Any]) -> Span:
    """From a share of good rows to percent with its interval."""
    n = int(row["n"])
    estimate = wilson(round(float(_either(row, "good", "share_good")) * n), n)
    assert estimate is not None, "rows without steps are left out"
    return Span(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def _rungs(rungs: Sequence[Mapping[str, Any]]) -> str:
    """The ladder of trials as it stands in the file, whatever columns it has."""
    names = list(dict.fromkeys(name for rung in rungs for name, value in rung.items() if not isinstance(value, dict)))
    if not names:
        return ""
    rows = [[_cell(rung.get(name)) for name in names] for rung in rungs]
    return "<h3>Trials, strict to loose</h3>" + table_html([name.replace("_", " ") for name in names], rows, n_text=0)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]  # noqa: RUF001 (a dash, on purpose)
    if isinstance(value, list):
        return " to ".join(_cell(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
