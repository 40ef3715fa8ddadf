"""Watching plain decoding: the target drives, and beside it everybody says what they would have guessed.

The observing engine is the plain one with a router that asks the scouts, writes down what they say and then decodes in
full, so that its actions are plain decoding's and its drafts those a preset would have had in the same state.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.glances import Glances
from heisd.bench.libero_world import EngineAgent, LiberoWorld, load_assets
from heisd.bench.observed import RowWriter
from heisd.bench.replay import Agent
from heisd.bench.rollout import Env, World
from heisd.codec import GRIPPER, ActionCodec
from heisd.config import EvalConfig
from heisd.engine import Engine
from heisd.kinematics import PhaseSignal
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.policies.manifest import sha256_of
from heisd.policies.protocol import Context, Refreshing
from heisd.presets.skippers import ALL_SKIPPERS, MEMORY, SCOUTS, SKIPPERS, Scout, Skipper
from heisd.propose.base import History
from heisd.route.base import Memory, Outcome, Plan, Reason, Route, RouteKind, counted
from heisd.route.calibrated import GRIPPER_MARGIN_STEPS, is_gripper_near, motion_distance_bins, skip_features
from heisd.route.motion import read_motion
from heisd.sim.dataset import flatten_proprio
from heisd.sim.splits import EpisodeStart
from heisd.telemetry import Sink
from heisd.types import Draft, FloatArray, Observation
from heisd.watch import DEFAULT

log = logging.getLogger(__name__)


def present_scouts(policy: Path, suite: str, known: Mapping[str, Scout] = SCOUTS) -> dict[str, str]:
    """Scouts whose files are there, with the hash of the manifest they are known by ("" for those without files)."""
    from heisd.presets.assets import place_of

    places = {
        name: None if scout.needs is None else place_of(policy, suite, scout.needs) for name, scout in known.items()
    }
    return {
        name: "" if path is None else sha256_of(path) for name, path in places.items() if path is None or path.is_file()
    }


def observable(
    presets: Sequence[str], scouts: Mapping[str, str], known: Mapping[str, Scout] = SCOUTS
) -> tuple[str, ...]:
    """The presets all of whose scouts are there; a warning names each of the others and what it lacks."""
    chosen = []
    for preset in presets:
        missing = [name for name in ALL_SKIPPERS[preset].scouts if name not in scouts]
        if missing:
            needs = ", ".join(str(known[name].needs) for name in missing)
            log.warning("%s is left out: there is no %s for this policy", preset, needs)
        else:
            chosen.append(preset)
    return tuple(chosen)


class Witness:
    """A router that asks every scout, decides nothing, and writes one row per control step.

    Unlike the routers that decide, it keeps the step under way between its calls: one witness serves one engine.
    The fused metric in its features is provisional; whoever fits a score computes it anew from ranges fitted to the
    same episodes. ``glances`` speaks for the presets that skip without looking; without it they have no case.
    """

    def __init__(
        self,
        codec: ActionCodec,
        scouts: Sequence[str],
        presets: Sequence[str],
        write: Callable[[dict[str, Any]], None],
        glances: Glances[Draft] | None = None,
    ) -> None:
        self._codec, self._scouts, self._presets, self._write = codec, tuple(scouts), tuple(presets), write
        self._glances = glances
        self._row: dict[str, Any] = {}
        self._best: dict[str, tuple[int, ...]] = {}  # proposer -> its best whole guess
        self._glanced: dict[str, tuple[int, ...]] = {}  # preset -> what it would have guessed without a look

    def begin(self) -> Memory:
        """Nothing executed yet."""
        if self._glances is not None:
            self._glances.reset()
        return Memory()

    def see(self, observation: Observation, memory: Memory) -> Memory:
        """What the cameras say."""
        self._observation = observation
        return replace(memory, sight=DEFAULT.see(memory.sight, observation))

    def read(self, history: History) -> PhaseSignal | None:
        """Speed, F and gripper events; remembers what the arm felt."""
        self._row, self._history = {"proprio": flatten_proprio(history.proprioception[-1]).tolist()}, history
        return read_motion(history, ONLOOKER)

    def plan(self, phase: PhaseSignal | None, memory: Memory) -> Plan:  # noqa: ARG002 (the protocol's)
        """Everybody, before the decision."""
        return Plan(self._scouts)

    def decide(self, context: Context, phase: PhaseSignal | None, drafts: Sequence[Draft], memory: Memory) -> Route:
        """Decode in full; remembers what was said."""
        assert phase is not None, "read() makes a signal at every step"
        whole = [draft for draft in drafts if len(draft.chains[0]) == self._codec.length]
        self._best = {draft.source: draft.chains[0] for draft in whole}
        similarity = next((d.evidence.get("similarity", math.nan) for d in drafts if d.source == MEMORY), math.nan)
        self._row |= {
            "step": memory.step,
            "similarity": _finite(similarity),
            "views": {camera: asdict(seen.view) for camera, seen in memory.sight.looks.items()},
            "cases": {
                preset: case
                for preset in self._presets
                if SKIPPERS[preset].looks and (case := _case(SKIPPERS[preset], drafts, phase, memory)) is not None
            },
        }
        self._glanced = {}
        if self._glances is not None:
            self._add_glance(self._glances, phase, memory)
            self._glances.looked(context)
        return Route(RouteKind.FULL, Reason.ALWAYS)

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        """Write the row, now that the target has spoken."""
        action = self._codec.decode(np.asarray(outcome.tokens))

        def beside(tokens: tuple[int, ...]) -> dict[str, Any]:
            return {
                "tokens": list(tokens),
                "distance_bins": motion_distance_bins(tokens, outcome.tokens),
                # Ids that decode to one command are the same gripper.
                "has_same_gripper": bool(self._codec.decode(np.asarray(tokens))[GRIPPER] == action[GRIPPER]),
            }

        for preset, tokens in self._glanced.items():
            self._row["cases"][preset]["guess"] = beside(tokens)
        guesses = {source: beside(tokens) for source, tokens in self._best.items()}
        self._write({**self._row, "action": action.tolist(), "tokens": list(outcome.tokens), "guesses": guesses})
        return replace(counted(memory, outcome), last_tokens=outcome.tokens)

    def _add_glance(self, glances: Glances[Draft], phase: PhaseSignal, memory: Memory) -> None:
        """The cases of presets that skip without looking, whose guess is another than the one at this step's look."""
        if (glance := glances.guess(self._observation, self._history)) is None:
            return
        then = replace(memory, n_skips=glance.n_skips)
        for preset in (name for name in self._presets if not SKIPPERS[name].looks):
            case = _case(SKIPPERS[preset], (glance.draft,), phase, then)
            if case is not None:
                self._row["cases"][preset] = case
                self._glanced[preset] = glance.draft.chains[0]


