"""A target policy, with a look at every answer and at what it was given. Part of :mod:`heisd.testing.target`."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from heisd.errors import BrokenContract
from heisd.policies.protocol import Cache, Context, TargetPolicy
from heisd.types import Observation, Scores, TokenTree

T = TypeVar("T")
Path = tuple[int, ...]  # vocabulary ids behind the prefix, or nodes of a tree


class Reading(NamedTuple):
    """What the target says behind a path."""

    token: int
    margin: float


class Watched:
    """Calls a policy; whatever is not as its protocol says raises BrokenContract, which names the clause."""

    def __init__(self, policy: TargetPolicy[Any, Any]) -> None:
        self.policy, self.codec = policy, policy.codec
        self.who = f"policy {type(policy).__name__}"

    def require(self, is_kept: "bool | np.bool[bool]", clause: str, found: object) -> None:
        """Raise BrokenContract unless ``clause`` is kept."""
        if not is_kept:
            raise BrokenContract(self.who, clause, str(found))

    def encode(self, observation: Observation) -> Context:
        """The context of an observation."""
        before = _content(observation)
        context: Context = self._call("encode", partial(self.policy.encode, observation))
        self.require(_content(observation) == before, "encode changes nothing it is given", "another observation")
        told = getattr(context, "instruction", None)
        self.require(told == observation.instruction, "context.instruction is the observation's", repr(told))
        key = getattr(context, "vision_key", None)
        is_vector = isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype == np.float32
        found = f"{key.dtype} {key.shape}" if isinstance(key, np.ndarray) else type(key).__name__
        self.require(is_vector, "context.vision_key is a float32 vector of numpy", found)
        self.require(np.isfinite(context.vision_key).all(), "context.vision_key is finite", "NaN or infinity")
        return context

    def prefill(self, context: Context, tree: TokenTree | None = None) -> tuple[Cache, Scores]:
        """Read the prefix, with ``tree`` in the same forward."""
        answer = self._call("prefill", partial(self.policy.prefill, context, tree), tree)
        is_pair = isinstance(answer, tuple) and len(answer) == 2
        self.require(is_pair, "prefill returns a cache and Scores", type(answer).__name__)
        cache, scores = answer
        self.require(callable(getattr(cache, "keep", None)), "a cache has keep(path)", type(cache).__name__)
        self._look_at(cache, scores, 0 if tree is None else len(tree.tokens))
        return cache, scores

    def extend(self, cache: Cache, tree: TokenTree) -> Scores:
        """Score ``tree`` behind the committed positions."""
        behind = cache.next_token
        scores: Scores = self._call("extend", partial(self.policy.extend, cache, tree), tree)
        self._look_at(cache, scores, len(tree.tokens))
        clause = "extend leaves next_token at the token behind the committed positions"
        self.require(scores.next_token == behind, clause, f"{scores.next_token} instead of {behind}")
        return scores

    def keep(self, cache: Cache, nodes: Path) -> Reading:
        """Commit a path of the tree scored last, and read what comes behind it."""
        self._call("keep", partial(cache.keep, nodes))
        self._look_at_token(cache.next_token, "cache.next_token")
        self._look_at_margin(cache.margin, "cache.margin")
        return Reading(cache.next_token, cache.margin)

    def _call(self, name: str, call: Callable[[], T], tree: TokenTree | None = None) -> T:
        before = None if tree is None else (tree.tokens.tolist(), tree.parents.tolist())
        try:
            answer = call()
        except Exception as error:  # whatever it is, the author wants to be told by name
            raise BrokenContract(self.who, f"{name} never raises", f"{type(error).__name__}: {error}") from error
        after = None if tree is None else (tree.tokens.tolist(), tree.parents.tolist())
        self.require(before == after, f"{name} does not change the tree", after)
        return answer

    def _look_at(self, cache: Cache, scores: Scores, n_nodes: int) -> None:
        self.require(isinstance(scores, Scores), "a forward returns heisd.types.Scores", type(scores).__name__)
        self._look_at_token(scores.next_token, "next_token")
        self._look_at_margin(scores.margin, "margin")
        said = scores.node_next
        is_right = isinstance(said, np.ndarray) and said.shape == (n_nodes,) and np.issubdtype(said.dtype, np.integer)
        found = f"{said.dtype} {said.shape}" if isinstance(said, np.ndarray) else type(said).__name__
        self.require(is_right, f"node_next is {n_nodes} integers, one for every node", found)
        for token in said.tolist():
            self._look_at_token(token, "node_next")
        same = getattr(cache, "next_token", None) == scores.next_token
        self.require(same, "cache.next_token is the scores' next_token", f"not {scores.next_token}")

    def _look_at_token(self, token: object, name: str) -> None:
        is_id = isinstance(token, (int, np.integer)) and 0 <= token < self.codec.vocab_size
        self.require(is_id, f"{name} is an id of the vocabulary, 0 to {self.codec.vocab_size - 1}", repr(token))

    def _look_at_margin(self, margin: object, name: str) -> None:
        is_right = isinstance(margin, (int, float, np.floating)) and 0 <= margin < np.inf
        self.require(is_right, f"{name} is a finite number of 0 or more", repr(margin))


def _content(observation: Observation) -> dict[str, bytes]:
    images = {f"images.{name}": image.tobytes() for name, image in observation.images.items()}
    state = observation.proprio
    return images | {field.name: np.asarray(getattr(state, field.name)).tobytes() for field in fields(state)}
