"""``heisd calibrate``: thresholds from calibration episodes, with the guarantee they carry."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heisd.cli_base import Json, Weights, Workers, command_line, emit, fail, guarded

if TYPE_CHECKING:
    from heisd.bench.evaluate import Setting
    from heisd.bench.results import EpisodeRecord
    from heisd.bench.suite_fit import Target
    from heisd.config import EvalConfig

ALL = "all"


@guarded
def calibrate(
    suite: Annotated[str, typer.Option(help="LIBERO suite, e.g. libero_object.")],
    method: Annotated[
        str, typer.Option(help="Methods whose skips are calibrated; of a flow-matching policy: flow_hybrid.")
    ] = "hybrid,hold_calibrated",
    episodes: Annotated[int, typer.Option(min=1, help="Fresh starts that every setting is tried on.")] = 200,
    observe: Annotated[int, typer.Option(min=2, help="Episodes of plain decoding that scores are fitted to.")] = 60,
    stage: Annotated[str, typer.Option(help="observe, fit, ladder or all.")] = ALL,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory of the runs, resumed; runs/calibrate-SUITE if left out.")
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(help="Only write this table (heisd bench --costs --json) into the suite's calibration."),
    ] = None,
    weights: Weights = "default",
    workers: Workers = 2,
    json: Json = False,
) -> None:
    """Observe plain decoding, fit scores and ranges, try settings with skipping on; write the file presets load."""
    from heisd.bench.calibrate import STAGES, run
    from heisd.bench.calibration_plan import CalibrationPlan
    from heisd.bench.weights import weights_for
    from heisd.errors import BadInput, UnknownName

    if stage not in (*STAGES, ALL):
        raise UnknownName("stage", stage, (*STAGES, ALL))
    plan = CalibrationPlan(
        suite=suite, out=out or Path("runs") / f"calibrate-{suite}", presets=_names(method), n_observed=observe,
        n_trials=episodes, workers=workers, weights=weights, command=command_line(),
    )  # fmt: skip
    policy = weights_for(weights, suite, plan.presets)
    from heisd.presets.assets import place_of

    stages = STAGES if stage == ALL else (stage,)
    place = place_of(policy, suite, "calibration")
    if costs is not None:
        if stage != ALL or out is not None:
            raise BadInput("--costs writes a table and runs nothing; leave --stage and --out out")
        kept = _keep_costs(costs, place, policy, suite)
        emit(kept, json, lambda: show_kept(kept))
        return
    result = run(plan, stages, policy=policy, place=place, target=_target(policy), play=_play)
    emit(result, json, lambda: show(result))


def _keep_costs(file: Path, place: Path, policy: Path, suite: str) -> dict[str, Any]:
    from heisd.bench.costs_file import keep_costs
    from heisd.policies.identity import describe_weights
    from heisd.route.costs_file import read_costs

    calibration = keep_costs(place, read_costs(file), describe_weights(policy)["sha256"])
    return {"suite": suite, "file": str(place), "costs": calibration.model_dump(mode="json")["costs"]}


def show_kept(result: dict[str, Any]) -> None:
    """Where the table was written."""
    typer.echo(
        f"{result['suite']}: checks that lose time by this table pause from now on; written into {result['file']}"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _target(policy: Path) -> "Target":
    from heisd.bench.suite_fit import Target
    from heisd.policies.identity import describe_weights
    from heisd.policies.loading import load_any

    codec = load_any(policy).codec
    return Target(describe_weights(policy)["sha256"], codec.q01, codec.q99)


def _play(config: "EvalConfig", out: Path, adapt: "Callable[[Setting], Setting]") -> "Sequence[EpisodeRecord]":
    """Run or resume an evaluation on LIBERO with a progress bar."""
    from heisd.bench.evaluate import evaluate
    from heisd.bench.libero_world import libero_setting
    from heisd.bench.results import RunDirectory
    from heisd.bench.summary import outcomes
    from heisd.cli_run import progress_bar

    setting = adapt(libero_setting(config))
    with progress_bar(f"{config.suite} {out.parent.name} {out.name}", config.episodes) as bar:
        result = evaluate(config, out, setting, progress=bar)
    if result["status"] != "complete":
        fail(f"{result['invalid']['n']} episodes in {out} could not be played; repeat the command to try again", 1)
    return outcomes(RunDirectory(out).records())


def show(result: dict[str, Any]) -> None:
    """What was fitted, one table of rungs per method, and what the bound means."""
    from heisd.cli_run import stdout

    if result["file"] is None:
        typer.echo(f"{result['suite']}: {result['observed_steps']} control steps observed in {result['out']}")
        return
    if result["acceptance"] is None:
        typer.echo(f"{result['suite']}: HeiSD's least similarity {result['adaptive_similarity']:.4f}")
    else:
        stdout.print(_rates_table(result["evidence"]["verification"]))
        typer.echo(_acceptance_line(result["acceptance"]))
    for note in result["evidence"].get("notes", []):
        typer.echo(f"note: {note}")
    for name, setting in result["presets"].items():
        if rungs := setting["evidence"].get("rungs"):
            stdout.print(_rungs_table(name, rungs))
        typer.echo(_verdict(name, setting))
    for name in result["left_out"]:
        typer.echo(f"{name}: left out, its drafter or store was not there when plain decoding was observed")
    good = result["evidence"].get("good")
    if good and result["is_complete"]:
        typer.echo(
            f"bad: a motion token more than {good['bins']} bins from the target's own (x, y, z {_axes(good['mm'])} mm, "
            f"rotation {_axes(good['deg'])} degrees), more than the rule keeps of a block, or another gripper; "
            "on starts like those of the trials"
        )
    typer.echo(f"{'result' if result['is_complete'] else 'without skips yet'}: {result['file']}")


def _rates_table(presets: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="verification beside the chunk denoised from zero noise", title_justify="left")
    table.add_column("method")
    for column in ("rounds", "accepted", "false accepts", "false rejects", "off by, 95 %"):
        table.add_column(column, justify="right")
    for name, found in presets.items():
        off = found["deviation"]
        table.add_row(
            name,
            str(found["n_rounds"]),
            *(_percent(found[f"{part}_share"]) for part in ("accepted", "false_accept", "false_reject")),
            "-"
            if off is None
            else f"{off['bins']['p95']:.0f} bins, {off['mm']['p95']:.1f} mm, {off['deg']['p95']:.1f} deg",
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _acceptance_line(acceptance: dict[str, Any]) -> str:
    if not acceptance["residual"]:
        return "drafts are never executed: no bound on the residual accepts good actions alone (95 %)"
    allowed = acceptance["evidence"]["tolerance"]
    return (
        f"drafts are executed up to a residual of {acceptance['residual']:g}: an endpoint within {allowed['bins']:.0f} "
        f"bins (x, y, z {_axes(allowed['mm'])} mm, rotation {_axes(allowed['deg'])} degrees); what passes: above"
    )


def _axes(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _rungs_table(name: str, rungs: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=f"{name}: trials, strict to loose", title_justify="left")
    for column in (
        "in a row",
        "score from",
        "success",
        "plain",
        "paired",
        "steps skipped",
        "bad audits",
        "bad/episode",
    ):
        table.add_column(column, justify="right")
    for rung in rungs:
        table.add_row(
            f"{rung['n_skips']}, calm" if rung.get("calm") else str(rung["n_skips"]),
            f"{rung['threshold']:g}",
            f"{rung['pc_success']:.1f} %",
            f"{rung['pc_success_baseline']:.1f} %",
            f"{rung['difference_points']:+.1f}",
            f"{100 * rung['skip_share']:.1f} %",
            f"{rung['n_bad_audits']}/{rung['n_audits']}",
            f"< {rung['bad_skips_per_episode_high95']:.2f}",
            style=None if rung["passes"] else "dim",
        )
    return table


def _verdict(name: str, setting: dict[str, Any]) -> str:
    evidence = setting["evidence"]
    if "rungs" not in evidence:
        auc = "undefined" if evidence["auc"] is None else f"{evidence['auc']:.3f}"
        return f"{name}: score fitted to {evidence['n_fitted']} steps, AUC on held-out episodes {auc}; not tried yet"
    if not evidence["rungs"]:
        share = 100 * evidence["reached_share"]
        return f"{name}: never skips, its score was high enough at {share:.1f} % of held-out steps; nothing was played"
    if evidence["chosen"] is None:
        return f"{name}: never skips, no setting kept the success of plain decoding"
    high = evidence["chosen"]["bad_skips_per_episode_high95"]
    return (
        f"{name}: at most {setting['n_skips']} skips in a row from a score of {setting['threshold']:g} on"
        f"{', calm chunks executed further' if setting.get('calm') else ''}; "
        f"fewer than {high:.2f} bad skips per episode (95 %)"
    )
