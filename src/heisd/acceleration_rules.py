"""The rules that :func:`heisd.accelerate` knows for policies that decode tokens, each with its options."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)

from heisd import accept
from heisd.codec import ActionCodec
from heisd.errors import BadInput, UnknownName
from heisd.kinematics.defaults import LIBERO
from heisd.kinematics.motion import ACTION_SIZE
from heisd.route.base import Router
from heisd.route.fixed import Fixed
from heisd.route.kerv import AdaptiveTolerance

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
        if not codec.length == len(self.action_change_sigma) == ACTION_SIZE:
            raise BadInput(
                f"the adaptive rule reads the motion of actions of {ACTION_SIZE} dimensions, and action_change_sigma "
                f"has one number for each; got {codec.length} dimensions and {len(self.action_change_sigma)} numbers"
            )
        ranges = replace(
            LIBERO, action_change_sigma=self.action_change_sigma, variability_high=self.variability_high
        )  # fmt: skip
        return AdaptiveTolerance(ranges, names, self.tolerance_range_bins)


RULES = {"exact": ExactRule, "relaxed": RelaxedRule, "sequence": SequenceRule, "adaptive": AdaptiveRule}


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
