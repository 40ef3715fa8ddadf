"""Any policy that denoises chunks of actions, faster: the other half of :func:`heisd.accelerate`.

    robot = heisd.accelerate(policy, {"rule": {"name": "endpoints", "residual": 1.5}, "proposers": {"tail": {}}})

Speculation on chunks loses something, so it is never the default: without a rule every round is a full one, and what is
gained is the receding horizon, real-time chunking (``delay_steps``) and the record of every step.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt

from heisd.acceleration import Configuration, check_calls_and_codec, made_or_given
from heisd.acceleration_rules import Options
from heisd.accept_chunk import EndpointTest
from heisd.engine import ChunkEngine
from heisd.errors import BrokenContract
from heisd.kinematics.defaults import LIBERO
from heisd.policies.config import MAX_EXECUTED, SamplingConfig
from heisd.policies.protocol import ChunkContextT, ChunkPolicy, PrefixT
from heisd.propose import registry
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import Sink
from heisd.watch import ROUNDS

CHUNK_CALLS = ("encode", "prefill", "denoise", "endpoints")
MOST_EXECUTED = 8  # of a chunk, where nothing else is asked for

Steps = Annotated[StrictInt, Field(ge=0)]
Level = Annotated[float, Field(gt=0, le=1)]


class FullRule(Options):
    """Nothing is drafted: every round denoises."""

    what = "rule 'full'"
    name: Literal["full"] = "full"


class EndpointsRule(Options):
    """Leading drafted actions whose endpoints are near at every level are executed; the gripper apart (FLASH)."""

    what = "rule 'endpoints'"
    name: Literal["endpoints"] = "endpoints"
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = (0.10,)  # noise levels t at which a draft is checked
    residual: float = Field(default=1.5, ge=0, allow_inf_nan=False)  # an endpoint at t is within residual * t
    verify_stop: StrictBool = True  # nothing is executed where an endpoint's gripper is about to move
    post_cut: StrictBool = True  # … nor beyond the place where the draft's own does

    def bind(self) -> EndpointTest:
        """The rule as the engine calls it."""
        options = {"verify_stop": self.verify_stop, "post_cut": self.post_cut}
        return EndpointTest.in_velocity(self.levels, self.residual, **options)


CHUNK_RULES = {"full": FullRule, "endpoints": EndpointsRule}


class AccelerateChunksConfig(Configuration):
    """How a chunk policy is accelerated. Every field can be left out. Raises BadInput, in one line, for all else."""

    what = "accelerate's configuration of a chunk policy"
    rules = CHUNK_RULES

    rule: FullRule | EndpointsRule = Field(default=FullRule(), discriminator="name")  # or just its name
    proposers: Mapping[str, Any] = Field(default_factory=lambda: {"tail": {}})  # name -> options, or a ChunkProposer
    euler_steps: Annotated[StrictInt, Field(ge=1, le=100)] = 10
    # None: 8, or the whole of a shorter chunk
    executed: Annotated[StrictInt, Field(ge=1, le=MAX_EXECUTED)] | None = None
    noise_scale: float = Field(default=1.0, ge=0, le=1)
    delay_steps: Steps = 0  # control steps that a round takes while the robot goes on (RTC); the policy in-paints
    max_age_rounds: Steps = 3  # rounds that read the same prefix
    period: Steps = 0  # rounds without a full one, at most; 0: no limit
    min_similarity: float | None = Field(default=None, allow_inf_nan=False)  # of the picture to the prefix's
    gripper_margin_steps: Steps = 3  # after a gripper command during which nothing is drafted
    watches: StrictBool = True  # full rounds while a camera is dark, frozen or noisy, or has jumped
    enabled: StrictBool = True  # False: full rounds through the same object

    def sampling(self, horizon: int) -> SamplingConfig:
        """How chunks of so many actions are made and used."""
        executed = min(MOST_EXECUTED, horizon) if self.executed is None else self.executed
        return SamplingConfig(euler_steps=self.euler_steps, executed=executed, noise_scale=self.noise_scale)


def accelerate_chunks(
    policy: ChunkPolicy[ChunkContextT, PrefixT],
    config: AccelerateChunksConfig | Mapping[str, Any] | None = None,
    *,
    sink: Sink | None = None,
) -> ChunkEngine[ChunkContextT, PrefixT]:
    """What :func:`heisd.accelerate` does with a chunk policy; see there."""
    check_chunk_members(policy)
    chosen = AccelerateChunksConfig.model_validate({} if config is None else config)
    sampling, delay_steps = chosen.sampling(policy.horizon), chosen.delay_steps
    if not chosen.enabled or isinstance(chosen.rule, FullRule):
        return ChunkEngine(policy, sampling=sampling, delay_steps=delay_steps if chosen.enabled else 0, sink=sink)

    def make(name: str, given: Any) -> Any:
        return made_or_given(
            name, given, lambda options: registry.create_chunk(name, policy.codec, policy.horizon, **options)
        )

    fallbacks = Fallbacks(
        period=chosen.period,
        max_age_steps=chosen.max_age_rounds * sampling.executed,
        min_similarity=-math.inf if chosen.min_similarity is None else chosen.min_similarity,
        gripper_margin_steps=chosen.gripper_margin_steps,
    )
    return ChunkEngine(
        policy,
        sampling=sampling,
        proposers={name: make(name, given) for name, given in chosen.proposers.items()},
        rule=chosen.rule.bind(),
        router=Rounds(tuple(chosen.proposers), fallbacks, LIBERO, watch=ROUNDS if chosen.watches else None),
        delay_steps=delay_steps,
        sink=sink,
    )


def check_chunk_members(policy: object) -> None:
    """Raise BrokenContract unless ``policy`` has every member of a chunk policy and a codec that can be used.

    Costs no forward; whether the members do what they promise is :func:`heisd.testing.check_chunk_policy`'s business.
    """
    check_calls_and_codec(policy, CHUNK_CALLS)
    for name in ("horizon", "max_chunks"):
        value = getattr(policy, name, None)
        if not isinstance(value, int) or value < 1:
            raise BrokenContract(f"policy {type(policy).__name__}", f"its {name} is 1 or more", repr(value))
