"""A chunk policy without a network: its chunks count calls, its endpoints are the drafts plus what a test wants."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from fake_target import CODEC

from heisd.codec import ActionCodec
from heisd.policies.guidance import Guide
from heisd.testing import synthetic_observations
from heisd.types import ChunkDraft, FloatArray, Observation, Round

HORIZON = 6


@dataclass(frozen=True)
class FakeContext:
    instruction: str
    vision_key: FloatArray
    number: int  # of the encode call
    prefix_similarity: float = 1.0


@dataclass
class FakeChunkPolicy:
    """Chunk ``i`` (of the i-th full round, from 1) holds i / 100 in every motion number and an open gripper."""

    codec: ActionCodec = CODEC
    horizon: int = HORIZON
    max_chunks: int = 6
    gap: float = 0.0  # between drafts and endpoints
    calls: list[str] = field(default_factory=list)
    noises: list[FloatArray] = field(default_factory=list)
    n_full: int = 0
    guides: list[Guide] = field(default_factory=list)
    drafts: list[FloatArray] = field(default_factory=list)  # of every verification

    def encode(self, observation: Observation) -> FakeContext:
        self.calls.append("encode")
        n = self.calls.count("encode")
        return FakeContext(observation.instruction, np.ones(2, dtype=np.float32), n)

    def prefill(self, context: FakeContext) -> int:
        self.calls.append("prefill")
        return context.number

    def denoise(self, prefix: int, context: FakeContext, noise: FloatArray, n_steps: int) -> FloatArray:
        assert prefix == context.number, "a full round reads its own prefix"
        self.calls.append(f"denoise {n_steps}")
        self.noises.append(noise)
        self.n_full += 1
        return chunk(self.n_full / 100)

    def inpaint(self, prefix: int, context: FakeContext, noise: FloatArray, n_steps: int, guide: Guide) -> FloatArray:
        made = self.denoise(prefix, context, noise, n_steps)
        self.calls[-1] = f"inpaint {n_steps}"
        self.guides.append(guide)
        return made

    def endpoints(
        self, prefix: int, context: FakeContext, drafts: FloatArray, noise: FloatArray, levels: Sequence[float]
    ) -> FloatArray:
        self.calls.append(f"endpoints {prefix}<-{context.number} {len(drafts)}x{len(levels)}")
        self.noises.append(noise)
        self.drafts.append(drafts)
        found = np.repeat(drafts[:, None], len(levels), axis=1)
        found[..., :6] += self.gap
        return found


def chunk(value: float, gripper: float | Sequence[float] = -1.0) -> FloatArray:
    """(H, 7) float32."""
    values = np.full((HORIZON, 7), value, dtype=np.float32)
    values[:, 6] = gripper
    return values


class Scripted:
    """Proposes the same chunks at every round; remembers what it was told."""

    def __init__(self, *chunks: FloatArray, source: str = "scripted") -> None:
        self.chunks, self.source = chunks, source
        self.seen: list[Round] = []

    def reset(self) -> None:
        self.seen.clear()

    def propose(self, context: object, history: object) -> ChunkDraft | None:  # noqa: ARG002
        if not self.chunks:
            return None
        return ChunkDraft(np.stack(self.chunks), self.source, (0.0,) * len(self.chunks))

    def observe(self, came: Round) -> None:
        self.seen.append(came)


def observations(n: int, seed: int = 0) -> list[Observation]:
    return synthetic_observations(n, size_px=8, seed=seed)
