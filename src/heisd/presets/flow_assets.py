"""What presets of flow-matching policies are built from: the policy, how it is sampled, and what lies beside it."""

from pathlib import Path
from typing import Any

from heisd.errors import BadInput
from heisd.policies.config import MAX_EXECUTED, SamplingConfig
from heisd.policies.drafter_bundle import load_draft_head
from heisd.policies.flow.draft_head import DraftHeadRuntime
from heisd.policies.flow.policy import FlowPolicy
from heisd.presets.assets import Beside, place_of
from heisd.propose import registry
from heisd.propose.base import ChunkProposer


class FlowAssets(Beside):
    """Everything of one flow-matching policy on one suite. Engines built from the same object share weights."""

    def __init__(
        self,
        target: FlowPolicy,
        policy: Path,
        suite: str,
        *,
        sampling: SamplingConfig | None = None,
        calibration: Path | None = None,
        delay_steps: int = 0,
    ) -> None:
        """``policy`` is the directory that ``target`` was loaded from; ``sampling`` replaces what its bundle says.

        ``delay_steps`` is how many control steps a round takes where presets do not wait for it.
        """
        super().__init__(target.codec, policy, suite, calibration)
        self.target = target
        self.sampling = target.config.sampling if sampling is None else sampling
        self._delay_steps = delay_steps
        self._draft_head: DraftHeadRuntime | None = None

    def delay(self, is_delayed: bool) -> int:
        """Control steps that a preset's rounds are computed behind; 0 for one that waits for them."""
        return self._delay_steps if is_delayed else 0

    def proposer(self, name: str, **options: Any) -> ChunkProposer:
        """A fresh proposer with its store or weights; BadArtifact when those are missing or of another policy."""
        if name == "retrieval":
            options = {"store": self.store(), **options}
        if name == "draft_head":
            options = {"drafter": self.draft_head(), **options}
        return registry.create_chunk(name, self.codec, self.target.horizon, **options)

    def draft_head(self) -> DraftHeadRuntime:
        """The policy's draft head."""
        if self._draft_head is None:
            self._draft_head = load_draft_head(place_of(self.policy, self.suite, "draft_head").parent, self.target)
        return self._draft_head


def calm_executed(executed: int, horizon: int, delay_steps: int = 0) -> int:
    """Of a chunk that leaves the gripper alone half as many actions again are executed, as far as there are any."""
    return max(executed, min(executed * 3 // 2, MAX_EXECUTED, horizon - delay_steps))


def chosen_sampling(
    bundled: SamplingConfig, horizon: int, euler_steps: int | None = None, executed: int | None = None
) -> SamplingConfig:
    """What a bundle says, with the numbers that are given in its place. Raises BadInput for numbers that cannot be."""
    if euler_steps is not None and not 1 <= euler_steps <= 100:
        raise BadInput(f"--euler-steps is 1 to 100; got {euler_steps}")
    most = min(horizon, MAX_EXECUTED)
    if executed is not None and not 1 <= executed <= most:
        raise BadInput(f"--executed is 1 to {most} of a chunk's {horizon} actions; got {executed}")
    given = {"euler_steps": euler_steps, "executed": executed}
    return bundled.model_copy(update={name: value for name, value in given.items() if value is not None})
