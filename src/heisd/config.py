"""Resolved configurations: frozen, strict (an unknown key is an error), hashed and echoed in every result."""

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from heisd.errors import BadInput
from heisd.presets import require_exact_dtype
from heisd.sim.splits import Condition, Split

# How a run was carried out, not what it measures: free to change when a run is resumed.
_MANNER_FIELDS = frozenset({"workers", "videos"})
# Fields younger than published results: at these values they are left out, so that earlier hashes stay what they were.
_YOUNGER_FIELDS: dict[str, Any] = {"calibration": None, "offset": 0, "euler_steps": None, "executed": None}


class EvalConfig(BaseModel):
    """Everything that decides the outcome of a closed-loop evaluation, plus how to carry it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    methods: tuple[str, ...] = Field(min_length=1)  # the first one is the baseline
    split: Split = Split.TEST
    episodes: int = Field(default=20, ge=1)  # per method, round-robin over tasks
    tasks: tuple[int, ...] | None = None  # None: every task of the suite
    condition: Condition = Condition.SHIPPED
    fresh: bool = False
    offset: int = Field(default=0, ge=0)  # starts of the split that are left out before the first
    protocol: str = "openvla"
    rendering: str = "fast"
    image_size: int = 128  # pixels, square
    dtype: str = "float32"
    weights: str = "default"
    calibration: str | None = None  # file used in place of the policy's own
    euler_steps: int | None = None  # of a flow-matching policy, in place of its own
    executed: int | None = None  # actions of a chunk before the next round, in place of the policy's own
    timing: bool = False
    workers: int = Field(default=1, ge=1)
    videos: int = Field(default=0, ge=0)  # tasks whose first success is filmed; first failures always are

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.timing and self.workers != 1:
            raise BadInput(f"--timing is serial: use --workers 1 instead of {self.workers}")
        if len(set(self.methods)) != len(self.methods):
            raise BadInput(f"every method may be named once; given: {', '.join(self.methods)}")
        require_exact_dtype(self.methods, self.dtype)
        return self

    def outcome_fields(self) -> dict[str, Any]:
        """The part that decides results, as plain JSON values."""
        fields = {k: v for k, v in self.model_dump(mode="json").items() if k not in _MANNER_FIELDS}
        return {k: v for k, v in fields.items() if k not in _YOUNGER_FIELDS or v != _YOUNGER_FIELDS[k]}


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``"episodes: 100 -> 200"`` for every value that differs; nested keys are written ``policy.sha256``."""
    before, after = _flat(old), _flat(new)
    keys = sorted(before.keys() | after.keys())
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat
