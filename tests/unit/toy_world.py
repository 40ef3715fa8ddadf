"""A one-dimensional toy world for evaluation tests: reach 1.0 within 20 steps. No simulator, no torch."""
# ruff: noqa: ARG001, ARG002  (the signatures are the protocol's)

import os
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.evaluate import Setting
from heisd.config import EvalConfig
from heisd.sim.splits import EpisodeStart
from heisd.types import Action, Observation, Proprioception, StepRecord, TokenOrigin

STAGES = {"encode": 0.25, "decode": 0.75}
SETTING_PROVENANCE = {"protocol": {"name": "toy"}, "policy": {"name": "toy", "sha256": "0" * 64}}


def observation(position: float, step: int) -> Observation:
    picture = np.full((16, 16, 3), int(40 + 150 * np.clip(position, 0, 1)), dtype=np.uint8)
    proprio = Proprioception(
        np.array([position, 0.0, 0.0]),
        np.array([1.0, 0.0, 0.0, 0.0]),
        np.zeros(2),
        np.zeros(2),
        np.zeros(7),
        np.zeros(7),
    )
    return Observation({"agentview": picture, "wrist": picture[::-1].copy()}, proprio, "reach <the> end", step / 20)


class ToyEnv:
    """Moves by 0.1 x action; odd initial states of task 1 cannot be solved."""

    instruction = "reach <the> end"

    def __init__(self, task_index: int) -> None:
        self.task_index, self.position, self.step_count, self.stuck = task_index, 0.0, 0, False

    def reset(self, start: EpisodeStart) -> tuple[Observation, dict[str, Any]]:
        assert start.init_state is not None
        self.position, self.step_count = 0.001 * start.init_state, 0
        self.stuck = self.task_index == 1 and start.init_state % 2 == 1
        return observation(self.position, 0), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.position += 0.0 if self.stuck else 0.1 * float(action[0])
        return self.wait()

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        success = self.position >= 1.0
        return observation(self.position, self.step_count), float(success), success, self.step_count >= 20, {}


class ToyAgent:
    """Moves forward; ``speed`` tells two methods apart."""

    def __init__(self, speed: float) -> None:
        self.speed, self.step = speed, 0

    def reset(self) -> None:
        self.step = 0

    def act(self, _: Observation) -> tuple[Action, StepRecord]:
        values = np.array([self.speed, 0, 0, 0, 0, 0, -1.0])
        record = StepRecord(self.step, 1.0, dict(STAGES), 7, {TokenOrigin.DECODED.value: 7})
        self.step += 1
        return Action(values, np.zeros(7, dtype=np.int64), (TokenOrigin.DECODED,) * 7), record


class ToyWorld:
    def env(self, task_index: int) -> ToyEnv:
        return ToyEnv(task_index)

    def agent(self, method: str) -> ToyAgent:
        return ToyAgent(1.0 if method == "ar" else 0.9)

    def close(self) -> None:
        pass


class FragileAgent(ToyAgent):
    """Raises once per marker file: a policy whose process trips over something, then recovers."""

    def act(self, obs: Observation) -> tuple[Action, StepRecord]:
        trips = Path(os.environ["TOY_TRIPS"])
        left = int(trips.read_text())
        if left > 0:
            trips.write_text(str(left - 1))
            raise RuntimeError("renderer tripped")
        return super().act(obs)


class FragileWorld(ToyWorld):
    def agent(self, method: str) -> ToyAgent:
        return FragileAgent(1.0)


def toy_world(config: EvalConfig, *, n_threads: int | None) -> ToyWorld:
    return ToyWorld()


def fragile_world(config: EvalConfig, *, n_threads: int | None) -> FragileWorld:
    return FragileWorld()


def setting(factory: Any = toy_world) -> Setting:
    return Setting(n_tasks=2, world_factory=factory, provenance=SETTING_PROVENANCE)


def config(**changes: Any) -> EvalConfig:
    return EvalConfig.model_validate(
        {"suite": "toy", "methods": ("ar",), "split": "validation", "episodes": 4, **changes}
    )
