"""The recipes of drafters. One JSON file may hold both, as ``{"parallel": {…}, "eagle": {…}}``."""

from pathlib import Path

from heisd.errors import BadInput, UnknownName
from heisd.train.config import LoopConfig, parse_recipe, read_recipe


class ParallelRecipe(LoopConfig):
    """Distillation of the parallel drafter. The defaults are the shipped recipe."""

    steps: int = 16_000
    batch_size: int = 96
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    validate_every: int = 0
    soft_bin_sigma: float = 0.7  # labels are spread over neighbouring bins; 0: the greedy token alone
    gripper_weight: float = 0.5  # of the gripper's loss against another token's
    past_dropout: float = 0.02  # share of samples without a past, besides the first steps of episodes
    # The shape of the drafter (docs/drafters.md).
    width: int = 192
    n_heads: int = 4
    n_blocks: int = 2
    inner: int = 384


class EagleRecipe(LoopConfig):
    """Spec-VLA's drafter: EAGLE's losses and noise. Learning rate, batch and steps are scaled down with the model."""

    steps: int = 3_000
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    weight_decay: float = 0.0
    grad_clip: float = 0.5
    validate_every: int = 0
    state_weight: float = 1.0  # of the smooth L1 distance between predicted and true states
    token_weight: float = 0.1  # of the cross-entropy against the target's own distribution
    noise: float = 0.2  # uniform, on the states that are read, times 512 / length


RECIPES: dict[str, type[ParallelRecipe] | type[EagleRecipe]] = {"parallel": ParallelRecipe, "eagle": EagleRecipe}


def load_recipe(kind: str, path: Path | None, **overrides: object) -> ParallelRecipe | EagleRecipe:
    """A kind's section of a JSON file (or its defaults) with the overrides that are not None.

    Raises UnknownName for the kind, BadInput for unknown sections and keys, which are named beside the known ones.
    """
    if kind not in RECIPES:
        raise UnknownName("kind of drafter", kind, RECIPES)
    sections = read_recipe(path)
    if unknown := sorted(set(sections) - set(RECIPES)):
        raise BadInput(f"{path} has unknown sections {', '.join(unknown)}; known: {', '.join(sorted(RECIPES))}")
    values = sections.get(kind, {})
    if not isinstance(values, dict):
        raise BadInput(f"section {kind!r} of {path} is an object of keys, not {values!r}")
    return parse_recipe(RECIPES[kind], values, **overrides)
