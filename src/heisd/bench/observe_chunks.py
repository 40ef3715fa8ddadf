"""Watching plain rounds of a chunk policy: ``full`` drives, and beside it drafts are made and verified, and not used.

What a verification is worth is known beside a second answer of the same policy: the chunk that it denoises in full,
from zero noise, on the same observation. A second policy with a cache of its own verifies behind a prefix that is up
to as many rounds old as ``flow_hybrid`` allows, in turn. Rows are those of :mod:`heisd.bench.observed`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from heisd.accept_chunk import good_actions, path_bins
from heisd.bench.glances import Glance, Glances
from heisd.bench.libero_world import EngineAgent, LiberoWorld, load_assets
from heisd.bench.observe import ObservingWorld, ObservingWorlds
from heisd.bench.replay import Agent
from heisd.bench.rollout import World
from heisd.codec import GRIPPER
from heisd.config import EvalConfig
from heisd.engine import ChunkEngine
from heisd.kinematics import PhaseSignal
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.policies.protocol import Refreshing
from heisd.presets.flash import HYBRID_ROUNDS, LEVELS
from heisd.presets.skippers import CHUNKS, MEMORY, Skipper
from heisd.propose.base import History, Stateless, check_chunk_draft, past_actions
from heisd.propose.panel import Panel
from heisd.route.calibrated import GRIPPER_MARGIN_STEPS
from heisd.route.chunk_skips import chunk_features, guess_of, leaves_gripper
from heisd.route.motion import read_motion
from heisd.sim.dataset import flatten_proprio
from heisd.telemetry import Sink
from heisd.types import Action, ChunkDraft, FloatArray, Observation, Round, StepRecord
from heisd.watch import DEFAULT, NOTHING_SEEN

SEED = 0  # of the noise that drafts are verified with
_NOTHING_CACHED: Any = None
DECIMALS = 5  # of normalised numbers in the rows; a bin is 0.008


class Ear(Stateless):
    """Proposes nothing and hears which chunk every round has made."""

    def __init__(self) -> None:
        self.heard: Round | None = None

    def propose(self, context: Any, history: History) -> None:
        """Nothing."""

    def observe(self, came: Any) -> None:
        """Keep the round."""
        self.heard = came


class ChunkWitness:
    """An agent whose actions are those of ``full``, and who writes down what speculation would have seen."""

    def __init__(
        self, assets: Any, shadow: Any, scouts: Sequence[str], presets: Sequence[str],
        write: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        """``assets`` as :class:`heisd.presets.flow_assets.FlowAssets`; ``shadow`` the same policy, loaded again."""
        self._target, self._shadow, self._sampling = assets.target, shadow, assets.sampling
        self._presets, self._write = tuple(presets), write
        codec, horizon = assets.target.codec, assets.target.horizon
        self._codec = codec
        self._panel: Panel[ChunkDraft] = Panel(
            {name: assets.proposer(name, **CHUNKS.scouts[name].options) for name in scouts},
            lambda draft, _: check_chunk_draft(draft, codec, horizon),
        )
        self._glances = self._glancing(assets)
        self._ear = Ear()
        self._driver = EngineAgent(self._engine, assets)

    def _glancing(self, assets: Any) -> Glances[ChunkDraft] | None:
        """Whoever guesses for presets that skip without looking; they all go by one proposer."""
        sources = {CHUNKS.skippers[name].source for name in self._presets if not CHUNKS.skippers[name].looks}
        if not sources or not isinstance(self._shadow, Refreshing):
            return None
        (source,) = sources
        oldest = max(CHUNKS.skippers[name].n_unseen for name in self._presets)
        return Glances(self._shadow, assets.proposer(source, **CHUNKS.scouts[source].options), oldest + 1)

    def _engine(self, assets: Any, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
        return ChunkEngine(assets.target, sampling=assets.sampling, proposers={"ear": self._ear}, sink=sink)

    def reset(self) -> None:
        """Begin an episode."""
        self._driver.reset()
        self._panel.reset()
        if self._glances is not None:
            self._glances.reset()
        self._history, self._sight = History.empty(self._codec.length), NOTHING_SEEN
        self._step, self._prefix = 0, _NOTHING_CACHED
        self._age_steps = self._age_rounds = 0
        self._n_actions = 1  # of the round before
        self._rng = np.random.default_rng(SEED)

    def act(self, observation: Observation) -> tuple[Action, StepRecord]:
        """The driver's action; its row is written."""
        self._history = self._history.observed(observation.proprio)
        action, record = self._driver.act(observation)
        row: dict[str, Any] = {"similarity": None, "guesses": {}, "cases": {}}
        if record.round is not None:
            row |= self._at_round(observation)
        self._write({
            "step": self._step,
            "proprio": flatten_proprio(observation.proprio).tolist(),
            "action": action.values.tolist(),
            "tokens": action.tokens.tolist(),
            **row,
        })  # fmt: skip
        self._history = self._history.acted(action)
        self._step += 1
        return action, record

    def _at_round(self, observation: Observation) -> dict[str, Any]:
        """What a round that speculates would have seen; no draft's part where there was no prefix or no draft."""
        came = self._ear.heard
        assert came is not None, "the driver has just finished a round"
        self._sight = DEFAULT.see(self._sight, observation, n_steps=self._n_actions)
        self._n_actions = came.record.n_actions
        views = {camera: asdict(look.view) for camera, look in self._sight.looks.items()}
        context = self._shadow.encode(observation)
        drafts = self._panel.propose(context, self._history)
        seen: dict[str, Any] = {"views": views}
        glanced = self._glanced(observation, context)
        if self._prefix is not None and drafts:
            truth = self._truth(observation)
            seen |= {
                "round": self._verified(context, drafts, truth),
                "guesses": {draft.source: self._guess(draft, truth) for draft in drafts},
                "cases": self._cases(drafts, glanced, truth),
                **_similarity(drafts),
            }
        if self._prefix is None or self._age_rounds >= HYBRID_ROUNDS:
            self._prefix = self._shadow.prefill(context)
            self._age_steps = self._age_rounds = 0
        self._panel.observe(came)
        self._age_steps += came.record.n_actions
        self._age_rounds += 1
        return seen

    def _truth(self, observation: Observation) -> FloatArray:
        """(n, T) by the driver's policy, which fills its cache anew in every round."""
        target = self._target
        context = target.encode(observation)
        silence = np.zeros((target.horizon, self._codec.length), dtype=np.float32)
        chunk = target.denoise(target.prefill(context), context, silence, self._sampling.euler_steps)
        return np.asarray(chunk[: self._sampling.executed])

    def _verified(self, context: Any, drafts: Sequence[ChunkDraft], truth: FloatArray) -> dict[str, Any]:
        chunks = np.concatenate([draft.chunks for draft in drafts])[: self._shadow.max_chunks // len(LEVELS)]
        sources = [draft.source for draft in drafts for _ in draft.chunks][: len(chunks)]
        noise = self._rng.standard_normal(chunks.shape[1:], dtype=np.float32)
        found, n = self._shadow.endpoints(self._prefix, context, chunks, noise, LEVELS), self._sampling.executed
        past = past_actions(self._history, 1)
        return {
            "age_steps": self._age_steps,
            "last_gripper": 0.0 if past is None else float(self._codec.normalise_chunk(past)[-1, GRIPPER]),
            "levels": list(LEVELS),
            "truth": _rounded(truth),
            "sources": sources,
            "drafts": _rounded(chunks[:, :n]),
            "endpoints": _rounded(found[:, :, :n]),
        }

    def _guess(self, draft: ChunkDraft, truth: FloatArray) -> dict[str, Any]:
        """A proposer's best guess beside the truth, over the actions that would be executed."""
        mine = draft.chunks[0, : len(truth)]
        return {
            "tokens": self._codec.encode(self._codec.denormalise_chunk(mine[:1]))[0].tolist(),
            "distance_bins": int(np.ceil(path_bins(mine, truth)[-1])),
            "has_same_gripper": bool(good_actions(mine, truth, np.inf).all()),
        }

    def _glanced(self, observation: Observation, context: Any) -> Glance[ChunkDraft] | None:
        """The guess of presets that skip without looking, from a look of this round or of an earlier one, by turns."""
        if self._glances is None:
            return None
        self._glances.looked(context)
        return self._glances.guess(observation, self._history)

    def _cases(
        self, drafts: Sequence[ChunkDraft], glance: Glance[ChunkDraft] | None, truth: FloatArray
    ) -> dict[str, Any]:
        """What the presets' rules would have seen, each from the look that it would have had."""
        phase = read_motion(self._history, ONLOOKER)
        found = {}
        for name in self._presets:
            skipper = CHUNKS.skippers[name]
            if skipper.looks:
                found[name] = self._case(skipper, drafts, phase, 0)
            elif glance is not None:
                mine = (glance.draft, *(draft for draft in drafts if draft.source != skipper.source))
                case = self._case(skipper, mine, phase, glance.n_skips * self._sampling.executed)
                found[name] = case and case | {"guess": self._guess(glance.draft, truth)}
        return {name: case for name, case in found.items() if case is not None}

    def _case(
        self, skipper: Skipper, drafts: Sequence[ChunkDraft], phase: PhaseSignal, age_steps: int
    ) -> dict[str, Any] | None:
        """What a preset's rule would have seen; None where it would have had no guess."""
        mine, n = [draft for draft in drafts if draft.source in skipper.scouts], self._sampling.executed
        guess = guess_of(skipper.source, mine)
        if guess is None:
            return None
        features = chunk_features(guess, mine, phase, age_steps, n, n)
        is_near = phase.gripper.changed_within(GRIPPER_MARGIN_STEPS)
        return {
            "features": {name: float(value) if np.isfinite(value) else None for name, value in features.items()},
            "is_gripper_near": is_near or not all(leaves_gripper(draft, phase) for draft in mine),
        }


def _similarity(drafts: Sequence[ChunkDraft]) -> Mapping[str, float]:
    memory = guess_of(MEMORY, drafts)
    return {} if memory is None else {"similarity": float(memory.evidence["similarity"])}


def _rounded(values: FloatArray) -> Any:
    return np.round(values.astype(np.float64), DECIMALS).tolist()


@dataclass(frozen=True)
class ObservingChunkWorlds(ObservingWorlds):
    """The world factory of an observation of a chunk policy."""

    def __call__(self, config: EvalConfig, *, n_threads: int | None) -> World:
        """LIBERO's world, watched."""
        world = LiberoWorld(config, n_threads=n_threads)
        return ObservingChunkWorld(world, load_assets(config), load_assets(config).target, self)


class ObservingChunkWorld(ObservingWorld):
    """A world whose only agent is ``full``, watched."""

    def __init__(self, inner: World, assets: Any, shadow: Any, what: ObservingChunkWorlds) -> None:
        super().__init__(inner, assets, what)
        self._shadow = shadow

    def agent(self, method: str) -> Agent:  # noqa: ARG002 (the protocol's)
        """The watched policy, whatever the method is called."""
        if self._agent is None:
            what, write = self._what, self._rows.write
            self._agent = ChunkWitness(self._assets, self._shadow, what.scouts, what.presets, write)
        return self._agent
