"""``heisd train drafter``: record the target's own outputs, distil a drafter from them."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from heisd.cli_base import Json, Out, Recipe, Resume, Seed, Steps, Weights, Workers, command_line, emit, guarded


@guarded
def train_drafter(
    rollouts: Annotated[Path, typer.Option(help="Directory of recorded episodes; what is missing is recorded.")],
    out: Out,
    kind: Annotated[str, typer.Option(help="parallel or eagle.")] = "parallel",
    weights: Weights = "default",
    episodes: Annotated[int, typer.Option(min=2, help="Episodes to learn from, over all suites and tasks.")] = 300,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Demonstrations whose frames the policy labels too (repeat the option for several)."),
    ] = None,
    suites: Annotated[str, typer.Option(help="LIBERO suites, separated by commas.")] = "libero_object,libero_spatial",
    config: Recipe = None,
    steps: Steps = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Override the recipe's number of threads.")] = None,
    seed: Seed = None,
    workers: Workers = 2,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Distil a drafter from the policy's own outputs on train starts; Ctrl-C saves, --resume goes on."""
    logging.getLogger("heisd").setLevel(logging.INFO)
    from heisd.train.drafter_config import load_recipe

    recipe = load_recipe(kind, config, steps=steps, threads=threads, seed=seed)
    from heisd.train.drafter import run

    names = tuple(name.strip() for name in suites.split(",") if name.strip())
    command = command_line()
    result = run(
        recipe, weights, rollouts, out, episodes=episodes, suites=names, data=data or [], workers=workers,
        command=command, resume=resume,
    )  # fmt: skip
    emit(result, json, lambda: typer.echo(_summary(result)))


def _summary(result: dict[str, Any]) -> str:
    found = result["scores"]["replay"]
    return (
        f"wrote {result['drafter']}: on {found['n_steps']} held-out control steps "
        f"{found['accepted_per_verification']:.2f} draft tokens accepted per verification "
        f"({found['accepted_first']:.2f} by the first), {found['forwards_per_action']:.2f} forwards and "
        f"{found['rows_per_action']:.1f} rows an action"
    )
