"""The target's own outputs on train starts: what drafters are distilled from (Spec-VLA, drafter training).

The policy plays closed loop, plainly and greedily; every episode becomes one safetensors file, written whole or not at
all, so that a killed recording goes on with what is missing. ``rollouts.json`` holds the policy's hash: rollouts of
another policy are never mixed in. Per control step of T in an episode (P prompt positions, d width):

    prefix (T, P, d) float16    prompt embeddings, what the language model reads
    proprio (T, 25) float32     flat proprioception (policies/proprio.py)
    tokens (T, 7) int32         greedy tokens
    executed (T, 7) int32       tokens of what was executed, where that is something else (:mod:`heisd.train.relabel`)
    hidden (T, 7, d) float16    states behind the last norm from which each token was chosen

The states of the prompt itself are not stored: they follow from ``prefix`` by one forward.
"""

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from heisd import interrupts
from heisd.bench.weights import resolve_weights
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput
from heisd.files import json_bytes, read_json, write_atomic
from heisd.policies.bundle import load_policy
from heisd.policies.identity import describe_weights
from heisd.policies.proprio import flatten
from heisd.policies.target import OpenVLAContext, OpenVLAPolicy
from heisd.sim.pool import run_pool
from heisd.sim.splits import FRESH_SEEDS, SHIPPED_STATES, Condition, EpisodeStart, Split, parse_start, require_train
from heisd.sim.suites import suite_info
from heisd.types import FloatArray, IntArray, Observation, Scores, TokenTree

log = logging.getLogger(__name__)

MANIFEST = "rollouts.json"
FORMAT = "heisd-rollouts-1"
SUITES = ("libero_object", "libero_spatial")
HELD_OUT_EVERY = 20  # one episode in twenty only measures (Spec-VLA and KERV split 95 to 5)
LOG_EVERY = 5  # episodes
_FRESH_OFFSET = 500_000  # fresh train seeds from here on: demonstrations draw theirs at random from the whole range
_STATES_BATCH = 64  # control steps whose states are computed together


@dataclass(frozen=True, slots=True)
class RolloutJob:
    """One episode to record; small and picklable."""

    start: EpisodeStart
    weights: str  # directory of the policy
    policy_sha256: str
    out: Path

    @property
    def path(self) -> Path:
        """The episode's file."""
        return self.out / f"{self.start.key.replace('/', '-')}.safetensors"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One recorded episode."""

    start: EpisodeStart
    instruction: str
    is_solved: bool
    prefix: Tensor  # (T, P, d) float16
    proprio: Tensor  # (T, 25) float32
    tokens: Tensor  # (T, 7) int32 vocabulary ids
    hidden: Tensor  # (T, 7, d) float16
    executed: Tensor | None = None  # (T, 7) int32; None: ``tokens``

    def __len__(self) -> int:
        return len(self.tokens)


def plan(n_episodes: int, suites: Sequence[str] = SUITES) -> list[EpisodeStart]:
    """Train starts, round-robin over suites and tasks; the first of a longer plan are those of a shorter one.

    Every third visit of a task begins at a shipped state, the others at a fresh seed; every second has its targets
    moved. Raises UnknownName for a suite, BadInput when no episode or no suite is asked for.
    """
    if n_episodes < 1 or not suites:
        raise BadInput(f"{n_episodes} episodes of {len(suites)} suites asked for; at least 1 of 1 is needed")
    n_tasks = min(suite_info(suite).n_tasks for suite in suites)
    shipped, fresh = SHIPPED_STATES[Split.TRAIN], FRESH_SEEDS[Split.TRAIN]
    starts = []
    for i in range(n_episodes):
        suite, task, visit = suites[i % len(suites)], i // len(suites) % n_tasks, i // (len(suites) * n_tasks)
        # A third of the visits is not in step with a half of them: all four combinations come up.
        condition = Condition.JITTER if visit % 2 else Condition.SHIPPED
        if visit % 3 == 0:
            start = EpisodeStart(suite, task, shipped[visit // 3 % len(shipped)], None, condition)
        else:
            start = EpisodeStart(suite, task, None, fresh.start + _FRESH_OFFSET + visit, condition)
        require_train(start)
        starts.append(start)
    return starts


def is_held_out(number: int) -> bool:
    """Whether the plan's episode only measures: one in twenty, of another task every time."""
    return number % HELD_OUT_EVERY == number // HELD_OUT_EVERY % HELD_OUT_EVERY


