"""Runs of flow presets over the toy world: every preset repeats its own kinds of rounds, and its times are made up."""
# ruff: noqa: ARG001  (the signatures are the protocol's)

from pathlib import Path
from typing import Any

import pytest
import toy_world

from heisd.bench import latency, replay, rollout
from heisd.bench.evaluate import Setting, evaluate
from heisd.types import Action, Observation, RoundRecord, StepRecord, TokenOrigin

NAIVE = RoundRecord(4, n_prefills=10, n_expert_passes=10)
FULL = RoundRecord(4, n_prefills=1, n_expert_passes=5)
KEPT = RoundRecord(4, n_chunks=2, n_judged=4, n_accepted=4, n_expert_passes=1, prefix_age_steps=4, stop="complete",
                   source="draft_head")  # fmt: skip
IN_VAIN = RoundRecord(4, n_chunks=2, n_judged=4, n_prefills=1, n_expert_passes=6, prefix_age_steps=8,
                      stop="over tolerance", source="tail")  # fmt: skip
SKIPPED = RoundRecord(4, source="draft_head", prefix_age_steps=8)
ROUNDS = {  # preset -> its rounds, in turn
    "full": (FULL,), "full_naive": (NAIVE,), "flash": (FULL, KEPT, IN_VAIN), "flash_retrieval": (FULL, SKIPPED, KEPT),
    "flow_hybrid": (FULL, KEPT, SKIPPED, KEPT),
}  # fmt: skip
METHODS = tuple(ROUNDS)
ACT_MS = 0.25  # of every step
_ENCODE, _FULL, _CHECK = {"encode": 4.0}, {"prefill": 4.0, "denoise": 7.75}, {"verify": 2.5, "accept": 0.25}
STAGES = {  # of a round: 16, 40, 8, 19.75 and, without a look, 1.25 ms
    FULL: _ENCODE | _FULL, NAIVE: _ENCODE | {"prefill": 4.0, "denoise": 31.75},
    KEPT: _ENCODE | {"propose": 1.0} | _CHECK, IN_VAIN: _ENCODE | {"propose": 1.0} | _CHECK | _FULL,
    SKIPPED: {"encode": 0.0, "propose": 1.0},
}  # fmt: skip
_ORIGINS = {KEPT: TokenOrigin.RELAXED, SKIPPED: TokenOrigin.SKIPPED}


class ChunkAgent(toy_world.ToyAgent):
    """A chunk of four actions a round."""

    def __init__(self, method: str) -> None:
        super().__init__(1.0)
        self.rounds = ROUNDS.get(method, ROUNDS["flash"])  # of an ablation

    def act(self, obs: Observation) -> tuple[Action, StepRecord]:
        action, _ = super().act(obs)
        step = self.step - 1
        came, every = self.rounds[step // 4 % len(self.rounds)], {"route": 0.0, "act": ACT_MS, "record": 0.0}
        origins = {_ORIGINS.get(came, TokenOrigin.DECODED).value: 7}
        if step % 4:
            return action, StepRecord(step, ACT_MS, every, 0, origins, route="chunk", reason="action in hand")
        stages = STAGES[came] | every
        return action, StepRecord(
            step,
            sum(stages.values()),
            stages,
            came.n_prefills,
            origins,
            route="speculate",
            round=came,
            looked=came is not SKIPPED,
        )


class ChunkWorld(toy_world.ToyWorld):
    def agent(self, method: str) -> ChunkAgent:
        return ChunkAgent(method)


def chunk_world(config: object, *, n_threads: int | None) -> ChunkWorld:
    return ChunkWorld()


def setting(**provenance: Any) -> Setting:
    return Setting(2, chunk_world, toy_world.SETTING_PROVENANCE | provenance)


def play(out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """An evaluation whose clock shows what the records say; timed unless it is asked otherwise."""

    def timed(agent: ChunkAgent, observation: Observation) -> replay.Timed:
        action, record = agent.act(observation)
        return replay.Timed(action, record, record.latency_ms, 0.0)

    monkeypatch.setattr(rollout, "timed", timed)
    monkeypatch.setattr(replay, "timed", timed)
    return evaluate(toy_world.config(**{"methods": METHODS, "timing": True, **changes}), out, setting())


def bench(suite: str, *, slower: float = 1.0) -> dict[str, Any]:
    """What ``heisd bench --json`` says of these presets; all stages ``slower`` times as slow."""
    seen = [toy_world.observation(step / 20, step) for step in range(24)]
    config = latency.BenchConfig(METHODS, suite)
    series = latency.interleave({name: ChunkAgent(name) for name in METHODS}, seen, steps=96, warmup=0)
    for mine in series.values():
        mine.stage_ms = {name: [slower * ms for ms in values] for name, values in mine.stage_ms.items()}
    return {**latency.summarise(series, config), "suite": suite, "policy": toy_world.SETTING_PROVENANCE["policy"]}
