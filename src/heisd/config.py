"""Resolved configurations: frozen, strict (an unknown key is an error), hashed and echoed in every result."""

import hashlib
import json
import re
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from heisd.errors import BadInput, LeakError, UnknownName
from heisd.presets import PRESETS, require_exact_dtype
from heisd.sim.shifts import canonical
from heisd.sim.splits import Condition, Split

# How a run was carried out, not what it measures: free to change when a run is resumed.
_MANNER_FIELDS = frozenset({"workers", "ray", "videos", "append_to"})
# Fields younger than published results: at these values they are left out, so that earlier hashes stay what they were.
_YOUNGER_FIELDS: dict[str, Any] = {
    "calibration": None,
    "offset": 0,
    "realtime": None,
    "shift": None,
    "shard": None,
    "euler_steps": None,
    "executed": None,
    "delay_steps": None,
}
SIMULATION_HZ = 20  # LIBERO's control rate: one step of the simulation is one period of it


class Meanwhile(StrEnum):
    """What the robot does in a control step for which no answer has come."""

    HOLD = "hold"  # no new command: the controller goes on to the goal it has and stays there, as a real one does
    STOP = "stop"  # commanded to stay where it is (LIBERO's no-op); the gripper goes on
    REPEAT = "repeat"  # the last action once more


class RealtimeConfig(BaseModel):
    """A world that does not wait (:mod:`heisd.bench.realtime`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_profile: str  # name of a published one, or a file
    control_hz: int = SIMULATION_HZ
    meanwhile: Meanwhile = Meanwhile.HOLD

    @model_validator(mode="after")
    def _possible(self) -> Self:
        rates = [hz for hz in range(1, SIMULATION_HZ + 1) if SIMULATION_HZ % hz == 0]
        if self.control_hz not in rates:
            raise BadInput(
                f"a control rate of {self.control_hz} Hz is not a whole part of the simulation's {SIMULATION_HZ} Hz; "
                f"possible: {', '.join(map(str, rates))}"
            )
        return self


def parse_meanwhile(name: str) -> Meanwhile:
    """``"hold"`` -> Meanwhile.HOLD, or UnknownName."""
    try:
        return Meanwhile(name)
    except ValueError:
        raise UnknownName("way to go on meanwhile", name, [way.value for way in Meanwhile]) from None


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
    shift: str | None = None  # what is changed in every episode (heisd.sim.shifts), every value stated
    shard: str | None = None  # "2/5": of the starts every fifth, from the second on
    protocol: str = "openvla"
    rendering: str = "fast"
    image_size: int = 128  # pixels, square
    dtype: str = "float32"
    weights: str = "default"
    calibration: str | None = None  # file used in place of the policy's own
    euler_steps: int | None = None  # of a flow-matching policy, in place of its own
    executed: int | None = None  # actions of a chunk before the next round, in place of the policy's own
    delay_steps: int | None = None  # that a round takes, of methods that do not wait for it; None: by the profile
    timing: bool = False
    realtime: RealtimeConfig | None = None  # None: the world waits for every answer
    workers: int = Field(default=1, ge=1)
    ray: str | None = None  # address of a cluster to play on, or "local" (heisd.sim.ray_pool)
    videos: int = Field(default=0, ge=0)  # tasks whose first success is filmed; first failures always are
    append_to: str | None = None  # directory of a store that remembers what was verified (heisd.bench.appending)

    @field_validator("shift")
    @classmethod
    def _every_value_stated(cls, shift: str | None) -> str | None:
        return None if shift is None else canonical(shift)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.timing and (self.workers != 1 or self.ray is not None):
            raise BadInput(f"--timing is serial: use --workers 1 instead of {self.workers}, and no --ray")
        if self.timing and self.realtime is not None:
            raise BadInput("--realtime charges a profile's latencies and --timing measures this machine's: give one")
        if self.shard is not None and self.timing:
            raise BadInput("--timing is of one machine: leave --shard out, or --timing")
        if self.shard is not None and parse_shard(self.shard)[1] > self.episodes:
            raise BadInput(f"--shard {self.shard}: there are only {self.episodes} episodes to share out")
        if self.delay_steps is not None and not any(m in PRESETS and PRESETS[m].is_delayed for m in self.methods):
            delayed = ", ".join(name for name, preset in PRESETS.items() if preset.is_delayed)
            raise BadInput(
                f"--delay is of methods that do not wait for their rounds ({delayed}); name one, or leave it out"
            )
        if len(set(self.methods)) != len(self.methods):
            raise BadInput(f"every method may be named once; given: {', '.join(self.methods)}")
        require_exact_dtype(self.methods, self.dtype)
        if self.append_to is not None:
            self._require_appendable()
        return self

    def _require_appendable(self) -> None:
        if self.split is not Split.TRAIN:
            raise LeakError(
                f"--append-to remembers episodes of the train split alone, and this is --split {self.split.value}: a "
                "store that holds what it is judged by is refused"
            )
        if len(self.methods) != 1:
            raise BadInput(f"--append-to remembers every start once: name one method, not {', '.join(self.methods)}")
        if self.workers != 1 or self.ray is not None:
            raise BadInput(f"--append-to has one writer: use --workers 1 instead of {self.workers}, and no --ray")
        if self.timing or self.realtime is not None or self.shift is not None:
            raise BadInput("--append-to goes with none of --timing, --realtime and --shift: leave it out, or them")

    def outcome_fields(self) -> dict[str, Any]:
        """The part that decides results, as plain JSON values."""
        fields = {k: v for k, v in self.model_dump(mode="json").items() if k not in _MANNER_FIELDS}
        return {k: v for k, v in fields.items() if k not in _YOUNGER_FIELDS or v != _YOUNGER_FIELDS[k]}


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/5"`` -> (2, 5); BadInput for anything but i/n with 1 <= i <= n."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    i, n = map(int, match.groups()) if match else (1, 0)
    if i > n:
        raise BadInput(f"--shard {text!r} is not i/n with i from 1 to n, such as 2/5")
    return i, n


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
