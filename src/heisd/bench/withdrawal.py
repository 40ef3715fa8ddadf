"""What became of skips when something changed: counted around the onset of a shift, per episode and over a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from heisd.bench.stats import distribution
from heisd.route.base import WITHDRAWALS
from heisd.types import StepRecord, TokenOrigin

_REASONS = frozenset(map(str, WITHDRAWALS))


class WithdrawalCounts:
    """One episode; steps before the onset and from it on are counted apart."""

    def __init__(self, onset_step: int) -> None:
        self.onset_step = onset_step
        self.withdrawn_step: int | None = None  # first control step from the onset on at which skips were withdrawn
        self._n_steps, self._n_skips = [0, 0], [0, 0]

    def add(self, step: int, record: StepRecord) -> None:
        """Count the policy's answer at a control step; they come in order."""
        is_after = step >= self.onset_step
        self._n_steps[is_after] += 1
        self._n_skips[is_after] += TokenOrigin.SKIPPED in record.origins
        if is_after and self.withdrawn_step is None and record.reason in _REASONS:
            self.withdrawn_step = step

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the episode's record."""
        return {
            "onset_step": self.onset_step,
            "withdrawn_step": self.withdrawn_step,
            "n_steps_before": self._n_steps[0],
            "n_skips_before": self._n_skips[0],
            "n_steps_after": self._n_steps[1],
            "n_skips_after": self._n_skips[1],
        }


def withdrawal_block(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The sums of a run's episodes, ``None`` without any. An episode that ended before its onset has no wait."""
    if not episodes:
        return None
    began = [episode for episode in episodes if episode["n_steps_after"]]
    waits = [e["withdrawn_step"] - e["onset_step"] for e in began if e["withdrawn_step"] is not None]
    return {
        "n_episodes": len(episodes),
        "n_begun": len(began),  # lived to see the shift
        "n_withdrawn": len(waits),
        "steps_until_withdrawn": distribution(waits),
        "skip_share_before": _share(episodes, "before"),
        "skip_share_after": _share(episodes, "after"),
    }


def _share(episodes: Sequence[Mapping[str, Any]], when: str) -> float | None:
    n_steps = sum(episode[f"n_steps_{when}"] for episode in episodes)
    return sum(episode[f"n_skips_{when}"] for episode in episodes) / n_steps if n_steps else None
