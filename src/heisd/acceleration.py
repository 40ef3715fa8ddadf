"""Any policy, faster: wrap a target policy once, then call ``act(observation)`` as before.

    robot = heisd.accelerate(policy, {"proposers": {"persistence": {}}, "rule": "exact"})
    robot.reset()
    action = robot.act(observation)

A policy that denoises chunks is accelerated by the same call (:mod:`heisd.acceleration_chunks`).

(This module is not called ``accelerate``: loading a module of that name would put it in the place of the function.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, overload

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictBool,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from heisd import accept
from heisd.codec import ActionCodec
from heisd.engine import MAX_NODES, Engine
from heisd.errors import BadInput, BrokenContract, UnknownName
from heisd.kinematics import bin_sizes
from heisd.policies.protocol import CacheT, ChunkContextT, ChunkPolicy, ContextT, PrefixT, TargetPolicy
from heisd.presets import EXACT_DTYPE
from heisd.propose import registry
from heisd.propose.base import Proposer
from heisd.route.base import Router
from heisd.route.costs import KNOWN_COSTS, Costs, table_of
from heisd.route.costs_file import costs_for
from heisd.route.fixed import Fixed, Full
from heisd.route.kerv import AdaptiveTolerance
from heisd.route.paying import Paying
from heisd.telemetry import Sink
from heisd.types import Scores
from heisd.verify import merge

if TYPE_CHECKING:
    from heisd.acceleration_chunks import AccelerateChunksConfig
    from heisd.engine import ChunkEngine

POLICY_CALLS = ("encode", "prefill", "extend")
PROPOSER_CALLS = ("reset", "propose", "observe")
_PRECISION = re.compile(r"b?float\d+|u?int\d+")  # in the name of a dtype, whoever's: torch's, numpy's, a text

Bins = Annotated[StrictInt, Field(ge=0)]


class Options(BaseModel):
    """Frozen options that are refused in one line: which keys are unknown, which are known, which values are wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    what: ClassVar[str]

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        known = ", ".join(sorted(cls.model_fields))
        if isinstance(values, Mapping) and (unknown := sorted(set(map(str, values)) - set(cls.model_fields))):
            raise BadInput(f"unknown key(s) {unknown} in {cls.what}; known: {known}")
        try:
            return validate(values)
        except ValidationError as error:  # its own text has several lines
            problems = (
                f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}, got {e['input']!r}" for e in error.errors()
            )
            raise BadInput(f"{cls.what}: {'; '.join(problems)}; known keys: {known}") from None


class _Rule(Options):
    def router(self, codec: ActionCodec, names: tuple[str, ...]) -> Router:  # noqa: ARG002 (a rule of the motion's)
        """These proposers are asked before every forward, and everything they say is checked."""
        return Fixed(names, names)


class ExactRule(_Rule):
    """Actions are token for token those of plain greedy decoding."""

    what = "rule 'exact'"
    name: Literal["exact"] = "exact"

    def bind(self) -> accept.Rule:
        """The rule as the engine calls it."""
        return accept.exact


class RelaxedRule(_Rule):
    """A proposed token within a tolerance of the target's is kept; never the gripper's (Spec-VLA)."""

    what = "rule 'relaxed'"
    name: Literal["relaxed"] = "relaxed"
    tolerance_bins: Bins | tuple[Bins, ...] = accept.SPEC_VLA_TOLERANCE_BINS  # one, or one per dimension (gripper 0)

    def bind(self) -> accept.Rule:
        """The rule as the engine calls it."""
        return partial(accept.relaxed, tolerance_bins=self.tolerance_bins)


class SequenceRule(_Rule):
    """Position and rotation are kept as blocks within bounds, the gripper only when equal (HeiSD, sequence-wise)."""

    what = "rule 'sequence'"
    name: Literal["sequence"] = "sequence"
    max_sum_bins: Bins = accept.HEISD_PAPER.max_sum_bins
    max_token_bins: Bins = accept.HEISD_PAPER.max_token_bins
    keeps_equal_tokens: StrictBool = accept.HEISD_PAPER.keeps_equal_tokens
    recombines: StrictBool = True  # one candidate's position with another's rotation, too

    def bind(self) -> accept.Rule:
        """The rule as the engine calls it."""
        bounds = accept.BlockBounds(self.max_sum_bins, self.max_token_bins, self.keeps_equal_tokens)
        return partial(accept.sequence, bounds=bounds)