def record(
    weights: str,
    out: Path,
    n_episodes: int,
    *,
    suites: Sequence[str] = SUITES,
    workers: int = 2,
    play: Callable[[RolloutJob], int] | None = None,
) -> list[Path]:
    """Record what is missing of :func:`plan`; returns the files in its order. Goes on where it was stopped.

    ``play`` replaces the workers' function :func:`record_episode`; 0 workers play in this process. Raises BadInput
    when ``out`` holds rollouts of another policy, UnknownName or BadArtifact for bad weights.
    """
    directory = resolve_weights(weights, suites[0] if suites else "")
    policy = describe_weights(directory)
    starts = plan(n_episodes, suites)
    claim(out, policy)
    jobs = [RolloutJob(start, str(directory), policy["sha256"], out) for start in starts]
    missing = [job for job in jobs if not is_written(job.path, job.start, job.policy_sha256)]
    log.info("%s: %d of %d episodes are recorded", out, len(jobs) - len(missing), len(jobs))
    n_steps = 0
    with closing(_results(missing, workers, play or record_episode)) as results:
        for done, n in enumerate(_shown(results, len(missing)), start=1):
            interrupts.check()
            n_steps += n
            if done % LOG_EVERY == 0 or done == len(missing):
                log.info("recorded %d of %d missing episodes, %d control steps", done, len(missing), n_steps)
    return [job.path for job in jobs]


def claim(out: Path, policy: dict[str, str]) -> None:
    """Tie a directory to a policy (``describe_weights``); BadInput when it belongs to another one."""
    path = out / MANIFEST
    if not path.exists():
        write_atomic(path, json_bytes({"format": FORMAT, "policy": policy}))
        return
    held = read_manifest(out)["policy"]
    if held.get("sha256") != policy["sha256"]:
        raise BadInput(
            f"{out} holds rollouts of the policy {held.get('name')!r} ({str(held.get('sha256'))[:12]}), not of "
            f"{policy['name']!r} ({policy['sha256'][:12]}): a drafter learns from its own target; use another directory"
        )


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory of rollouts; BadArtifact when it is missing, torn or foreign."""
    values = read_json(directory / MANIFEST, hint=": not a directory of rollouts")
    if values.get("format") != FORMAT or not isinstance(values.get("policy"), dict):
        raise BadArtifact(f"{directory / MANIFEST} has format {values.get('format')!r}; this version reads {FORMAT!r}")
    return values


def is_written(path: Path, start: EpisodeStart, policy_sha256: str) -> bool:
    """Whether an episode's file is there, readable, and of this policy and start; what isn't is made again."""
    try:
        meta = _metadata(path)
    except BadArtifact:
        return False
    return meta.get("start") == start.key and meta.get("policy") == policy_sha256


def load(path: Path, policy_sha256: str) -> Rollout:
    """Read an episode. Raises BadArtifact for a damaged file or another policy's, LeakError outside the train split."""
    meta = _metadata(path)
    if meta.get("policy") != policy_sha256:
        raise BadArtifact(f"{path} was recorded with another policy ({meta.get('policy', 'unnamed')[:12]}); delete it")
    start = parse_start(meta["start"])
    require_train(start)
    tensors = load_file(path)
    names = ("prefix", "proprio", "tokens", "hidden")
    if missing := [name for name in names if name not in tensors]:
        raise BadArtifact(f"{path} lacks {', '.join(missing)}: it is no recorded episode; delete it")
    parts = {name: tensors[name] for name in names}
    executed = tensors.get("executed")
    return Rollout(start, meta["instruction"], meta["is_solved"] == "True", **parts, executed=executed)


