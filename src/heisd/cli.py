"""``heisd``: the command line. Commands import what they need when they run, so that ``--help`` is quick.

Results go to stdout (with ``--json``: one JSON object and nothing else); progress and logs go to stderr.
Exit codes: 0 done, 1 done but not well (says what), 2 bad input or missing piece, 130 interrupted.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from heisd import cli_bench, cli_calibrate, cli_drafter, cli_flow, cli_index, cli_predict, cli_realtime
from heisd.cli_base import (
    Blind,
    Data,
    Delay,
    Dtype,
    EulerSteps,
    Executed,
    Json,
    Origin,
    Out,
    Recipe,
    Resume,
    Seed,
    Steps,
    Weights,
    Workers,
    command_line,
)
from heisd.cli_base import emit as _emit
from heisd.cli_base import fail as _fail
from heisd.cli_base import guarded as _guarded

app = typer.Typer(
    name="heisd",
    help="Speculative inference of vision-language-action policies, timed honestly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train = typer.Typer(help="Train the models heisd ships.", no_args_is_help=True)
app.add_typer(train, name="train")
app.add_typer(cli_index.index, name="index")
train.command("drafter")(cli_drafter.train_drafter)
train.command("flow")(cli_flow.train_flow)
train.command("draft-head")(cli_flow.train_draft_head)
app.command()(cli_calibrate.calibrate)
app.command("latency-profile")(cli_realtime.latency_profile)


def main() -> None:
    """Entry point of the ``heisd`` script."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    app()


def _list_shifts(text: str | None) -> str | None:
    """``--shift help`` lists what there is, whatever else was given."""
    if text == "help":
        from heisd import cli_run

        cli_run.show_shifts()
        raise typer.Exit
    return text


def _list_methods(text: str) -> str:
    """``--method help`` lists what there is, whatever else was given."""
    if text == "help":
        from heisd import cli_run

        cli_run.show_methods()
        raise typer.Exit
    return text


@app.command("eval")
@_guarded
def evaluate(
    suite: Annotated[str, typer.Option(help="LIBERO suite, e.g. libero_object.")],
    out: Out,
    method: Annotated[
        str,
        typer.Option(
            callback=_list_methods, is_eager=True, help="Separated by commas; the first is the baseline; or: help."
        ),
    ] = "ar",
    split: Annotated[str, typer.Option(help="train, validation, calibration or test.")] = "test",
    episodes: Annotated[int, typer.Option(min=1, help="In all, round-robin over the tasks.")] = 20,
    tasks: Annotated[str, typer.Option(help="Only these task indices, e.g. 0,3,7.")] = "",
    condition: Annotated[
        str, typer.Option(help="shipped, jitter (targets +-2 cm), jitter4, or moving2 to moving12 [cm/s].")
    ] = "shipped",
    fresh: Annotated[bool, typer.Option("--fresh", help="Freshly sampled resets of the split's seed range.")] = False,
    shift: Annotated[
        str | None,
        typer.Option(callback=_list_shifts, is_eager=True, help="What changes, e.g. black:wrist+nudged; or: help."),
    ] = None,
    shard: Annotated[str | None, typer.Option(help="Only part i/n of the episodes, e.g. 2/5; see heisd merge.")] = None,
    protocol: Annotated[str, typer.Option(help="openvla, openpi, lerobot or kerv.")] = "openvla",
    rendering: Annotated[str, typer.Option(help="fast or stock.")] = "fast",
    timing: Annotated[bool, typer.Option("--timing", help="Serial; the only mode that reports latencies.")] = False,
    realtime: cli_realtime.Realtime = False,
    latency_profile: cli_realtime.Profile = "",
    control_hz: cli_realtime.ControlHz = 20,
    meanwhile: cli_realtime.Meanwhile = "hold",
    weights: Weights = "default",
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file used in place of the policy's own.")
    ] = None,
    dtype: Dtype = "float32",
    euler_steps: EulerSteps = None,
    executed: Executed = None,
    delay: Delay = None,
    workers: Workers = 1,
    ray: Annotated[str | None, typer.Option(help="Play on a Ray cluster: its address, or local.")] = None,
    videos: Annotated[int, typer.Option(min=0, help="Film the first success of this many tasks, and failures.")] = 0,
    append_to: Annotated[
        Path | None,
        typer.Option(help="Copy of the store, made if missing, that remembers what was verified; train split."),
    ] = None,
    json: Json = False,
) -> None:
    """Closed loop in LIBERO: success rates, and speed with --timing."""
    from heisd.bench.methods import parse_methods
    from heisd.config import EvalConfig
    from heisd.sim.splits import parse_condition, parse_split

    config = EvalConfig(
        suite=suite, methods=parse_methods(method), split=parse_split(split), episodes=episodes,
        tasks=_indices(tasks), condition=parse_condition(condition), fresh=fresh, shift=shift, shard=shard,
        protocol=protocol, rendering=rendering, timing=timing, weights=weights, dtype=dtype, workers=workers,
        ray=ray, videos=videos, calibration=None if calibration is None else str(calibration),
        euler_steps=euler_steps, executed=executed, delay_steps=delay,
        append_to=None if append_to is None else str(append_to),
        realtime=cli_realtime.realtime_config(realtime, latency_profile, control_hz, meanwhile),
    )  # fmt: skip
    from heisd import cli_run

    result = cli_run.evaluate(config, out)
    _emit(result, json, lambda: cli_run.show_result(result, out))
    if result["status"] != "complete":
        _fail(f"{result['invalid']['n']} episodes could not be played; repeat the command to try them again", 1)