class AdaptiveRule(_Rule):
    """A tolerance that shrinks from the larger to the smaller bound as the motion varies more (KERV)."""

    what = "rule 'adaptive'"
    name: Literal["adaptive"] = "adaptive"
    variability_high: float = Field(gt=0, allow_inf_nan=False)  # heisd.kinematics.fit_variability_high
    action_change_sigma: tuple[float, ...]  # (T,) of the change from action to action, in your demonstrations
    tolerance_range_bins: tuple[Bins, Bins] = accept.KERV_TOLERANCE_BINS

    def bind(self) -> accept.Rule:
        """The rule at its widest; the router narrows it step by step."""
        return partial(accept.relaxed, tolerance_bins=max(self.tolerance_range_bins))

    def router(self, codec: ActionCodec, names: tuple[str, ...]) -> Router:
        """The same, by a tolerance of the motion's."""
        sizes = tuple(bin_sizes(codec.q01, codec.q99).tolist())
        return AdaptiveTolerance(
            self.variability_high, sizes, self.action_change_sigma, names, self.tolerance_range_bins
        )


RULES = {"exact": ExactRule, "relaxed": RelaxedRule, "sequence": SequenceRule, "adaptive": AdaptiveRule}


def _default_proposers() -> dict[str, Any]:
    return {"persistence": {}, "kalman": {}}


class AccelerateConfig(Options):
    """How a policy is accelerated. Every field can be left out. Raises BadInput, in one line, for anything else."""

    what = "accelerate's configuration"

    proposers: Mapping[str, Any] = Field(default_factory=_default_proposers)  # name -> its options, or a Proposer
    rule: ExactRule | RelaxedRule | SequenceRule | AdaptiveRule = Field(
        default=ExactRule(), discriminator="name"
    )  # or just its name
    max_nodes: StrictInt = Field(default=MAX_NODES, ge=1)  # rows that guesses may add to one forward
    costs: Costs | Path | None = None  # with a table, guesses pause while they lose time by it
    enabled: StrictBool = True  # False: plain decoding through the same object

    @field_validator("proposers")
    @classmethod
    def _options_or_objects(cls, proposers: Mapping[str, Any]) -> Mapping[str, Any]:
        return options_or_objects(proposers)

    @field_validator("costs", mode="before")
    @classmethod
    def _table_or_file(cls, costs: Any) -> Any:
        if isinstance(costs, Mapping):
            return table_of(costs)
        if costs is None or isinstance(costs, (Costs, Path, str)):
            return str(costs) if isinstance(costs, Path) else costs
        raise BadInput(
            f"costs is {costs!r}; give a mapping of milliseconds ({', '.join(KNOWN_COSTS)}), or the path of a file "
            "that heisd bench --costs --json has written"
        )

    @field_validator("rule", mode="before")
    @classmethod
    def _rule_by_name(cls, rule: Any) -> Any:
        return rule_by_name(rule, RULES)


