"""FLASH's draft: one block over the present picture, the state and learned queries."""

from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.policies.flow.draft_head import DraftHeadRuntime
from heisd.policies.flow.policy import FlowContext
from heisd.policies.protocol import Context
from heisd.propose.base import History, Stateless
from heisd.types import ChunkDraft


class DraftHeadGuess(Stateless):
    """Proposes the head's chunk at every round. Raises BadInput for a head of another horizon."""

    def __init__(self, codec: ActionCodec, horizon: int, *, drafter: DraftHeadRuntime, score: float = 0.0) -> None:
        if (drafter.config.horizon, drafter.config.action_size) != (horizon, codec.length):
            raise BadInput(f"this draft head makes chunks of {drafter.config.horizon} actions, the policy of {horizon}")
        self._drafter, self._score = drafter, score

    def propose(self, context: Context, history: History) -> ChunkDraft | None:  # noqa: ARG002 (the protocol's)
        """One chunk; None for the context of a policy without prefix embeddings."""
        if not isinstance(context, FlowContext):
            return None
        return ChunkDraft(self._drafter.draft(context)[None], "draft_head", (self._score,))
