"""Does a chunk policy keep its contract? See :func:`check_chunk_policy`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from heisd.acceleration_chunks import check_chunk_members
from heisd.errors import BadInput, BrokenContract
from heisd.policies.guidance import Guide
from heisd.policies.protocol import ChunkPolicy, Inpaints, Refreshing
from heisd.testing.watched import Watched
from heisd.types import FloatArray, Observation

EULER_STEPS = 3
LEVELS = (0.4, 0.1, 0.05)
GENTLE = 0.5  # bound on the guidance: larger ones may overshoot in a network that was never trained


def check_chunk_policy(
    policy: ChunkPolicy[Any, Any], observations: Sequence[Observation], *, atol: float = 1e-3, seed: int = 0
) -> None:
    """Hold what ``policy`` says about drafts against what it says alone, and its noise levels against each other.

    Checked: its members and its codec; ``encode`` is deterministic and changes nothing; chunks are (H, T), float32 and
    finite; the same noise gives the same chunk, also after another observation was prefilled, and no argument is
    changed; drafts and levels checked in one call, up to ``max_chunks`` of them, get the endpoints that they get alone;
    a noise for every level may be the same for all; at t = 1, where nothing of a draft is left, an endpoint is the
    chunk of one Euler step (so t = 1 is noise and the velocity points from the actions to it); an older prefix serves a
    later observation; a check leaves the prefix as it was; without a weight ``inpaint``, if there is one, denoises;
    ``refreshed``, if there is one, gives back what ``encode`` gave, with the prefix_similarity of the new pictures.
    Some 30 passes of the action expert an observation. Half precision needs a larger ``atol``.

    Args:
        policy: what to check.
        observations: at least two, different ones.
        atol: how far two answers may be apart, in normalised units.
        seed: of noise and drafts.

    Raises:
        BrokenContract: names the clause that is broken and what was found.
        BadInput: there are fewer than two observations.
    """
    check_chunk_members(policy)
    if len(observations) < 2:
        raise BadInput(f"check_chunk_policy got {len(observations)} observations; give two different ones or more")
    check = _Check(policy, atol, np.random.default_rng(seed))
    for observation, other in zip(observations, [*observations[1:], observations[0]], strict=True):
        check.denoising(observation, other)
        check.endpoints(observation, other)
        if isinstance(policy, Inpaints):
            check.in_painting(observation)
        if isinstance(policy, Refreshing):
            check.refreshing(observation, other)


class _Check:
    """The clauses for one policy."""

    def __init__(self, policy: Any, atol: float, rng: np.random.Generator) -> None:
        self._policy, self._atol, self._rng = policy, atol, rng
        self._watched = Watched(cast(Any, policy))
        self._shape = (policy.horizon, policy.codec.length)

    def denoising(self, observation: Observation, other: Observation) -> None:
        """Chunks are what they should be, and depend on observation and noise alone."""
        context, noise = self._encode(observation), self._noise()
        first = self._denoise(self._prefill(context), context, noise)
        self._same("the same noise gives the same chunk", self._denoise(self._prefill(context), context, noise), first)
        again = self._encode(observation)
        self._same("encode is deterministic", self._denoise(self._prefill(again), again, noise), first)
        self._prefill(self._encode(other))
        self._same("a prefill starts fresh", self._denoise(self._prefill(context), context, noise), first)
        similarity = self._encode(observation).prefix_similarity
        is_same = np.isnan(similarity) or similarity > 1 - self._atol
        self._watched.require(bool(is_same), "prefix_similarity is 1 for the prefix's own picture", similarity)

    def endpoints(self, observation: Observation, other: Observation) -> None:
        """Many chunks at once are each as if alone; at t = 1 they are one Euler step."""
        context, noise = self._encode(observation), self._noise()
        prefix = self._prefill(context)
        n = self._policy.max_chunks
        levels = LEVELS[: max(min(len(LEVELS), n // 2), 1)]
        drafts = 0.5 * self._noise(max(n // len(levels), 1))
        before = self._denoise(prefix, context, noise)
        together = self._endpoints(prefix, context, drafts, noise, levels)
        for c in range(len(drafts)):
            for k, level in enumerate(levels):
                alone = self._endpoints(prefix, context, drafts[c : c + 1], noise, (level,))[0, 0]
                self._same("drafts and levels in one call are each as if alone", together[c, k], alone)
        of_each = np.repeat(noise[None], len(levels), axis=0)
        found = self._endpoints(prefix, context, drafts, of_each, levels)
        self._same("noise is (H, T), shared, or (K, H, T), one for every level", found, together)
        at_noise = self._endpoints(prefix, context, drafts[:1], noise, (1.0,))[0, 0]
        one_step = self._denoise(prefix, context, noise, n_steps=1)
        self._same("at t = 1 an endpoint is the chunk of one Euler step", at_noise, one_step)
        self._endpoints(prefix, self._encode(other), drafts, noise, levels)  # an older prefix, the state of now
        self._same("a check leaves the prefix as it was", self._denoise(prefix, context, noise), before)

    def in_painting(self, observation: Observation) -> None:
        """Nothing to agree with is plain denoising; a whole weight moves the chunk towards what is wanted."""
        context, noise, wanted = self._encode(observation), self._noise(), self._noise()
        prefix = self._prefill(context)
        plain = self._denoise(prefix, context, noise)
        nothing, all_of_it = (np.full(self._shape[0], weight, dtype=np.float32) for weight in (0.0, 1.0))
        call = partial(self._policy.inpaint, prefix, context, noise, EULER_STEPS)
        free = self._chunk("inpaint", partial(call, Guide(wanted, nothing)), noise, self._shape)
        self._same("inpaint without a weight denoises", free, plain)
        bound = self._chunk("inpaint", partial(call, Guide(wanted, all_of_it, GENTLE)), noise, self._shape)
        is_nearer = np.linalg.norm(bound - wanted) < np.linalg.norm(plain - wanted)
        self._watched.require(bool(is_nearer), "inpaint moves a chunk towards what is wanted", "one further away")

    def refreshing(self, observation: Observation, other: Observation) -> None:
        """Nothing is older in it than in the context itself; how much the scene has changed is told of today's."""
        context, noise = self._encode(observation), self._noise()
        expected = self._denoise(self._prefill(context), context, noise)
        again = self._call("refreshed", partial(self._policy.refreshed, context, observation))
        found = self._denoise(self._prefill(again), again, noise)
        self._same("refreshed(encode(o), o) is encode(o)", found, expected)
        later = self._call("refreshed", partial(self._policy.refreshed, context, other))
        seen = np.asarray([later.prefix_similarity, self._encode(other).prefix_similarity])
        is_same = bool(np.isnan(seen).all()) or abs(float(seen[0] - seen[1])) <= self._atol
        self._watched.require(is_same, "refreshed tells the prefix_similarity of the new pictures", float(seen[0]))

    def _encode(self, observation: Observation) -> Any:
        context: Any = self._watched.encode(observation)
        similarity = getattr(context, "prefix_similarity", None)
        is_number = isinstance(similarity, (float, np.floating))
        self._watched.require(is_number, "context.prefix_similarity is a float, NaN without a prefix", similarity)
        return context

    def _prefill(self, context: Any) -> Any:
        return self._call("prefill", partial(self._policy.prefill, context))

    def _denoise(self, prefix: Any, context: Any, noise: FloatArray, n_steps: int = EULER_STEPS) -> FloatArray:
        call = partial(self._policy.denoise, prefix, context, noise, n_steps)
        return self._chunk("denoise", call, noise, self._shape)

    def _endpoints(
        self, prefix: Any, context: Any, drafts: FloatArray, noise: FloatArray, levels: Sequence[float]
    ) -> FloatArray:
        call = partial(self._policy.endpoints, prefix, context, drafts, noise, levels)
        before = drafts.copy()
        found = self._chunk("endpoints", call, noise, (len(drafts), len(levels), *self._shape))
        self._watched.require(np.array_equal(before, drafts), "endpoints changes nothing it is given", "other drafts")
        return found

    def _chunk(
        self, name: str, call: Callable[[], FloatArray], noise: FloatArray, shape: tuple[int, ...]
    ) -> FloatArray:
        before = noise.copy()
        made: FloatArray = self._call(name, call)
        is_right = isinstance(made, np.ndarray) and made.shape == shape and made.dtype == np.float32
        found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
        self._watched.require(is_right, f"{name} returns float32 {shape}", found)
        self._watched.require(bool(np.isfinite(made).all()), f"{name} returns finite numbers", "NaN or infinity")
        self._watched.require(np.array_equal(before, noise), f"{name} changes nothing it is given", "another noise")
        return made.copy()

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever it is, the author wants to be told by name
            raise BrokenContract(
                self._watched.who, f"{name} never raises", f"{type(error).__name__}: {error}"
            ) from error

    def _noise(self, *n: int) -> FloatArray:
        return self._rng.standard_normal((*n, *self._shape), dtype=np.float32)

    def _same(self, clause: str, found: FloatArray, expected: FloatArray) -> None:
        apart = float(np.abs(found - expected).max())
        self._watched.require(apart <= self._atol, clause, f"numbers up to {apart:.3g} apart")
