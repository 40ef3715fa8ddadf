"""A chunk policy over the toy world: ``full`` denoises, every other method also keeps a draft and rejects one."""
# ruff: noqa: ARG001  (the signatures are the protocol's)

import toy_world

from heisd.types import Action, Observation, RoundRecord, StepRecord, TokenOrigin

FULL = RoundRecord(4, n_prefills=1, n_expert_passes=5)
KEPT = RoundRecord(4, n_chunks=2, n_judged=4, n_accepted=4, n_expert_passes=1, prefix_age_steps=4, stop="complete",
                   source="draft_head")  # fmt: skip
IN_VAIN = RoundRecord(4, n_chunks=2, n_judged=4, n_prefills=1, n_expert_passes=6, prefix_age_steps=8,
                      stop="over tolerance", source="tail")  # fmt: skip


class ChunkAgent(toy_world.ToyAgent):
    """``full`` denoises every fourth step (16 ms); ``flash`` denoises, keeps a draft (8 ms), rejects one (20 ms)."""

    def __init__(self, method: str) -> None:
        super().__init__(1.0)
        self.method = method

    def act(self, obs: Observation) -> tuple[Action, StepRecord]:
        action, _ = super().act(obs)
        step = self.step - 1
        kinds = (FULL,) if self.method == "full" else (FULL, KEPT, IN_VAIN)
        came = kinds[step // 4 % len(kinds)]
        origin = TokenOrigin.RELAXED if came is KEPT else TokenOrigin.DECODED
        ms = {FULL: 16.0, KEPT: 8.0, IN_VAIN: 20.0}[came]
        if step % 4:
            record = StepRecord(step, 0.25, {"act": 0.25}, 0, {origin.value: 7}, route="chunk", reason="action in hand")
        else:
            stages = {"encode": 4.0, "denoise": ms - 4.0}
            record = StepRecord(step, ms, stages, came.n_prefills, {origin.value: 7}, route="speculate", round=came)
        return action, record


class ChunkWorld(toy_world.ToyWorld):
    def agent(self, method: str) -> ChunkAgent:
        return ChunkAgent(method)


def chunk_world(config: object, *, n_threads: int | None) -> ChunkWorld:
    return ChunkWorld()