def _case(skipper: Skipper, drafts: Sequence[Draft], phase: PhaseSignal, memory: Memory) -> dict[str, Any] | None:
    """What a preset's rule would have seen; None where it would have had no guess (the rule's own condition)."""
    mine = [draft for draft in drafts if draft.source in skipper.scouts]
    source = next((draft for draft in mine if draft.source == skipper.source), None)
    if source is None or not memory.last_tokens or len(source.chains[0]) != len(memory.last_tokens):
        return None
    features = skip_features(source, mine, phase, memory)
    return {
        "features": {name: _finite(value) for name, value in features.items()},
        "is_gripper_near": is_gripper_near(source, mine, phase, memory, GRIPPER_MARGIN_STEPS),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class ObservingWorlds:
    """The world factory of an observation. Equal ones compare equal, so a worker process keeps its world."""

    rows: Path  # directory of the rows
    scouts: tuple[str, ...]
    presets: tuple[str, ...]

    def __call__(self, config: EvalConfig, *, n_threads: int | None) -> World:
        """LIBERO's world, watched."""
        return ObservingWorld(LiberoWorld(config, n_threads=n_threads), load_assets(config), self)


class ObservingWorld:
    """A world whose only agent is plain decoding, watched."""

    def __init__(self, inner: World, assets: Any, what: ObservingWorlds) -> None:
        """``assets`` gives ``target`` and ``proposer(name, **options)``, as :class:`heisd.presets.assets.Assets`."""
        self._inner, self._assets, self._what = inner, assets, what
        self._rows = RowWriter(what.rows)
        self._agent: Agent | None = None

    def env(self, task_index: int) -> Env:
        """The environment of a task; its resets name the episode whose rows follow."""
        return _NamedEpisodes(self._inner.env(task_index), self._rows)

    def agent(self, method: str) -> Agent:  # noqa: ARG002 (the protocol's)
        """The watched target, whatever the method is called."""
        if self._agent is None:
            self._agent = EngineAgent(self._engine, self._assets)
        return self._agent

    def close(self) -> None:
        """Close the rows and the world."""
        self._rows.close()
        self._inner.close()

    def _engine(self, assets: Any, sink: Sink | None = None) -> Engine[Any, Any]:
        proposers = {name: assets.proposer(name, **SCOUTS[name].options) for name in self._what.scouts}
        witness = Witness(
            assets.target.codec, self._what.scouts, self._what.presets, self._rows.write, self._glances(assets)
        )
        return Engine(assets.target, proposers=proposers, router=witness, sink=sink)

    def _glances(self, assets: Any) -> Glances[Draft] | None:
        """Whoever guesses for presets that skip without looking; they all go by one drafter."""
        sources = {SKIPPERS[preset].source for preset in self._what.presets if not SKIPPERS[preset].looks}
        if not sources or not isinstance(assets.target, Refreshing):
            return None
        (source,) = sources
        return Glances(assets.target, assets.proposer(source, **SCOUTS[source].options))


class _NamedEpisodes:
    """An environment that tells the rows which episode begins."""

    def __init__(self, inner: Env, rows: RowWriter) -> None:
        self._inner, self._rows = inner, rows

    @property
    def instruction(self) -> str:
        return self._inner.instruction

    def reset(self, start: EpisodeStart) -> tuple[Observation, dict[str, Any]]:
        self._rows.begin(start.key)
        return self._inner.reset(start)

    def step(self, action: FloatArray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        return self._inner.step(action)

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        return self._inner.wait()
