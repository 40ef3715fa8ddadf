"""``heisd bench --costs``: what encoding, forwards, rows and guesses cost here, interleaved on the same pictures."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.check_exact import available, is_first_of_episode
from heisd.bench.cost_model import ceiling
from heisd.bench.latency import N_RECORDED, BenchConfig, recorded_observations, torch_threads
from heisd.bench.observations import load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.rollout import observation_hash
from heisd.bench.stats import distribution
from heisd.bench.weights import describe_weights, weights_for
from heisd.codec import ActionCodec
from heisd.engine import Engine
from heisd.errors import BadInput
from heisd.propose.base import History, Proposer
from heisd.route.costs import Costs
from heisd.telemetry import MemorySink
from heisd.types import IntArray, Observation, TokenTree

ROWS = (0, 8, 16, 32, 48)  # guessed rows beside those that a forward has anyway
BRANCH_LENGTH = 6  # of the guesses: what an action's trie can hold
N_SETTLED = 3  # tokens that are decided when drafters are asked again
_FORWARDS = ("encode", "prefill", "decode")
_PARTS = {"retrieval": "lookup", "parallel": "drafter", "eagle": "eagle"}  # proposer -> what its asking is called


class CostMeter:
    """Times every part on one observation after the other; what it has seen is in :attr:`series_ms`."""

    def __init__(
        self,
        target: Any,
        proposers: Mapping[str, Proposer],
        *,
        seed: int = 0,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.series_ms: dict[str, list[float]] = {}
        self._target, self._proposers, self._now_ns = target, proposers, now_ns
        self._rng, self._sink = np.random.default_rng(seed), MemorySink()
        self._plain = Engine(target, sink=self._sink)
        self._history = History.empty(target.codec.length)

    def begin_episode(self) -> None:
        """Forget the episode before."""
        self._plain.reset()
        self._history = History.empty(self._target.codec.length)
        for proposer in self._proposers.values():
            proposer.reset()

    def observe(self, seen: Observation) -> None:
        """One control step: plain decoding, then every part once, forwards in random order."""
        action = self._plain.act(seen)
        record = self._sink.records.pop()
        self._note("overhead", record.latency_ms - sum(record.stage_ms[name] for name in _FORWARDS))
        self._history = self._history.observed(seen.proprio)
        context = self._timed("vision", partial(self._target.encode, seen))
        self._ask_before(context)
        cache = None
        for n in self._shuffled(ROWS):
            tree = guessed_tree(self._target.codec, n, self._rng) if n else None
            cache, _ = self._timed(f"prefill+{n}", partial(self._target.prefill, context, tree))
        for n in self._shuffled(ROWS):
            tree = guessed_tree(self._target.codec, n, self._rng, known=int(action.tokens[0]))
            self._timed(f"decode+{n}", partial(self._target.extend, cache, tree))
        self._ask_behind(context, action.tokens)
        self._history = self._history.acted(action)

    def _ask_before(self, context: Any) -> None:
        for name in ("retrieval", "parallel"):
            if name in self._proposers:
                self._timed(_PARTS[name], partial(self._proposers[name].propose, context, self._history))

    def _ask_behind(self, context: Any, tokens: IntArray) -> None:
        """Drafters once more, behind tokens that the target has decided and read."""
        if not {"parallel", "eagle"} & set(self._proposers):
            return
        cache, _ = self._target.prefill(context, None)
        for token in tokens[: N_SETTLED - 1].tolist():
            self._target.extend(cache, TokenTree.chain(np.asarray([token])))
            cache.keep((0,))
        history = self._history.with_settled(tuple(tokens[:N_SETTLED].tolist()))
        for name, part in (("parallel", "redraft"), ("eagle", "eagle")):
            if name in self._proposers:
                self._timed(part, partial(self._proposers[name].propose, context, history))

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        began_ns = self._now_ns()
        value = call()
        self._note(name, (self._now_ns() - began_ns) / 1e6)
        return value

    def _note(self, name: str, ms: float) -> None:
        self.series_ms.setdefault(name, []).append(ms)

    def _shuffled(self, rows: Sequence[int]) -> list[int]:
        return [int(n) for n in self._rng.permutation(rows)]


def guessed_tree(codec: ActionCodec, n_guesses: int, rng: np.random.Generator, known: int | None = None) -> TokenTree:
    """``n_guesses`` random tokens in branches as long as an action allows, behind ``known`` if there is one."""
    n_known = 0 if known is None else 1
    guesses = rng.integers(codec.first_token, codec.vocab_size, n_guesses)
    parents = [n_known - 1 if i % BRANCH_LENGTH == 0 else n_known + i - 1 for i in range(n_guesses)]
    tokens = [*([] if known is None else [known]), *guesses.tolist()]
    return TokenTree(np.asarray(tokens, np.int64), np.asarray([*[-1][:n_known], *parents], np.int64))


def fit_costs(mean_ms: Mapping[str, float]) -> Costs:
    """The table from mean times by part: ``vision``, ``prefill+N`` and ``decode+N``, and what else there is.

    A row's price is the slope that fits the prefill's and the later forward's curve best together (least squares, each
    with its own level; both carry the same rows through the same matrices). What a later forward of several rows
    costs beside them is the level of its curve above that of a forward of one row. Raises BadInput without the curves.
    """
    prefill, decode = _curve(mean_ms, "prefill"), _curve(mean_ms, "decode")
    several = {n: ms for n, ms in decode.items() if n > 0}
    products = spreads = 0.0
    for curve in (prefill, several):
        n_mean, ms_mean = sum(curve) / len(curve), sum(curve.values()) / len(curve)
        products += sum((n - n_mean) * (ms - ms_mean) for n, ms in curve.items())
        spreads += sum((n - n_mean) ** 2 for n in curve)
    row_ms = max(products / spreads, 0.0)
    level_ms = sum(ms - row_ms * n for n, ms in several.items()) / len(several)
    return Costs(
        vision_ms=mean_ms["vision"],
        prefill_ms=prefill[0],
        decode_ms=decode[0],
        row_ms=row_ms,
        tree_ms=max(level_ms - decode[0], 0.0),
        lookup_ms=mean_ms.get("lookup", 0.0),
        drafter_ms=mean_ms.get("drafter", 0.0),
        redraft_ms=mean_ms.get("redraft", 0.0),
        eagle_ms=mean_ms.get("eagle", 0.0),
        overhead_ms=max(mean_ms.get("overhead", 0.0), 0.0),
    )


def measure_costs(config: BenchConfig, observations: Path | None = None) -> dict[str, Any]:
    """The result object of ``heisd bench --costs``: the table, the curves behind it and where they come from."""
    import torch

    from heisd.policies.bundle import load_policy
    from heisd.presets.assets import Assets

    directory = weights_for(config.weights, config.suite, ("ar",))
    policy = describe_weights(directory)
    if config.threads:
        torch.set_num_threads(config.threads)
    path = observations or recorded_observations(config, N_RECORDED)
    recorded = load_observations(path)
    target = load_policy(directory, config.dtype)
    assets = Assets(target, directory, config.suite)
    asked = [name for name in available(directory, config.suite) if name in _PARTS]
    series_ms = time_parts(CostMeter(target, {name: assets.proposer(name) for name in asked}), recorded, config)
    costs = fit_costs({name: float(np.mean(values)) for name, values in series_ms.items()})
    digest = hashlib.sha256("".join(map(observation_hash, recorded)).encode()).hexdigest()
    return {
        "costs": asdict(costs),
        "parts_ms": {name: distribution(values) for name, values in series_ms.items()},
        "ceiling": ceiling(costs, target.codec.length),
        "plain_ms": costs.plain_ms(target.codec.length),
        "steps": config.steps,
        "warmup": config.warmup,
        "dtype": config.dtype,
        "suite": config.suite,
        "observations": {"file": path.name, "n": len(recorded), "sha256": digest},
        "policy": policy,
        "threads": torch_threads(),
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }


def time_parts(meter: CostMeter, recorded: Sequence[Observation], config: BenchConfig) -> dict[str, list[float]]:
    """Times of ``config.steps`` control steps, those of the ``config.warmup`` before them forgotten."""
    previous = None
    for step in range(config.warmup + config.steps):
        seen = recorded[step % len(recorded)]
        if step % len(recorded) == 0 or is_first_of_episode(previous, seen):
            meter.begin_episode()
        if step == config.warmup:
            meter.series_ms.clear()
        meter.observe(seen)
        previous = seen
    return meter.series_ms


def _curve(mean_ms: Mapping[str, float], forward: str) -> dict[int, float]:
    """Guessed rows -> milliseconds."""
    parts = {int(name.partition("+")[2]): ms for name, ms in mean_ms.items() if name.startswith(f"{forward}+")}
    if 0 not in parts or len(parts) < 3:
        raise BadInput(f"a curve of {forward} has times for 0 rows and two other numbers at least; got {sorted(parts)}")
    return parts