@app.command()
@_guarded
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of all shards of one evaluation.")],
    out: Out,
    json: Json = False,
) -> None:
    """The shards of an evaluation -> the run that one machine would have written."""
    from heisd import cli_run
    from heisd.bench.merge import merge as merge_shards

    result = merge_shards(runs, out)
    _emit(result, json, lambda: cli_run.show_result(result, out))


app.command("bench")(cli_bench.bench)
app.command()(cli_predict.predict)


@app.command()
@_guarded
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories written by heisd eval.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML page to write.")] = Path("report.html"),
    json: Json = False,
) -> None:
    """One self-contained HTML page: tables, plots, videos."""
    from heisd.bench.report import write_report

    path = write_report(runs, out)
    size_bytes = path.stat().st_size
    result = {"report": str(path), "bytes": size_bytes}
    _emit(result, json, lambda: typer.echo(f"wrote {path} ({size_bytes / 1e6:.1f} MB)"))


@app.command()
@_guarded
def collect(
    suite: Annotated[str, typer.Option(help="LIBERO suite.")] = "libero_object",
    episodes: Annotated[int, typer.Option(min=1, help="Demonstrations wanted in all.")] = 100,
    out: Annotated[Path | None, typer.Option("--out", help="Data set directory; resumed when it exists.")] = None,
    tasks: Annotated[str, typer.Option(help="Only these task indices, e.g. 0,3,7.")] = "",
    seed: Annotated[int, typer.Option(help="Root of all random choices.")] = 0,
    workers: Workers = 2,
    driver: Annotated[
        str | None, typer.Option(help="A policy (name or directory) that drives first; the expert takes over.")
    ] = None,
    driver_noise: Annotated[
        float, typer.Option(help="Bins by which a driver strays from its actions, for 8 steps at a time.")
    ] = 0.0,
    unaided: Annotated[
        bool, typer.Option("--unaided", help="No expert takes over: record the driver's own episodes, solved or not.")
    ] = False,
    condition: Annotated[
        str, typer.Option(help="shipped, or moving2 to moving12 (targets carried, cm/s).")
    ] = "shipped",
    check: Annotated[Path | None, typer.Option(help="Read this data set back and verify it; collects nothing.")] = None,
    json: Json = False,
) -> None:
    """Scripted experts -> a LeRobot v3 data set; with --check, read one back."""
    from heisd import cli_run
    from heisd.sim.splits import parse_condition

    result = (
        cli_run.check(check)
        if check
        else cli_run.collect(
            suite,
            episodes,
            out,
            workers,
            seed,
            _indices(tasks),
            driver,
            driver_noise,
            parse_condition(condition),
            unaided,
        )
    )
    _emit(result, json, lambda: cli_run.show_mapping(result))
    if not result.get("is_ok", True):
        _fail(f"{check}: {len(result['problems'])} problems; first: {result['problems'][0]}", 1)


@train.command("policy")
@_guarded
def train_policy(
    data: Data,
    out: Out,
    config: Recipe = None,
    steps: Steps = None,
    blind: Blind = False,
    seed: Seed = None,
    origin: Origin = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Behaviour cloning of the bundled policy; Ctrl-C saves, --resume goes on."""
    logging.getLogger("heisd").setLevel(logging.INFO)
    from heisd.train.config import load_config

    recipe = load_config(config, steps=steps, blind=blind or None, seed=seed)
    from heisd.train.policy import run

    policy = run(data, out, recipe, command=command_line(), resume=resume, origin=origin)
    result = {"policy": str(policy), "config": recipe.model_dump(mode="json")}
    _emit(result, json, lambda: typer.echo(f"wrote {policy}; try it: heisd eval --weights {policy} --split validation"))


@app.command()
@_guarded
def doctor(json: Json = False) -> None:
    """What works on this machine, and the command that installs what does not."""
    from heisd.doctor import diagnose, show

    result = diagnose()
    _emit(result, json, lambda: show(result))
    sys.exit(0 if result["demo_can_run"] else 1)


@app.command()
@_guarded
def demo(
    out: Annotated[Path, typer.Option("--out", help="Page and runs go here; every demo plays anew.")] = Path(
        "runs/demo"
    ),
    weights: Weights = "default",
    episodes: Annotated[
        int | None, typer.Option(min=1, max=10, help="Per suite and method, each of another task; 1 to 5 if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Watch the bundled policies solve LIBERO tasks, plain and accelerated: tables, films, HTML report."""
    from heisd.demo import run_demo, show

    result = run_demo(out, weights=weights, episodes=episodes)
    _emit(result, json, lambda: show(result))


def _indices(text: str) -> tuple[int, ...] | None:
    from heisd.errors import BadInput

    if not text.strip():
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--tasks {text!r} is not a list of numbers such as 0,3,7") from None


if __name__ == "__main__":
    main()