def options_or_objects(proposers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The proposers of a configuration; BadInput for what is neither options nor a proposer."""
    for name, given in proposers.items():
        missing = [call for call in PROPOSER_CALLS if not callable(getattr(given, call, None))]
        if missing and not isinstance(given, Mapping):
            raise BadInput(
                f"proposer {name!r} is {given!r}; give its options as a mapping ({{}} for none), or an object "
                f"with {', '.join(PROPOSER_CALLS)} (here without {', '.join(missing)})"
            )
    return proposers


def rule_by_name(rule: Any, known: Mapping[str, type[Any]]) -> Any:
    """A rule of a configuration as its options, or as it is; BadInput for anything else, UnknownName for its name."""
    if isinstance(rule, tuple(known.values())):
        return rule
    if not isinstance(rule, (str, Mapping)):
        raise BadInput(f'the rule is {rule!r}; give its name, or a mapping as {{"name": "{list(known)[1]}", …}}')
    options = {"name": rule} if isinstance(rule, str) else rule
    name = str(options.get("name", ""))
    if name not in known:
        raise UnknownName("rule", name, known)
    return options


@overload
def accelerate(
    policy: TargetPolicy[ContextT, CacheT],
    config: AccelerateConfig | Mapping[str, Any] | None = None,
    *,
    sink: Sink | None = None,
) -> Engine[ContextT, CacheT]: ...


@overload
def accelerate(
    policy: ChunkPolicy[ChunkContextT, PrefixT],
    config: "AccelerateChunksConfig | Mapping[str, Any] | None" = None,
    *,
    sink: Sink | None = None,
) -> "ChunkEngine[ChunkContextT, PrefixT]": ...


def accelerate(policy: Any, config: Any = None, *, sink: Sink | None = None) -> Any:
    """A policy that answers sooner: ``act(observation)`` for every control step, ``reset()`` for every episode.

    Args:
        policy: any object with the :class:`~heisd.policies.protocol.TargetPolicy` protocol, or with that of a
            :class:`~heisd.policies.protocol.ChunkPolicy`; run :func:`heisd.testing.check_target`, or
            :func:`heisd.testing.check_chunk_policy`, on a new one.
        config: an :class:`AccelerateConfig` or a mapping of its fields. None: rule ``exact``, with the proposers
            ``persistence`` and ``kalman``, which need no training and no data. Of a chunk policy an
            :class:`~heisd.acceleration_chunks.AccelerateChunksConfig`; None: every round in full.
        sink: gets one record per control step (stage times, forwards, origins of the tokens).

    Raises:
        BrokenContract: the policy lacks a member, or its codec cannot decode every action id.
        BadInput: the configuration has an unknown key, name or option, or a rule that does not fit the codec or the
            precision: ``exact`` is for policies in float32, and for those that do not say (by a member ``dtype``).
        BadArtifact: the file of costs is no such file, or another policy's.
    """
    if is_chunk_policy(policy):
        from heisd.acceleration_chunks import accelerate_chunks

        return accelerate_chunks(policy, config, sink=sink)
    check_members(policy)
    chosen = AccelerateConfig.model_validate({} if config is None else config)
    if not chosen.enabled:
        return Engine(policy, router=Full(), sink=sink)
    if isinstance(chosen.rule, ExactRule):
        _require_exact_dtype(getattr(policy, "dtype", None))
    rule = chosen.rule.bind()
    _try(rule, policy.codec)
    proposers = {name: _proposer(name, given, policy.codec) for name, given in chosen.proposers.items()}
    recombines = isinstance(chosen.rule, SequenceRule) and chosen.rule.recombines
    router = chosen.rule.router(policy.codec, tuple(proposers))
    costs = chosen.costs
    if isinstance(costs, Path):
        costs = costs_for(costs, getattr(policy, "policy_hash", ""))
    return Engine(
        policy,
        proposers=proposers,
        rule=rule,
        router=router if costs is None else Paying(router, costs.asking(proposers)),
        recombines=recombines,
        max_nodes=chosen.max_nodes,
        sink=sink,
    )


def is_chunk_policy(policy: object) -> bool:
    """Whether an object denoises chunks; what it then lacks is said by its own check."""
    return callable(getattr(policy, "denoise", None))


def check_members(policy: object) -> None:
    """Raise BrokenContract unless ``policy`` has every member of a target policy and a codec that can be used.

    Costs no forward; whether the members do what they promise is :func:`heisd.testing.check_target`'s business.
    """
    check_calls_and_codec(policy, POLICY_CALLS)


def check_calls_and_codec(policy: object, calls: Sequence[str]) -> None:
    """Raise BrokenContract unless ``policy`` has these methods and a codec that decodes every action id."""
    who = f"policy {type(policy).__name__}"
    missing = [call for call in calls if not callable(getattr(policy, call, None))]
    if missing:
        raise BrokenContract(who, f"it has the methods {', '.join(calls)}", f"no {', '.join(missing)}")
    codec = getattr(policy, "codec", None)
    if not isinstance(codec, ActionCodec):
        wanted = "it has a heisd.codec.ActionCodec called codec (ActionCodec.from_stats(vocab_size, q01, q99))"
        raise BrokenContract(who, wanted, f"no {type(codec).__name__}" if codec is None else type(codec).__name__)
    if codec.first_token < 0:
        raise BrokenContract(who, "its codec's vocabulary holds 256 action ids", f"vocab_size {codec.vocab_size}")
    ids = np.arange(codec.first_token, codec.vocab_size)
    with np.errstate(all="ignore"):  # what is not finite is reported below
        values = codec.decode(np.repeat(ids[:, None], codec.length, axis=1))
    if not np.isfinite(values).all():
        bad = sorted(set(np.nonzero(~np.isfinite(values))[1].tolist()))
        raise BrokenContract(who, "its codec decodes every action id to finite numbers", f"others in dimensions {bad}")


def _require_exact_dtype(dtype: object) -> None:
    """BadInput for a precision that is known and not the one in which equality is promised."""
    found = _PRECISION.search(str(dtype))
    if found and found.group() != EXACT_DTYPE:
        raise BadInput(
            f"rule 'exact' promises plain decoding's tokens in {EXACT_DTYPE} only, and this policy's dtype is {dtype}: "
            f"there, forwards of different row counts flip tokens; load it in {EXACT_DTYPE}, or choose a rule that "
            'promises nothing, such as {"name": "relaxed", "tolerance_bins": 0}'
        )


def _proposer(name: str, given: Any, codec: ActionCodec) -> Proposer:
    return made_or_given(name, given, lambda options: registry.create(name, codec, **options))  # type: ignore[no-any-return]


def made_or_given(name: str, given: Any, make: Callable[[Mapping[str, Any]], Any]) -> Any:
    """An object as it is; options made into a proposer, BadInput for some that it cannot use."""
    if not isinstance(given, Mapping):
        return given
    try:
        return make(given)
    except (TypeError, ValueError) as error:  # an option of the wrong kind, met by the factory itself
        raise BadInput(f"proposer {name!r} cannot use the options {dict(given)}: {error}") from error


def _try(rule: accept.Rule, codec: ActionCodec) -> None:
    """Let the rule judge an empty tree: options that do not fit the codec are refused before the robot moves."""
    nothing = Scores(codec.first_token, np.empty(0, dtype=np.int64), 0.0)
    rule(merge((), position=0, length=codec.length, max_nodes=1), nothing, codec)
