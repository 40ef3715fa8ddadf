"""Persistence: the previous action once more. The baseline that every filter and every store has to beat."""

from heisd.codec import ActionCodec
from heisd.policies.protocol import Context
from heisd.propose.base import History, Stateless, past_tokens
from heisd.types import Draft


class Persistence(Stateless):
    """Proposes the tokens of the last executed action, gripper included.

    ``score`` ranks the chain among other proposers' when a tree has no room for all.
    """

    def __init__(self, codec: ActionCodec, *, score: float = 0.0) -> None:
        self._codec = codec
        self._score = score

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002 (the protocol's)
        """The last action's tokens behind the settled ones; None without a usable last action."""
        past = past_tokens(history, self._codec, n_steps=1)
        if past is None or len(history.settled) >= self._codec.length:
            return None
        return Draft((tuple(past[-1, len(history.settled) :].tolist()),), "persistence", (self._score,))
