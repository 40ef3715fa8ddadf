"""Robot actions <-> action tokens, by OpenVLA's published formulas. numpy only, vectorised over leading axes.

Three conventions of the gripper meet here, and only here: the environment's (-1 opens, +1 closes), OpenVLA's model
space (1 open, 0 closed) and that of normalised chunks (its sign decides: below 0 open). The other six dimensions are
scaled by their q01 and q99.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from heisd.errors import BadInput
from heisd.types import FloatArray, IntArray

N_BINS = 256
GRIPPER = 6  # index of the gripper in an action


def gripper_to_model(environment: FloatArray) -> FloatArray:
    """Environment's gripper command (-1 opens, +1 closes) -> model space (1 open, 0 closed)."""
    return np.asarray(1.0 - np.clip((np.asarray(environment) + 1.0) / 2.0, 0.0, 1.0))


def gripper_to_environment(model: FloatArray) -> FloatArray:
    """Model space (1 open, 0 closed) -> -1 (open) or +1 (close). Raises BadInput at exactly 0.5 or NaN."""
    value = np.asarray(model, dtype=np.float64)
    if not np.all(np.abs(value - 0.5) > 0):
        raise BadInput("a gripper value of exactly 0.5 (or NaN) neither opens nor closes; give a value on one side")
    return np.where(value > 0.5, -1.0, 1.0)


@dataclass(frozen=True)
class ActionCodec:
    """Seven numbers in the environment's convention <-> seven vocabulary ids.

    A dimension is cut by 256 uniform edges on [-1, 1] into 255 intervals, so 255 distinct values come back;
    bin 255 (reached by exactly +1) decodes as bin 254 does. Token = ``vocab_size - 1 - bin``.
    """

    vocab_size: int  # one past the largest action id (32000 for OpenVLA-7B, without its padding rows)
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...]  # False: the dimension is passed through unscaled (the gripper)

    def __post_init__(self) -> None:
        if not len(self.q01) == len(self.q99) == len(self.mask) > 0:
            raise BadInput(
                f"q01, q99 and mask must have one entry per action dimension; got {len(self.q01)}, "
                f"{len(self.q99)} and {len(self.mask)}"
            )
        flat = [i for i, (low, high, on) in enumerate(zip(self.q01, self.q99, self.mask, strict=True)) if on]
        flat = [i for i in flat if not self.q99[i] > self.q01[i]]
        if flat:
            raise BadInput(f"q99 must exceed q01 in every scaled dimension; it does not in {flat}")

    @classmethod
    def from_stats(cls, vocab_size: int, q01: Sequence[float], q99: Sequence[float]) -> "ActionCodec":
        """A codec for seven dimensions whose last one is the gripper (never scaled)."""
        n = len(q01)
        mask = tuple(i != GRIPPER for i in range(n))
        return cls(vocab_size, tuple(map(float, q01)), tuple(map(float, q99)), mask)

    @property
    def length(self) -> int:
        """Tokens per action."""
        return len(self.q01)

    @property
    def first_token(self) -> int:
        """Smallest action id (the largest value's)."""
        return self.vocab_size - N_BINS

    @cached_property
    def edges(self) -> FloatArray:
        """(256,) bin edges on [-1, 1]."""
        return np.linspace(-1.0, 1.0, N_BINS)

    @cached_property
    def centres(self) -> FloatArray:
        """(255,) the values that tokens stand for."""
        return (self.edges[:-1] + self.edges[1:]) / 2.0

    @cached_property
    def _bounds(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return np.asarray(self.q01), np.asarray(self.q99), np.asarray(self.mask)

    @cached_property
    def _values(self) -> FloatArray:
        """(T, 255) what every bin stands for at every place of an action, in the environment's convention."""
        return np.ascontiguousarray(self.denormalise(np.repeat(self.centres[:, None], self.length, axis=1)).T)

    @cached_property
    def _places(self) -> IntArray:
        return np.arange(self.length)

    def tokens_of_bins(self, bins: IntArray) -> IntArray:
        """Bin numbers 0-255 -> vocabulary ids."""
        return np.asarray(self.vocab_size - 1 - np.asarray(bins, dtype=np.int64))

    def bins_of_tokens(self, tokens: IntArray) -> IntArray:
        """Vocabulary ids -> bin numbers 0-254, clipped as OpenVLA clips: text ids fall into bin 254."""
        bins = self.vocab_size - 1 - np.asarray(tokens, dtype=np.int64)
        return np.minimum(np.maximum(bins, 0), N_BINS - 2)  # np.clip takes several times as long on seven numbers

    def normalise(self, actions: FloatArray) -> FloatArray:
        """(…, 7) environment convention -> (…, 7) in [-1, 1], gripper in model space."""
        low, high, mask = self._bounds
        values = np.array(actions, dtype=np.float64)
        if values.shape[-1:] != (self.length,) or not np.isfinite(values).all():
            raise BadInput(f"an action is {self.length} finite numbers; got shape {values.shape}")
        if self.length > GRIPPER:
            values[..., GRIPPER] = gripper_to_model(values[..., GRIPPER])
        scaled = 2.0 * (values - low) / np.where(mask, high - low, 1.0) - 1.0
        return np.clip(np.where(mask, scaled, values), -1.0, 1.0)

    def denormalise(self, normalised: FloatArray) -> FloatArray:
        """(…, 7) in [-1, 1] -> (…, 7) environment convention, gripper -1 or +1."""
        low, high, mask = self._bounds
        values = np.asarray(normalised, dtype=np.float64)
        values = np.where(mask, 0.5 * (values + 1.0) * (high - low) + low, values)
        if self.length > GRIPPER:
            values[..., GRIPPER] = gripper_to_environment(values[..., GRIPPER])
        return values

    def normalise_chunk(self, actions: FloatArray) -> FloatArray:
        """(…, 7) environment convention -> (…, 7) in [-1, 1] as flow-matching policies see it: -1 opens, +1 closes."""
        values = self.normalise(actions)
        if self.length > GRIPPER:
            values[..., GRIPPER] = 1.0 - 2.0 * values[..., GRIPPER]
        return values

    def denormalise_chunk(self, chunk: FloatArray) -> FloatArray:
        """(…, 7) normalised, clipped to [-1, 1] -> environment convention; the gripper closes from 0 on upwards.

        Raises BadInput for numbers that are not finite.
        """
        values = np.array(chunk, dtype=np.float64)
        if values.shape[-1:] != (self.length,) or not np.isfinite(values).all():
            raise BadInput(f"a chunk holds {self.length} finite numbers an action; got shape {values.shape}")
        if self.length > GRIPPER:
            values[..., GRIPPER] = np.where(values[..., GRIPPER] >= 0.0, 0.0, 1.0)
        return self.denormalise(np.clip(values, -1.0, 1.0))

    def encode_bins(self, actions: FloatArray) -> IntArray:
        """(…, 7) actions in the environment's convention -> (…, 7) bin numbers 0-255."""
        return np.asarray(np.digitize(self.normalise(actions), self.edges) - 1, dtype=np.int64)

    def encode(self, actions: FloatArray) -> IntArray:
        """(…, 7) actions in the environment's convention -> (…, 7) vocabulary ids."""
        return self.tokens_of_bins(self.encode_bins(actions))

    def decode(self, tokens: IntArray) -> FloatArray:
        """(…, 7) vocabulary ids -> (…, 7) actions in the environment's convention."""
        return np.asarray(self._values[self._places, self.bins_of_tokens(tokens)])
