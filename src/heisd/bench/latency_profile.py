"""Latency profiles: what the parts of a control step take for a named model on named hardware, each with its source.

A profile is a JSON file. Those of this package lie in ``latency_profiles/``; one of this machine is made from what
``heisd bench`` says (:mod:`heisd.bench.measured_profile`). It charges a control step for what the step did, as its
record tells, and for nothing else: no clock is read, so a charged run repeats exactly on any machine.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from heisd.bench.cost_model import Usage, predict, proposers_of
from heisd.bench.overhead import OVERHEAD_STAGES
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies.manifest import FLOW_FORMAT, FORMAT, KINDS
from heisd.presets import PRESETS
from heisd.route.costs import Costs
from heisd.types import StepRecord

PLACE = "latency_profiles"  # of this package's own, beside this module
LIST = "list"  # asked for in place of a name
# Token policies: the fields of heisd.route.costs.Costs, without their unit. The others are needed by some methods.
TOKEN_STAGES, OTHER_TOKEN_STAGES = ("vision", "prefill", "decode", "row", "overhead"), ("tree", "check")
ASKED_STAGES = {"retrieval": ("lookup",), "parallel": ("drafter", "redraft"), "eagle": ("eagle",)}
# Chunk policies: the clock's own names, each counted once in a step in which it ran; and what is asked for drafts.
CHUNK_STAGES, OTHER_CHUNK_STAGES = ("encode", "prefill", "denoise"), ("verify", "inpaint")
INPAINT_DENOISES = 2.0  # what a pass back to the input costs a step more is about its forward; no weight has a gradient
ASKED_CHUNK_STAGES = {"retrieval": ("lookup",), "draft_head": ("draft",)}
FREE_STAGES = frozenset({*OVERHEAD_STAGES, "propose"})


class Family(StrEnum):
    """What a policy does in a control step, and so which stages a profile of it has."""

    TOKENS = "tokens"  # decodes the tokens of one action
    CHUNKS = "chunks"  # denoises a chunk of actions


_FORMATS = {Family.TOKENS: FORMAT, Family.CHUNKS: FLOW_FORMAT}  # of the bundles such policies lie in


class Kind(StrEnum):
    """How a stage's latency is known."""

    PUBLISHED = "published"  # stands in the source
    DERIVED = "derived"  # worked out from published numbers, as its source says
    ASSUMED = "assumed"  # nobody has published it
    MEASURED = "measured"  # here, by heisd bench


