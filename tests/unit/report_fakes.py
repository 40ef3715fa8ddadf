"""A timed run of three methods that skip, verify and decode, over the toy world; its times are made up."""
# ruff: noqa: ARG001  (the signatures are the protocol's)

from dataclasses import replace
from pathlib import Path

import numpy as np
import toy_world

from heisd.bench import replay, rollout
from heisd.bench.evaluate import Setting, evaluate
from heisd.bench.rollout import WorldFactory
from heisd.types import Action, Observation, StepRecord

METHODS = ("ar", "exact", "hybrid")
SKIPPED = StepRecord(0, 4.0, {"encode": 3.0, "propose": 1.0}, 0, {"skipped": 7}, route="skip", reason="tolerant motion",
                     score=0.93)  # fmt: skip
VERIFIED = StepRecord(0, 10.0, {"encode": 3.0, "prefill": 5.0, "accept": 2.0}, 3, {"accepted": 4, "decoded": 3},
                      verifications=((0, 4),), n_drafted=7, kept_by_source={"parallel": 4},
                      reason="score below threshold", score=0.2)  # fmt: skip
PLAIN = StepRecord(0, 16.0, {"encode": 3.0, "prefill": 5.0, "decode": 8.0}, 7, {"decoded": 7})


class ThreeAgent(toy_world.ToyAgent):
    """``ar`` decodes, ``exact`` verifies, ``hybrid`` skips every second step. The gripper closes at step 4."""

    def __init__(self, method: str) -> None:
        super().__init__(1.0)
        self.method = method

    def act(self, obs: Observation) -> tuple[Action, StepRecord]:
        action, _ = super().act(obs)
        values = np.asarray(action.values).copy()
        values[-1] = 1.0 if self.step > 4 else -1.0
        record = PLAIN if self.method == "ar" else SKIPPED if self.method == "hybrid" and self.step % 2 else VERIFIED
        return Action(values, action.tokens, action.origins), replace(record, step=self.step)


class ThreeWorld(toy_world.ToyWorld):
    def agent(self, method: str) -> ThreeAgent:
        return ThreeAgent(method)


def three_world(config: object, *, n_threads: int | None) -> ThreeWorld:
    return ThreeWorld()


def play(out: Path, monkeypatch, world: WorldFactory = three_world, **changes: object) -> dict:
    """An evaluation whose clock shows what the records say."""

    def timed(agent: toy_world.ToyAgent, observation: Observation) -> replay.Timed:
        action, record = agent.act(observation)
        return replay.Timed(action, record, record.latency_ms, record.latency_ms / 500)

    monkeypatch.setattr(rollout, "timed", timed)
    monkeypatch.setattr(replay, "timed", timed)
    settings = {"methods": METHODS, "timing": True, "videos": 1, **changes}
    return evaluate(toy_world.config(**settings), out, Setting(2, world, toy_world.SETTING_PROVENANCE))
