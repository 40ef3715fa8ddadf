"""``heisd bench --check-exact``: does speculation under the exact rule give plain greedy decoding's tokens?

Every proposer that can be had, every combination of them and every preset with the exact rule answers the same recorded
observations as plain decoding, which runs once per observation, on a policy of its own that keeps no hidden states.
Each engine's history is its own: it follows what that engine has done.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heisd.bench.latency import BenchConfig, recorded_observations, torch_threads
from heisd.bench.observations import is_first_of_episode, load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.rollout import observation_hash
from heisd.bench.weights import describe_weights, require_policy, resolve_weights
from heisd.engine import Engine
from heisd.errors import BadInput, UnknownName
from heisd.policies.manifest import FORMAT
from heisd.presets import EXACT_DTYPE, PRESETS, builder
from heisd.presets import assets as assets_
from heisd.presets.assets import Assets, hashes
from heisd.propose.registry import PROPOSERS
from heisd.telemetry import MemorySink
from heisd.types import Observation

log = logging.getLogger(__name__)

NEEDS = {"retrieval": "store", "parallel": "parallel", "eagle": "eagle"}  # proposer -> what lies beside the policy
MAX_NODES = 50  # rows of a combination's trees: the widest that any preset uses
Build = Callable[[Assets, MemorySink], Engine[Any, Any]]
Progress = Callable[[int, int], None]  # observations done, in all


@dataclass(slots=True)
class Tally:
    """One engine's tokens beside plain decoding's."""

    n_steps: int = 0
    differing_tokens: int = 0
    n_tokens: int = 0
    differing_steps: int = 0
    kept_tokens: int = 0  # guesses that were kept: a proposer nobody heeds proves nothing
    lm_forwards: int = 0
    faults: int = 0  # of proposers

    def add(self, ours: Sequence[int], plain: Sequence[int]) -> None:
        """Count one action."""
        n_different = sum(a != b for a, b in zip(ours, plain, strict=True))
        self.n_steps += 1
        self.n_tokens += len(plain)
        self.differing_tokens += n_different
        self.differing_steps += n_different > 0


class Subject:
    """One engine under test, with its tally."""

    def __init__(self, engine: Engine[Any, Any], sink: MemorySink) -> None:
        self._engine, self._sink, self.tally = engine, sink, Tally()

    def begin_episode(self) -> None:
        """Forget the episode before."""
        self._note_faults()
        self._engine.reset()

    def answer(self, observation: Observation, plain: Sequence[int]) -> None:
        """Act, and compare."""
        self.tally.add(self._engine.act(observation).tokens.tolist(), plain)
        record = self._sink.records.pop()
        self.tally.kept_tokens += record.n_accepted
        self.tally.lm_forwards += record.lm_forwards

    def finish(self) -> dict[str, int]:
        """The counts."""
        self._note_faults()
        return asdict(self.tally)

    def _note_faults(self) -> None:
        self.tally.faults += sum(self._engine.faults.values())


def check_exact(
    config: BenchConfig,
    observations: Sequence[Path] = (),
    *,
    report_flips: bool = False,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """The result object of ``heisd bench --check-exact``; ``config.methods`` empty: everything that can be had.

    Counts stand under ``exact``, or under ``flips`` with ``report_flips``, which is what another precision than
    float32 allows. Raises BadInput for another precision without it, UnknownName for a name that is neither a proposer,
    a combination such as ``kalman+persistence`` nor a preset with the exact rule, BadArtifact for what is missing.
    """
    if config.dtype != EXACT_DTYPE and not report_flips:
        raise BadInput(
            f"equality is promised in {EXACT_DTYPE} only: in {config.dtype}, forwards of different row counts flip "
            f"tokens; use --dtype {EXACT_DTYPE}, or --report-flips to count them"
        )
    import torch

    from heisd.policies.bundle import load_policy

    directory = resolve_weights(config.weights, config.suite)
    require_policy(directory, FORMAT, "--check-exact", "speculation on chunks promises no equal actions")
    policy = describe_weights(directory)
    names = chosen(config.methods, directory, config.suite)
    if config.threads:
        torch.set_num_threads(config.threads)
    files = list(observations) or [recorded_observations(config, config.steps)]
    target = load_policy(directory, config.dtype)
    # What is checked begins behind the vision towers.
    target.encode = once(target.encode)  # type: ignore[assignment, method-assign]
    assets = Assets(target, directory, config.suite)
    subjects = {name: subject(build, assets) for name, build in names.items()}
    reference = Engine(load_policy(directory, config.dtype))
    stream = _Stream(files, config.steps)
    compare(reference, subjects, stream, n_steps=config.steps, progress=progress)
    return {
        "flips" if report_flips else "exact": report(subjects, with_rates=report_flips),
        "steps": config.steps,
        "dtype": config.dtype,
        "suite": config.suite,
        "observations": stream.files,
        "policy": policy,
        "assets": hashes(directory, config.suite),
        "threads": torch_threads(),
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }


def once(encode: Callable[[Observation], Any]) -> Callable[[Observation], Any]:
    """``encode`` for many engines that are asked about the same observation in turn: it runs for the first of them."""
    last: tuple[Observation, Any] | None = None

    def encoded(seen: Observation) -> Any:
        nonlocal last
        if last is None or last[0] is not seen:
            last = seen, encode(seen)
        return last[1]

    return encoded


def compare(
    reference: Engine[Any, Any],
    subjects: Mapping[str, Subject],
    episodes: Iterable[tuple[Observation, bool]],
    *,
    n_steps: int,
    progress: Progress = lambda *_: None,
) -> None:
    """Let everybody answer (observation, is it an episode's first) in turn; plain decoding answers once."""
    n = 0
    for n, (seen, is_first) in enumerate(episodes, start=1):
        if is_first:
            for each in subjects.values():
                each.begin_episode()
        plain = reference.act(seen).tokens.tolist()
        for each in subjects.values():
            each.answer(seen, plain)
        progress(n, n_steps)
    if n < n_steps:
        log.warning(
            "%d steps were asked for, %d observations were given: n_steps says how many were checked", n_steps, n
        )


def report(subjects: Mapping[str, Subject], *, with_rates: bool = False) -> dict[str, dict[str, Any]]:
    """Counts by name; with the shares of tokens and of steps that differ."""
    blocks: dict[str, dict[str, Any]] = {name: dict(each.finish()) for name, each in subjects.items()}
    if with_rates:
        for block in blocks.values():
            block["token_rate"] = block["differing_tokens"] / block["n_tokens"] if block["n_tokens"] else None
            block["step_rate"] = block["differing_steps"] / block["n_steps"] if block["n_steps"] else None
    return blocks


def subject(build: Build, assets: Assets) -> Subject:
    """An engine under test."""
    sink = MemorySink()
    return Subject(build(assets, sink), sink)


def chosen(methods: Sequence[str], policy: Path, suite: str) -> dict[str, Build]:
    """What is checked, in order: the names given, or everything whose assets lie beside the policy."""
    if methods:
        return {name: _named(name, policy, suite) for name in methods}
    found = available(policy, suite)
    exact = [name for name, preset in PRESETS.items() if preset.is_exact]
    can_be_had = [name for name in exact if _has(policy, suite, PRESETS[name].needs)]
    return {name: _combination(name) for name in combinations(found)} | {name: _preset(name) for name in can_be_had}


def available(policy: Path, suite: str) -> list[str]:
    """Registered proposers whose store or weights lie beside the policy, and those that need none."""
    return [name for name in sorted(PROPOSERS) if _has(policy, suite, [NEEDS[name]] if name in NEEDS else [])]


def combinations(proposers: Sequence[str]) -> list[str]:
    """``a``, ``b``, ``c``, ``a+b``, ``a+c``, ``b+c``, ``a+b+c``: each alone, every pair, all of them."""
    groups: list[tuple[str, ...]] = [(name,) for name in proposers]
    groups += itertools.combinations(proposers, 2)
    if len(proposers) > 2:
        groups.append(tuple(proposers))
    return ["+".join(group) for group in groups]


class _Stream:
    """Observations of several files, one file in memory at a time, each marked where an episode begins."""

    def __init__(self, files: Sequence[Path], n_steps: int) -> None:
        self._paths, self._left = files, n_steps
        self.files: list[dict[str, Any]] = []  # what was read: file, n, sha256

    def __iter__(self) -> Iterator[tuple[Observation, bool]]:
        for path in self._paths:
            recorded = load_observations(path)[: self._left]
            if not recorded:
                return
            self._left -= len(recorded)
            digest = hashlib.sha256("".join(map(observation_hash, recorded)).encode()).hexdigest()
            self.files.append({"file": path.name, "n": len(recorded), "sha256": digest})
            for previous, now in zip([None, *recorded], recorded, strict=False):
                yield now, is_first_of_episode(previous, now)


def _named(name: str, policy: Path, suite: str) -> Build:
    if name in PRESETS and PRESETS[name].is_exact:
        assets_.require(policy, suite, [name])
        return _preset(name)
    for part in name.split("+"):
        if part not in PROPOSERS:
            exact = {preset for preset in PRESETS if PRESETS[preset].is_exact}
            raise UnknownName("proposer or exact method", part, {*PROPOSERS, *exact})
    return _combination(name)


def _preset(name: str) -> Build:
    return lambda assets, sink: builder(name)(assets, sink=sink)


def _combination(name: str) -> Build:
    def build(assets: Assets, sink: MemorySink) -> Engine[Any, Any]:
        proposers = {part: assets.proposer(part) for part in name.split("+")}
        return Engine(assets.target, proposers=proposers, max_nodes=MAX_NODES, sink=sink)

    return build


def _has(policy: Path, suite: str, needs: Iterable[str]) -> bool:
    return all(assets_.place_of(policy, suite, what).is_file() for what in needs)
