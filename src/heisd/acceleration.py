"""Any policy, faster: wrap a target policy once, then call ``act(observation)`` as before.

    robot = heisd.accelerate(policy, {"proposers": {"persistence": {}}, "rule": "exact"})
    robot.reset()
    action = robot.act(observation)

A policy that denoises chunks is accelerated by the same call (:mod:`heisd.acceleration_chunks`).

(This module is not called ``accelerate``: loading a module of that name would put it in the place of the function.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    field_validator,
)

from heisd import accept
from heisd.acceleration_rules import (
    RULES,
    AdaptiveRule,
    ExactRule,
    Options,
    RelaxedRule,
    SequenceRule,
    rule_by_name,
)  # fmt: skip
from heisd.codec import ActionCodec
from heisd.engine import MAX_NODES, Engine
from heisd.errors import BadInput, BrokenContract
from heisd.policies.protocol import CacheT, ChunkContextT, ChunkPolicy, ContextT, PrefixT, TargetPolicy
from heisd.presets import EXACT_DTYPE
from heisd.propose import registry
from heisd.propose.base import Proposer
from heisd.route.costs import KNOWN_COSTS, Costs, table_of
from heisd.route.costs_file import costs_for
from heisd.route.fixed import Full
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


def _default_proposers() -> dict[str, Any]:
    return {"persistence": {}, "kalman": {}}


class Configuration(Options):
    """What the configurations of both families check alike."""

    rules: ClassVar[Mapping[str, type[Any]]]  # by name

    @field_validator("proposers", check_fields=False)
    @classmethod
    def _options_or_objects(cls, proposers: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, given in proposers.items():
            missing = [call for call in PROPOSER_CALLS if not callable(getattr(given, call, None))]
            if missing and not isinstance(given, Mapping):
                raise BadInput(
                    f"proposer {name!r} is {given!r}; give its options as a mapping ({{}} for none), or an object "
                    f"with {', '.join(PROPOSER_CALLS)} (here without {', '.join(missing)})"
                )
        return proposers

    @field_validator("rule", mode="before", check_fields=False)
    @classmethod
    def _rule_by_name(cls, rule: Any) -> Any:
        return rule_by_name(rule, cls.rules)


class AccelerateConfig(Configuration):
    """How a policy is accelerated. Every field can be left out. Raises BadInput, in one line, for anything else."""

    what = "accelerate's configuration"
    rules = RULES

    proposers: Mapping[str, Any] = Field(default_factory=_default_proposers)  # name -> its options, or a Proposer
    rule: ExactRule | RelaxedRule | SequenceRule | AdaptiveRule = Field(
        default=ExactRule(), discriminator="name"
    )  # or just its name
    max_nodes: StrictInt = Field(default=MAX_NODES, ge=1)  # rows that guesses may add to one forward
    costs: Costs | Path | None = None  # with a table, guesses pause while they lose time by it
    enabled: StrictBool = True  # False: plain decoding through the same object

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
