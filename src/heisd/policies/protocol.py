"""What the engine asks of a target policy. Any object with these members can be accelerated."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from heisd.codec import ActionCodec
from heisd.policies.guidance import Guide
from heisd.types import FloatArray, Observation, Scores, TokenTree


class Cache(Protocol):
    """The target's memory of one control step."""

    next_token: int  # greedy token behind the last committed position
    margin: float  # its logit minus the runner-up's

    def keep(self, path: Sequence[int]) -> None:
        """Commit exactly this path of the tree scored last; every other node is forgotten."""
        ...


class Context(Protocol):
    """One encoded observation, before the language model has seen it."""

    @property
    def instruction(self) -> str:
        """What the robot was told to do."""
        ...

    @property
    def vision_key(self) -> FloatArray:
        """(K,) float32 description of the images, for retrieval."""
        ...


ContextT = TypeVar("ContextT", bound=Context)
CacheT = TypeVar("CacheT", bound=Cache)


class TargetPolicy(Protocol[ContextT, CacheT]):
    """Three calls; ``prefill`` and ``extend`` are one language-model forward each.

    A policy may have a fourth, :class:`Refreshing`.
    """

    @property
    def codec(self) -> ActionCodec:
        """Tokens <-> actions."""
        ...

    def encode(self, observation: Observation) -> ContextT:
        """Images, proprioception and prompt -> prefix embeddings."""
        ...

    def prefill(self, context: ContextT, tree: TokenTree | None = None) -> tuple[CacheT, Scores]:
        """Read the prefix, scoring ``tree`` behind it in the same forward. The next prefill reuses the cache."""
        ...

    def extend(self, cache: CacheT, tree: TokenTree) -> Scores:
        """Score ``tree`` behind the committed positions. Nothing is committed until ``cache.keep``.

        Where rounding could decide between two tokens, :class:`Scores` says so, or ``exact`` is exact up to rounding.
        """
        ...


@runtime_checkable
class Refreshing(Protocol):
    """What a policy offers whose contexts can do with older pictures: a skip may then go without the vision towers."""

    def refreshed(self, context: Any, observation: Observation) -> Any:
        """The pictures of ``context`` with all else of ``observation``: its proprioception, its instruction."""
        ...


PrefixT = TypeVar("PrefixT")


class ChunkContext(Context, Protocol):
    """One encoded observation of a chunk policy."""

    @property
    def prefix_similarity(self) -> float:
        """Of the picture to the cached prefix's, by the camera that changed most: 1 the same; NaN: nothing cached."""
        ...


ChunkContextT = TypeVar("ChunkContextT", bound=ChunkContext)


class ChunkPolicy(Protocol[ChunkContextT, PrefixT]):
    """A policy that denoises chunks of actions. Chunks are normalised (``ActionCodec.normalise_chunk``), float32."""

    @property
    def codec(self) -> ActionCodec:
        """Normalised chunks <-> actions; tokens are the bins that numbers fall in."""
        ...

    @property
    def horizon(self) -> int:
        """H, actions of a chunk."""
        ...

    @property
    def max_chunks(self) -> int:
        """Drafts times noise levels that one call of ``endpoints`` has room for."""
        ...

    def encode(self, observation: Observation) -> ChunkContextT:
        """Images, prompt and state, before the language model has seen them."""
        ...

    def prefill(self, context: ChunkContextT) -> PrefixT:
        """Cache the prefix; it stays until the next prefill."""
        ...

    def denoise(self, prefix: PrefixT, context: ChunkContextT, noise: FloatArray, n_steps: int) -> FloatArray:
        """A chunk (H, T) from noise (H, T), with the state of ``context``."""
        ...

    def endpoints(
        self,
        prefix: PrefixT,
        context: ChunkContextT,
        drafts: FloatArray,
        noise: FloatArray,
        levels: Sequence[float],
    ) -> FloatArray:
        """Where drafts (C, H, T) should be, (C, K, H, T), by one forward: each noised to K levels and taken back.

        ``noise`` is (H, T), shared by all levels, or (K, H, T).
        """
        ...


@runtime_checkable
class Inpaints(Protocol):
    """What a chunk policy has beside that if its chunks may come late (RTC)."""

    def inpaint(self, prefix: Any, context: Any, noise: FloatArray, n_steps: int, guide: Guide) -> FloatArray:
        """A chunk (H, T) as ``denoise`` makes it, pulled towards ``guide``."""
        ...
