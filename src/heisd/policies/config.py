"""What shape a policy has: frozen, strict declarations, written to ``config.json`` and read back from it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_EXECUTED = 12  # actions of one chunk (FLASH's)


class Frozen(BaseModel):
    """Immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConvTowerConfig(Frozen):
    """A convolutional stem: one stride-4 layer, then stride-2 layers; every output cell is one token."""

    kind: Literal["conv"] = "conv"
    image_size: int = 128
    channels: tuple[int, ...] = (48, 96, 192, 256)
    groups: int = 8  # of GroupNorm
    mean: float = 0.5  # pixels enter as (x / 255 - mean) / std
    std: float = 0.25

    @property
    def grid(self) -> int:
        """Tokens along one image side."""
        return self.image_size // (4 << (len(self.channels) - 1))

    @property
    def width(self) -> int:
        """Channels of one token."""
        return self.channels[-1]


class VitTowersConfig(Frozen):
    """One or two timm ViTs by their published names, fused on the channel axis (DINOv2 + SigLIP)."""

    kind: Literal["timm"] = "timm"
    image_size: int = 224
    names: tuple[str, ...]
    means: tuple[tuple[float, float, float], ...]
    stds: tuple[tuple[float, float, float], ...]
    centre_crop_area: float | None = None  # 0.9 for checkpoints fine-tuned with crop augmentation

    @model_validator(mode="after")
    def _one_normalisation_per_tower(self) -> "VitTowersConfig":
        if not 1 <= len(self.names) <= 2 or not len(self.names) == len(self.means) == len(self.stds):
            raise ValueError("one or two towers, each with its own mean and std")
        return self


VisionConfig = Annotated[ConvTowerConfig | VitTowersConfig, Field(discriminator="kind")]


class LayerShape(Frozen):
    """One transformer layer. ``n_heads * head_dim`` need not be ``hidden_size``: an action expert is narrower."""

    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rms_eps: float


class DecoderConfig(Frozen):
    """A Llama decoder. Defaults of the last three are those of transformers' LlamaConfig."""

    vocab_size: int  # rows of the embedding and of the head, padding included
    hidden_size: int = 256
    intermediate_size: int = 688
    n_layers: int = 6
    n_heads: int = 8
    n_kv_heads: int | None = None  # heads of keys and values, shared by groups of queries; None: as many as n_heads
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.n_heads

    @property
    def layer_shape(self) -> LayerShape:
        """Of each of its layers."""
        return LayerShape(
            hidden_size=self.hidden_size, intermediate_size=self.intermediate_size, n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads, head_dim=self.head_dim, rms_eps=self.rms_eps,
        )  # fmt: skip

    @model_validator(mode="after")
    def _even_heads(self) -> "DecoderConfig":
        if self.hidden_size % self.n_heads or self.head_dim % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must split into {self.n_heads} heads of even width")
        if self.n_kv_heads is not None and (self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads):
            raise ValueError(f"{self.n_heads} heads must split into {self.n_kv_heads} equal groups")
        return self


class ProprioConfig(Frozen):
    """How proprioception becomes features (see policies/proprio.py)."""

    position_mean_m: tuple[float, float, float] = (0.0, 0.0, 1.0)
    position_std_m: tuple[float, float, float] = (0.12, 0.12, 0.12)
    finger_scale_m: float = 0.04  # fully open
    finger_speed_m_s: float = 0.1
    frequencies: tuple[float, ...] = (1.0, 2.0, 4.0)  # of sin/cos, per unit of the scaled quantity [cycles / 2 pi]
    use_joints: bool = False


class SeeingConfig(Frozen):
    """What every policy has in front of its language model. ``cameras=()`` is blind: no vision tower, no projector."""

    cameras: tuple[str, ...] = ("agentview", "wrist")
    vision: VisionConfig | None = Field(default_factory=ConvTowerConfig)
    decoder: DecoderConfig
    camera_embedding: bool = False
    max_text_tokens: int = 40
    pad_token_id: int = 0

    @model_validator(mode="after")
    def _eyes_or_none(self) -> Self:
        if bool(self.cameras) != (self.vision is not None):
            raise ValueError("cameras and vision go together: give both, or neither for a blind policy")
        return self


class OpenVLAConfig(SeeingConfig):
    """An autoregressive policy."""

    proprio: ProprioConfig | None = None
    action_vocab_size: int  # one past the largest action id
    action_length: int = 7

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 256 <= self.action_vocab_size <= self.decoder.vocab_size:
            raise ValueError("action_vocab_size must hold 256 action ids and fit in the decoder's vocabulary")
        return self


class SamplingConfig(Frozen):
    """How chunks are made and used; chosen on validation, after training."""

    euler_steps: int = Field(default=5, ge=1, le=100)
    executed: int = Field(default=8, ge=1, le=MAX_EXECUTED)  # actions of a chunk before the next round
    noise_scale: float = Field(default=1.0, ge=0.0, le=1.0)  # standard deviation of the noise a chunk starts from
