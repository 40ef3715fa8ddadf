"""What shape a flow-matching policy has, and how it is sampled."""

from typing import Self

from pydantic import Field, model_validator

from heisd.policies.config import Frozen, LayerShape, ProprioConfig, SamplingConfig, SeeingConfig


class ExpertConfig(Frozen):
    """The action expert. It has the language model's number of layers, heads and width of a head (pi0, section IV)."""

    hidden_size: int = 192
    intermediate_size: int = 512


class FlowConfig(SeeingConfig):
    """The whole policy. ``decoder.vocab_size`` counts text ids alone: actions are numbers here."""

    expert: ExpertConfig = Field(default_factory=ExpertConfig)
    proprio: ProprioConfig
    action_size: int = Field(default=7, ge=1)
    horizon: int = Field(default=16, ge=1)  # H, actions of one chunk
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    @property
    def expert_shape(self) -> LayerShape:
        """Of each of the action expert's layers."""
        widths = {"hidden_size": self.expert.hidden_size, "intermediate_size": self.expert.intermediate_size}
        return self.decoder.layer_shape.model_copy(update=widths)

    @model_validator(mode="after")
    def _can_be_executed(self) -> Self:
        if self.sampling.executed > self.horizon:
            raise ValueError(f"a chunk of {self.horizon} actions cannot have {self.sampling.executed} executed")
        if self.expert.hidden_size % 2:
            raise ValueError(f"the expert's hidden_size must be even; got {self.expert.hidden_size}")
        return self
