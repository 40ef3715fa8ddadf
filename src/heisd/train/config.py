"""The recipe of one training run: one frozen object, one declaration per knob, echoed into the manifest."""

import json
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from heisd.errors import BadInput
from heisd.policies.config import MAX_EXECUTED


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


class CloningConfig(LoopConfig):
    """What behaviour cloning from demonstrations says about frames, whatever kind of policy learns from them."""

    proprio_noise: float = 0.02
    max_shift_px: int = 3
    recolour_strength: float = 1.0
    aux_weight: float = 0.3
    holdout_every: int = 25  # every 25th episode only measures, never trains
    validate_episodes: int = 20  # of the validation split, for each suite in the data
    # The shape of what sees and reads (chosen by validation success and by the decode share, docs/policy.md).
    hidden_size: int = 256
    n_layers: int = 6
    n_heads: int = 4
    intermediate_size: int = 672
    blind: bool = False  # no cameras: the baseline every success table stands beside


class TrainConfig(CloningConfig):
    """Behaviour cloning of the bundled token policy. The defaults are the shipped recipe."""

    soft_bin_sigma: float = 3.0
    head_smoothing_bins: float = 5.0  # std of the average over neighbouring bins' rows of the head; 0: none
    token_noise_share: float = 0.15


class FlowRecipe(CloningConfig):
    """Flow matching on chunks of actions. The defaults are the shipped recipe of the first stage."""

    steps: int = 7_500
    batch_size: int = 32
    learning_rate: float = 6e-4
    warmup_steps: int = 200
    validate_every: int = 2_500
    checkpoint_every: int = 500
    draws: int = Field(default=2, ge=1)  # noises and levels per frame: they share its prefix, most of a step's work
    horizon: int = Field(default=16, ge=1)
    expert_hidden_size: int = Field(default=192, ge=2, multiple_of=2)
    expert_intermediate_size: int = Field(default=512, ge=1)
    # How the policy is sampled. Not part of the run's identity: --resume with other values exports it anew.
    euler_steps: int = Field(default=5, ge=1, le=100)
    executed: int = Field(default=8, ge=1, le=MAX_EXECUTED)
    noise_scale: float = Field(default=1.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _can_be_executed(self) -> Self:
        if self.executed > self.horizon:
            raise ValueError(f"a chunk of {self.horizon} actions cannot have {self.executed} executed")
        return self


class DraftHeadRecipe(LoopConfig):
    """Distillation of FLASH's draft head. Learning rate, batch and steps are scaled down with the model."""

    steps: int = 4_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    validate_every: int = 0
    holdout_every: int = 10  # every 10th episode only measures
    teacher_steps: int = Field(default=10, ge=1, le=100)  # Euler steps from zero noise
    max_frames: int = Field(default=20_000, ge=1)  # of the data, evenly spread: their prefixes are kept in memory
    max_prefix: int = Field(default=16, ge=1)  # the first m actions weigh most, m drawn from 1 to this
    decay: float = Field(default=0.9, gt=0.0, le=1.0)  # weight of an action against the one before it, within those m
    tail_weight: float = Field(default=0.1, ge=0.0, le=1.0)  # of the actions behind them
    older_share: float = Field(default=0.5, ge=0.0, le=1.0)  # of the samples whose pictures are of an earlier frame
    max_age_steps: int = Field(default=32, ge=1)  # … up to so many control steps earlier; all else is of now


RecipeT = TypeVar("RecipeT", bound=BaseModel)


def load_config(path: Path | None, **overrides: object) -> TrainConfig:
    """Read a JSON recipe (or the defaults) and apply overrides that are not None; unknown keys are refused."""
    return parse_recipe(TrainConfig, read_recipe(path), **overrides)


def load_flow_recipe(path: Path | None, **overrides: object) -> FlowRecipe:
    """The same for a flow-matching policy."""
    return parse_recipe(FlowRecipe, read_recipe(path), **overrides)


def load_draft_head_recipe(path: Path | None, **overrides: object) -> DraftHeadRecipe:
    """The same for a draft head."""
    return parse_recipe(DraftHeadRecipe, read_recipe(path), **overrides)


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