def record_episode(job: RolloutJob) -> int:
    """Play and write one episode; returns its control steps. What a worker process runs."""
    from heisd.sim.libero import cached_env

    require_train(job.start)
    env = cached_env(job.start.suite, job.start.task_index)
    return write_episode(job, env, _watched(job.weights))


def write_episode(job: RolloutJob, env: Any, watched: "WatchedPolicy") -> int:
    """Play ``job.start`` in ``env`` to success or to its horizon, and write the file; returns the control steps."""
    engine = Engine(watched)
    observation, _ = env.reset(job.start)
    prefixes: list[Tensor] = []
    proprio: list[FloatArray] = []
    tokens: list[IntArray] = []
    is_over = is_solved = False
    while not is_over:
        interrupts.check()
        action = engine.act(observation)
        prefixes.append(watched.prefix)
        proprio.append(flatten(observation.proprio))
        tokens.append(action.tokens)
        observation, _, is_solved, is_truncated, _ = env.step(action.values)
        is_over = is_solved or is_truncated
    prefix, ids = torch.stack(prefixes), torch.from_numpy(np.stack(tokens))
    tensors = {
        "prefix": prefix.half(),
        "proprio": torch.from_numpy(np.stack(proprio)).float(),
        "tokens": ids.int(),
        "hidden": action_states(watched.policy, prefix, ids).half(),
    }
    meta = {"start": job.start.key, "policy": job.policy_sha256, "is_solved": str(bool(is_solved))}
    meta["instruction"] = env.instruction
    write_atomic(job.path, safetensors_bytes({k: v.contiguous() for k, v in tensors.items()}, metadata=meta))
    return len(tokens)


@torch.inference_mode()
def action_states(policy: OpenVLAPolicy, prefix: Tensor, tokens: Tensor) -> Tensor:
    """(T, 7, d) float32 states from which (T, 7) ``tokens`` were chosen behind (T, P, d) ``prefix``."""
    model, n = policy.model.language_model, tokens.shape[1]
    parts = []
    for begin in range(0, len(tokens), _STATES_BATCH):
        rows = slice(begin, begin + _STATES_BATCH)
        words = model.embed(tokens[rows, :-1].long())
        parts.append(model.hidden(torch.cat([prefix[rows].to(words.dtype), words], 1))[:, -n:].float())
    return torch.cat(parts)


class WatchedPolicy:
    """A policy that remembers the prompt it read last; passes everything on."""

    def __init__(self, policy: OpenVLAPolicy) -> None:
        self.policy, self.codec = policy, policy.codec
        self.prefix = torch.empty(0)  # (P, d) of the last observation

    def encode(self, observation: Observation) -> OpenVLAContext:
        """The policy's, remembered."""
        context = self.policy.encode(observation)
        self.prefix = context.prefix.clone()
        return context

    def prefill(self, context: OpenVLAContext, tree: TokenTree | None = None) -> tuple[Any, Scores]:
        """The policy's."""
        return self.policy.prefill(context, tree)

    def extend(self, cache: Any, tree: TokenTree) -> Scores:
        """The policy's."""
        return self.policy.extend(cache, tree)


@lru_cache(maxsize=1)
def _watched(weights: str) -> WatchedPolicy:
    """The policy of a worker process."""
    torch.set_num_threads(1)  # workers share the cores
    return WatchedPolicy(load_policy(weights))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise BadArtifact(f"{path} is not a readable recorded episode ({error}); delete it") from None


def _results(jobs: Sequence[RolloutJob], workers: int, play: Callable[[RolloutJob], int]) -> Generator[int, None, None]:
    """Control steps of every episode, in order of completion."""
    if workers < 1:
        yield from map(play, jobs)
    elif jobs:
        with closing(run_pool(play, jobs, workers, group_key=_task_of)) as pool:  # type: ignore[type-var]
            yield from (n for _, n in pool)


def _task_of(job: RolloutJob) -> tuple[str, int]:
    return job.start.suite, job.start.task_index


def _shown(results: Iterable[int], total: int) -> Iterable[int]:
    console = Console(file=sys.stderr)
    return track(results, "rollouts", total, console=console, disable=not console.is_terminal or not total)
