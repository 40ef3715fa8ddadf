"""``heisd train flow`` and ``heisd train draft-head``: flow-matching policies, and drafts for them."""

import logging
from typing import Annotated, Any

import typer

from heisd.cli_base import Blind, Data, Json, Origin, Out, Recipe, Resume, Seed, Steps, command_line, emit, guarded


@guarded
def train_flow(
    data: Data,
    out: Out,
    config: Recipe = None,
    steps: Steps = None,
    blind: Blind = False,
    seed: Seed = None,
    eyes: Annotated[
        str | None, typer.Option(help="A token policy (name or directory) whose vision tower a new run starts with.")
    ] = None,
    origin: Origin = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Flow matching: a pi0-shaped policy from demonstrations; Ctrl-C saves, --resume goes on."""
    logging.getLogger("heisd").setLevel(logging.INFO)
    from heisd.errors import BadInput
    from heisd.train.config import load_flow_recipe

    if eyes is not None and origin is not None:
        raise BadInput("--eyes begins a new policy and --from goes on with one; give one of them")
    recipe = load_flow_recipe(config, steps=steps, blind=blind or None, seed=seed)
    from heisd.train.flow import run

    command = command_line()
    policy = run(data, out, recipe, command=command, resume=resume, origin=origin, eyes=eyes)
    result = {"policy": str(policy), "config": recipe.model_dump(mode="json")}
    hint = f"heisd eval --method full --weights {policy} --split validation"
    emit(result, json, lambda: typer.echo(f"wrote {policy}; try it: {hint}"))


@guarded
def train_draft_head(
    data: Data,
    weights: Annotated[str, typer.Option(help="The flow-matching policy it drafts for (name or directory).")],
    out: Out,
    config: Recipe = None,
    steps: Steps = None,
    seed: Seed = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """FLASH's draft head, distilled from the policy's own zero-noise chunks; Ctrl-C saves, --resume goes on."""
    logging.getLogger("heisd").setLevel(logging.INFO)
    from heisd.train.config import load_draft_head_recipe

    recipe = load_draft_head_recipe(config, steps=steps, seed=seed)
    from heisd.train.draft_head import run

    command = command_line()
    result = run(data, weights, out, recipe, command=command, resume=resume)
    emit(result, json, lambda: typer.echo(_summary(result)))


def _summary(result: dict[str, Any]) -> str:
    found = result["scores"]["held_out"]
    if not found:
        return f"wrote {result['drafter']}; no episode was held out to measure it"
    return (
        f"wrote {result['drafter']}: on held-out frames {found['leading']:.1f} leading actions near the policy's own "
        f"zero-noise chunk, motion error {found['motion_rms']:.3f} (normalised)"
    )
