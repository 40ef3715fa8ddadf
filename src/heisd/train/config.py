"""The recipe of one training run: one frozen object, one declaration per knob, echoed into the manifest."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from heisd.errors import BadInput


class LoopConfig(BaseModel):
    """What every recipe says about its loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 3_000
    batch_size: int = 48
    learning_rate: float = 8e-4
    warmup_steps: int = 150
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    log_every: int = 50
    checkpoint_every: int = 250
    validate_every: int = 1_500  # steps between validations (0: none); one at the end in any case
    threads: int = 2
    seed: int = 0


class TrainConfig(LoopConfig):
    """Behaviour cloning of the bundled policy. The defaults are the shipped recipe."""

    soft_bin_sigma: float = 3.0
    head_smoothing_bins: float = 5.0  # std of the average over neighbouring bins' rows of the head; 0: none
    token_noise_share: float = 0.15
    proprio_noise: float = 0.02
    max_shift_px: int = 3
    recolour_strength: float = 1.0
    aux_weight: float = 0.3
    holdout_every: int = 25  # every 25th episode only measures, never trains
    validate_episodes: int = 20  # of the validation split, for each suite in the data
    # The shape of the policy (chosen by validation success and by the decode share, docs/policy.md).
    hidden_size: int = 256
    n_layers: int = 6
    n_heads: int = 4
    intermediate_size: int = 672
    blind: bool = False  # no cameras: the baseline every success table stands beside


RecipeT = TypeVar("RecipeT", bound=BaseModel)


def load_config(path: Path | None, **overrides: object) -> TrainConfig:
    """Read a JSON recipe (or the defaults) and apply overrides that are not None; unknown keys are refused."""
    return parse_recipe(TrainConfig, read_recipe(path), **overrides)


def read_recipe(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file, nothing without one; BadInput when it cannot be read."""
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:  # no JSON, or no text
        raise BadInput(f"cannot read the training recipe {path}: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"cannot read the training recipe {path}: an object was expected, not {type(values).__name__}")
    return values


def parse_recipe(kind: type[RecipeT], values: dict[str, Any], **overrides: object) -> RecipeT:
    """A checked recipe with the overrides that are not None; BadInput names unknown keys and the known ones."""
    values = values | {key: value for key, value in overrides.items() if value is not None}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        known = ", ".join(sorted(kind.model_fields))
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadInput(f"bad training recipe: {problems}. Known keys: {known}") from error
