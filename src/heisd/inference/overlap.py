"""What a new chunk must agree with when the robot goes on while it is computed (RTC, arXiv 2506.07339).

At a delay of d control steps the next round begins while d actions are still in hand. They are executed whatever
comes, so the new chunk begins with exactly these; behind them it is pulled, or blended, towards the old one's rest.
"""

from dataclasses import dataclass

import numpy as np

from heisd.policies.guidance import Guide, soft_mask
from heisd.types import FloatArray, Round, TokenOrigin


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """The old chunk as seen from the new one's first action."""

    rest: FloatArray  # (H, T) float32 normalised; zeros behind its end
    n_frozen: int  # executed before the new chunk is there
    n_known: int  # of ``rest`` that the policy stands by: of a denoised chunk all, of a draft what is in hand

    @classmethod
    def of(cls, old: Round, delay_steps: int) -> "Overlap":
        """What is left of the last round."""
        chunk, n = old.chunk, old.record.n_actions
        rest = np.zeros_like(chunk)
        rest[: len(chunk) - n] = chunk[n:]
        return cls(rest, delay_steps, len(chunk) - n if old.origin is TokenOrigin.DECODED else delay_steps)

    def guide(self) -> Guide:
        """For a round that denoises."""
        return Guide(self.rest, self._weights())

    def blended(self, chunks: FloatArray) -> FloatArray:
        """(…, H, T) drafts as they would be executed, so that what is verified is what is executed."""
        weights = self._weights()[:, None]
        made = weights * self.rest + (1 - weights) * chunks
        return self.kept(made)

    def kept(self, chunks: FloatArray) -> FloatArray:
        """(…, H, T) chunks whose first actions are the frozen ones, to the last bit."""
        chunks = chunks.copy()
        chunks[..., : self.n_frozen, :] = self.rest[: self.n_frozen]
        return chunks

    def _weights(self) -> FloatArray:
        return soft_mask(self.n_frozen, self.n_known, len(self.rest))