class Stage(BaseModel):
    """What one part of a control step takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms: float = Field(ge=0, allow_inf_nan=False)
    kind: Kind
    source: str = Field(min_length=1)


class Meter(Protocol):
    """Charges control steps."""

    def charge_ms(self, record: StepRecord) -> float:
        """What the step would have taken, from the observation handed over to the action handed back."""
        ...


class LatencyProfile(BaseModel):
    """Stage latencies of one model on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["heisd-latency-profile"]
    version: Literal[1]
    name: str = Field(min_length=1)
    family: Family
    model: str = Field(min_length=1)
    hardware: str = Field(min_length=1)
    note: str = ""
    stages: dict[str, Stage]

    @model_validator(mode="after")
    def _has_its_stages(self) -> Self:
        is_tokens = self.family is Family.TOKENS
        needed, other = (TOKEN_STAGES, OTHER_TOKEN_STAGES) if is_tokens else (CHUNK_STAGES, OTHER_CHUNK_STAGES)
        asked = (ASKED_STAGES if is_tokens else ASKED_CHUNK_STAGES).values()
        known = {*needed, *other, *(stage for stages in asked for stage in stages)}
        if unknown := sorted(self.stages.keys() - known):
            raise ValueError(f"unknown stage(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        if missing := [stage for stage in needed if stage not in self.stages]:
            raise ValueError(f"no latency for {', '.join(missing)}")
        forwards = [self.stages[name].ms for name in ("prefill", "decode") if name in needed]
        if not (all(forwards) or self.is_instant):
            raise ValueError("prefill and decode take time, unless nothing does")
        return self

    @property
    def is_instant(self) -> bool:
        """Whether everything takes no time at all: the ordinary loop."""
        return all(stage.ms == 0 for stage in self.stages.values())

    @property
    def plain_ms(self) -> float:
        """An action without speculation: seven tokens decoded one by one, or a chunk denoised in full."""
        if self.family is Family.CHUNKS:
            return sum(self.stages[stage].ms for stage in ("encode", "prefill", "denoise"))
        return 0.0 if self.is_instant else self.costs().plain_ms(n_tokens=7)

    def longest_round_ms(self, method: str) -> float:
        """Of a chunk policy's round that keeps frozen actions: drafts that are refused, then all of a full round.

        Raises BadInput as :meth:`require_priced`.
        """
        self.require_priced([method])
        if self.is_instant:
            return 0.0
        ms = {name: stage.ms for name, stage in self.stages.items()}
        checked = _priced_stages(Family.CHUNKS, method)
        inpaint_ms = ms.get("inpaint", INPAINT_DENOISES * ms["denoise"])
        return ms["encode"] + ms["prefill"] + inpaint_ms + sum(ms.get(stage, 0.0) for stage in checked)

    def costs(self) -> Costs:
        """The stages of a token policy as the cost model's table; BadInput for an instant one."""
        return Costs(**{f"{name}_ms": stage.ms for name, stage in self.stages.items()})

    def meter(self) -> Meter:
        """What charges control steps by this profile."""
        if self.is_instant:
            return InstantMeter()
        return TokenMeter(self) if self.family is Family.TOKENS else ChunkMeter(self)

    def require_priced(self, methods: Collection[str]) -> None:
        """BadInput for a method of another family, or one with a stage whose latency is not known."""
        if self.is_instant:
            return
        mine = _FORMATS[self.family]
        for method in methods:
            if method in PRESETS and (other := PRESETS[method].policy) != mine:
                raise BadInput(
                    f"latency profile {self.name!r} is of {KINDS[mine]}, and method {method!r} runs {KINDS[other]}; "
                    "choose another (--latency-profile list)"
                )
        for method in methods:
            if missing := [stage for stage in _priced_stages(self.family, method) if stage not in self.stages]:
                raise BadInput(
                    f"latency profile {self.name!r} has no latency for {', '.join(missing)}, which method {method!r} "
                    "takes time for; add it to the file, or choose another profile (--latency-profile list)"
                )


def _priced_stages(family: Family, method: str) -> list[str]:
    """What a method takes time for beside plain inference and in-painting."""
    if family is Family.TOKENS:
        return [stage for proposer in proposers_of(method) for stage in ASKED_STAGES[proposer]]
    checks = method in PRESETS and not PRESETS[method].is_plain
    asked = [stage for proposer in proposers_of(method) for stage in ASKED_CHUNK_STAGES[proposer]]
    return [*asked, "verify"] if checks else asked


class InstantMeter:
    """Charges nothing."""

    def charge_ms(self, record: StepRecord) -> float:  # noqa: ARG002 (the protocol's)
        """0."""
        return 0.0


class TokenMeter:
    """Charges by the cost model, for the forwards, rows and proposers of that very step."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._costs = profile.costs()

    def charge_ms(self, record: StepRecord) -> float:
        """See :func:`heisd.bench.cost_model.predict`."""
        return predict(self._costs.asking(record.asked), Usage.of_step(record)).total_ms


class ChunkMeter:
    """Charges every stage that ran in that step, and whom it asked; an action of a chunk in hand is free."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._name, self._ms = profile.name, {name: stage.ms for name, stage in profile.stages.items()}
        self._ms.setdefault("inpaint", INPAINT_DENOISES * self._ms["denoise"])

    def charge_ms(self, record: StepRecord) -> float:
        """Raises BadInput for a stage or a proposer that has no latency."""
        asked = [stage for name in record.asked for stage in ASKED_CHUNK_STAGES.get(name, ())]
        unseen = () if record.looked else ("encode",)  # that stage also clocks what a skip does in its place
        ran = [*(record.stage_ms.keys() - FREE_STAGES - set(unseen)), *asked]
        if unknown := sorted(set(ran) - self._ms.keys()):
            raise BadInput(f"latency profile {self._name!r} has no latency for the stage(s) {', '.join(unknown)}")
        return sum(self._ms[stage] for stage in ran)


def published_profiles() -> list[LatencyProfile]:
    """Those of this package, by name."""
    places = sorted(files("heisd.bench").joinpath(PLACE).iterdir(), key=lambda place: place.name)
    return [_parse(place.read_bytes(), place.name) for place in places if place.name.endswith(".json")]


@lru_cache(maxsize=8)
def load_profile(name_or_file: str) -> LatencyProfile:
    """A profile of this package by its name, or a file (anything with a suffix or a slash).

    Raises UnknownName, or BadArtifact for a file that is missing or no latency profile.
    """
    path = Path(name_or_file)
    if path.suffix or len(path.parts) > 1:
        try:
            return _parse(path.read_bytes(), str(path))
        except OSError as error:
            raise BadArtifact(f"{path} cannot be read ({error.strerror}); it should be a latency profile") from None
    known = {profile.name: profile for profile in published_profiles()}
    if name_or_file not in known:
        raise UnknownName("latency profile", name_or_file, [*known, "or a file: FILE.json"])
    return known[name_or_file]


def profile_hash(profile: LatencyProfile) -> str:
    """SHA-256 of the content, however the file is laid out."""
    text = json.dumps(profile.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe(profiles: Sequence[LatencyProfile]) -> list[str]:
    """Lines for ``--latency-profile list``."""
    lines = []
    for profile in profiles:
        stages = (f"{name} {stage.ms:g} ({stage.kind})" for name, stage in profile.stages.items())
        lines += [
            f"{profile.name}: {profile.model}; {profile.hardware}; plain {profile.plain_ms:.1f} ms",
            *([f"  {profile.note}"] if profile.note else []),
            f"  ms: {', '.join(stages)}",
        ]
    return [*lines, f"where each number is from: {files('heisd.bench').joinpath(PLACE)}/NAME.json"]


def _parse(content: bytes, where: str) -> LatencyProfile:
    try:
        value = json.loads(content)
        if isinstance(value, dict) and "costs" in value and "format" not in value:
            raise BadArtifact(
                f"{where} is a result of heisd bench --costs; make a profile of it: heisd latency-profile {where} "
                "--out PROFILE.json"
            )
        return LatencyProfile.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadArtifact(f"{where} is no latency profile: {place}: {first['msg']}") from None
    except ValueError as error:  # JSON, or text that is not UTF-8
        raise BadArtifact(f"{where} is no latency profile: not readable JSON ({error})") from None
