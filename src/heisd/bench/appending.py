"""What a policy verified while an evaluation was played, appended to a copy of its store (``heisd eval --append-to``).

Only train starts, only solved episodes (as ``heisd index build --rollouts``), only steps whose every token was the
target's own choice, and no start twice. The episode is in the store before it is counted as played: a kill in between
has it played again, and the store knows its start by then. What is appended is not looked up by the run itself.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heisd.bench.motion import Onlooker
from heisd.bench.replay import Agent
from heisd.index.inspection import info
from heisd.index.store import VERIFIED, Experience, Store
from heisd.kinematics import Phase
from heisd.policies.proprio import flatten
from heisd.sim.splits import EpisodeStart, require_train
from heisd.types import Action, FloatArray, Observation, StepRecord

MAX_ROWS = 2_000  # appended per task; then the oldest make room
_PHASES = {phase: number for number, phase in enumerate(Phase)}


class SeeingAgent(Agent, Protocol):
    """An agent whose target has vision keys."""

    @property
    def vision_key(self) -> FloatArray:
        """(D,) of the pictures encoded last."""
        ...


class AppendingAgent:
    """``agent``, whose solved episodes are remembered by ``store``. Its answers are the agent's own."""

    def __init__(self, agent: SeeingAgent, store: Store) -> None:
        self._agent, self._store = agent, store
        self._forget()

    def reset(self) -> None:
        """Begin an episode; what was not finished is forgotten."""
        self._agent.reset()
        self._forget()

    def act(self, observation: Observation) -> tuple[Action, StepRecord]:
        """The agent's answer. A step that did not look holds skipped tokens, so that no key is another picture's."""
        action, record = self._agent.act(observation)
        phase = self._onlooker.read(observation.proprio).phase
        if VERIFIED.issuperset(action.origins):
            self._frames.append(self._n_steps)
            self._keys.append(self._agent.vision_key)
            self._proprio.append(flatten(observation.proprio))
            self._phases.append(_PHASES[phase])
            self._actions.append(action)
        self._onlooker.acted(action.values)
        self._n_steps += 1
        return action, record

    def finish(self, start: EpisodeStart, instruction: str, *, is_solved: bool) -> None:
        """The episode is over: on disk when this returns, if it is to be remembered.

        Raises LeakError for a start that is not the train split's, and what :meth:`Store.append` raises.
        """
        require_train(start)
        if is_solved and self._frames and not self._store.remembers(start.key):
            self._store.append(instruction, self._experience(), start.key)
        self._forget()

    def _experience(self) -> Experience:
        return Experience(
            keys=np.stack(self._keys),
            proprio=np.stack(self._proprio),
            frame=np.asarray(self._frames),
            phase=np.asarray(self._phases),
            tokens=np.stack([action.tokens for action in self._actions]),
            origins=[action.origins for action in self._actions],
        )

    def _forget(self) -> None:
        self._onlooker, self._n_steps = Onlooker(), 0
        self._frames: list[int] = []
        self._keys: list[FloatArray] = []
        self._proprio: list[FloatArray] = []
        self._phases: list[int] = []
        self._actions: list[Action] = []


def appended_to(path: Path) -> dict[str, Any]:
    """What a result says of the store that its episodes went to. ``appended_sha256`` is another after every append."""
    store = info(path)
    names = ("path", "store_sha256", "appended_sha256", "n_appended_rows", "n_appended_episodes")
    return {name: getattr(store, name) for name in names}
