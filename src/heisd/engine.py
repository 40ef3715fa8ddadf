"""The loop that turns one observation into one action. Every stage has the name of the module that does it.

    observation -> encode -> prefill -> decode -> act -> action          (every stage -> telemetry)

Speculation enters between encode and decode: a proposer's tree goes into ``prefill`` or ``extend``, and what is
accepted is kept. Without a proposer each token is a tree of one node.
"""

from collections import Counter
from functools import lru_cache
from typing import Generic

import numpy as np

from heisd.policies.protocol import CacheT, ContextT, TargetPolicy
from heisd.telemetry import Clock, NullSink, Sink
from heisd.types import Action, Observation, StepRecord, TokenOrigin, TokenTree

_ROOT = (0,)  # the path of a one-node tree


class Engine(Generic[ContextT, CacheT]):
    """Plain greedy decoding of a target policy, timed on the full clock. One engine serves one robot."""

    def __init__(
        self, target: TargetPolicy[ContextT, CacheT], *, sink: Sink | None = None, clock: Clock | None = None
    ) -> None:
        self.target = target
        self.sink: Sink = NullSink() if sink is None else sink
        self._clock = Clock() if clock is None else clock
        self._step = 0

    def reset(self) -> None:
        """Begin an episode."""
        self._step = 0

    def act(self, observation: Observation) -> Action:
        """One control step: 7 tokens, the first from the prefill, each other from one forward of its own."""
        clock = self._clock
        clock.start()
        with clock("encode"):
            context = self.target.encode(observation)
        with clock("prefill"):
            cache, _ = self.target.prefill(context)
        with clock("decode"):
            tokens, margins = self._decode(cache)
        with clock("act"):
            action = self._action(tokens)
        self._record(action, clock.stop(), margins)
        return action

    def _decode(self, cache: CacheT) -> tuple[list[int], list[float]]:
        tokens, margins = [cache.next_token], [cache.margin]
        while len(tokens) < self.target.codec.length:
            self.target.extend(cache, _single(tokens[-1]))
            cache.keep(_ROOT)
            tokens.append(cache.next_token)
            margins.append(cache.margin)
        return tokens, margins

    def _action(self, tokens: list[int]) -> Action:
        ids = np.asarray(tokens, dtype=np.int64)
        return Action(self.target.codec.decode(ids), ids, (TokenOrigin.DECODED,) * len(tokens))

    def _record(self, action: Action, latency_ms: float, margins: list[float]) -> None:
        origins = {str(origin): n for origin, n in Counter(action.origins).items()}
        record = StepRecord(self._step, latency_ms, self._clock.stage_ms, len(action.tokens), origins, tuple(margins))
        self._step += 1
        self.sink.emit(record)


@lru_cache(maxsize=4096)
def _single(token: int) -> TokenTree:
    """A tree of one node; building one costs as much as a matrix product, and few tokens ever occur."""
    return TokenTree.chain(np.asarray([token]))
