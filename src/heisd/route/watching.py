"""Rules that lose a right while the cameras cannot be believed: one mechanism, for tokens and for chunks.

What a rule does then is its own business: a token policy's calibrated skips become checks, a chunk policy's rounds full
ones. For how long is the watch's (:mod:`heisd.watch`).
"""

from dataclasses import replace

from heisd.route.base import Memory, Outcome, Reason
from heisd.types import Observation
from heisd.watch import Alarm, Watch


class Watching:
    """Base of rules that look at the pictures of every decision; without a watch at none."""

    __slots__ = ()

    watch: Watch | None

    def see(self, observation: Observation, memory: Memory) -> Memory:
        """Whether the cameras can be believed."""
        if self.watch is None:
            return memory
        sight = self.watch.see(memory.sight, observation, n_steps=memory.rounds.n_actions)
        return replace(memory, sight=sight)

    def noted(self, memory: Memory, outcome: Outcome) -> Memory:
        """What memory did not know withdraws as an alarm of the pictures does."""
        is_novel = outcome.route.reason is Reason.NOVEL and memory.sight.alarm is None
        if self.watch is None or not is_novel:
            return memory
        return replace(memory, sight=self.watch.alarmed(memory.sight, Alarm.NOVEL))


def withdrawal(memory: Memory) -> Reason | None:
    """The alarm that holds at this step."""
    return None if memory.sight.alarm is None else Reason(memory.sight.alarm.value)
