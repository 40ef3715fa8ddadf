"""``heisd bench --costs``: what encoding, forwards, rows and guesses cost in the loop, where predictions are about.

Forwards timed one after the other are warmer than those of a control loop, between which other networks, look-ups and
plain Python run; a prefill was 0.6 ms of 4 cheaper so. Here every part is read off the telemetry of whole control
steps, of engines that answer the same observations in turn:

    plain                         V, P, D, and what a step takes beside its forwards
    probe                         guesses of random width, or none: the price of a row, of a check, of a later one
    judge                         a route that looks at pictures and motion, and never skips
    parallel, retrieval, eagle    the proposers that are there, each asked as its presets ask it
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from heisd.accept import exact
from heisd.bench.check_exact import available
from heisd.bench.cost_model import ceiling
from heisd.bench.latency import N_RECORDED, BenchConfig, Series, interleave, recorded_observations, torch_threads
from heisd.bench.observations import load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.replay import Agent
from heisd.bench.rollout import observation_hash
from heisd.bench.stats import distribution
from heisd.bench.weights import describe_weights, require_policy, resolve_weights
from heisd.codec import ActionCodec
from heisd.engine import Engine
from heisd.errors import BadInput
from heisd.kinematics.defaults import LIBERO
from heisd.policies.manifest import FORMAT
from heisd.policies.protocol import Context
from heisd.presets.assets import hashes
from heisd.propose.base import History, Stateless
from heisd.route.base import Reason, Router
from heisd.route.calibrated import CalibratedSkip, SkipScore
from heisd.route.costs import Costs
from heisd.route.fixed import Fixed
from heisd.telemetry import Sink
from heisd.types import Draft

PLAIN, PROBE, JUDGE = "plain", "probe", "judge"
WIDTHS = (0, 6, 12, 24, 48)  # guessed rows in a forward, by turns at random; 0: no guess, a forward of one row
SOURCE = "persistence"  # whose guesses the judge weighs; asking it costs next to nothing
NEVER = 2.0  # a score that no step reaches
# When a proposer is asked, as its presets ask it.
ASKED: dict[str, Fixed] = {
    "parallel": Fixed(drafters=("parallel",), later=("parallel",)),
    "retrieval": Fixed(drafters=("retrieval",)),
    "eagle": Fixed(later=("eagle",)),
}
_FORWARDS = ("encode", "prefill", "decode")


class Probe(Stateless):
    """Random tokens, of a width that changes from one asking to the next: what is measured is checking them."""

    def __init__(self, codec: ActionCodec, seed: int = 0) -> None:
        self._codec, self._rng = codec, np.random.default_rng(seed)

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002 (the protocol's)
        """As many whole guesses at what is missing as make up a width; None where the width is 0."""
        width, length = int(self._rng.choice(WIDTHS)), self._codec.length - len(history.settled)
        if width == 0:
            return None
        shape = (max(width // length, 1), length)
        return Draft.of(self._rng.integers(self._codec.first_token, self._codec.vocab_size, shape), PROBE)


def judging() -> CalibratedSkip:
    """A route that weighs every step as calibrated ones do, and never skips."""
    return CalibratedSkip(
        score=SkipScore((), (), (), (), 0.0), threshold=NEVER, ranges=LIBERO, rule=exact, source=SOURCE,
        scouts=(SOURCE,), audited_share=0.0,
    )  # fmt: skip


def builders(asked: Mapping[str, Router]) -> dict[str, Callable[..., Engine[Any, Any]]]:
    """Name -> what builds an engine from ``heisd.presets.assets.Assets`` and a sink; ``asked``: proposers to price."""

    def built(router: Router | None = None, *names: str) -> Callable[..., Engine[Any, Any]]:
        def build(assets: Any, sink: Sink | None = None) -> Engine[Any, Any]:
            proposers = {name: Probe(assets.codec) if name == PROBE else assets.proposer(name) for name in names}
            return Engine(assets.target, proposers=proposers, router=router, sink=sink)

        return build

    return {
        PLAIN: built(),
        PROBE: built(Fixed(drafters=(PROBE,), later=(PROBE,)), PROBE),
        JUDGE: built(judging(), SOURCE),
        **{name: built(router, name) for name, router in asked.items()},
    }


def fit_costs(series: Mapping[str, Series]) -> Costs:
    """The table from the steps of :func:`builders`' engines; what was not measured costs nothing.

    Means where a part stands alone; least squares without negative prices (Lawson and Hanson) where one step has
    several: rows, checks and later checks of the probe beyond what plain decoding explains, first and later guesses of
    a drafter. Steps that were decoded again are left out. Raises BadInput without steps of plain and probe.
    """
    if not all(name in series and series[name].records for name in (PLAIN, PROBE)):
        raise BadInput(f"costs are read off steps of {PLAIN} and {PROBE}; got {', '.join(series) or 'none'}")
    plain = series[PLAIN]
    n, n_later = len(plain.records), sum(record.lm_forwards - 1 for record in plain.records)
    base = Costs(
        vision_ms=float(np.mean([ms for each in series.values() for ms in each.stage_ms["encode"]])),
        prefill_ms=plain.total_ms("prefill") / n,
        decode_ms=plain.total_ms("decode") / n_later,
        row_ms=0.0,
        overhead_ms=max(sum(plain.latency_ms) - plain.total_ms("propose", *_FORWARDS), 0.0) / n,
    )
    row_ms, check_ms, tree_ms = _checking(series[PROBE], base)
    drafter_ms, redraft_ms = _asking(series.get("parallel"))
    judge_ms = 0.0
    if judge := series.get(JUDGE):
        judge_ms = max(judge.total_ms("route") / len(judge.records) - plain.total_ms("route") / n, 0.0)
    return replace(
        base,
        row_ms=row_ms,
        check_ms=check_ms,
        tree_ms=tree_ms,
        lookup_ms=_asking(series.get("retrieval"))[0],
        drafter_ms=drafter_ms,
        redraft_ms=redraft_ms,
        eagle_ms=_mean_asking(series.get("eagle")),
        judge_ms=judge_ms,
    )


def _checking(probe: Series, base: Costs) -> tuple[float, ...]:
    """Milliseconds of a row, of a check beside its rows, and what a later check takes more."""
    counts, left_ms = [], []
    for record, ms in zip(probe.records, probe.latency_ms, strict=True):
        if record.reason == Reason.TOO_CLOSE:
            continue
        plain_ms = base.prefill_ms + (record.lm_forwards - 1) * base.decode_ms + base.overhead_ms
        other_ms = record.stage_ms["encode"] + record.stage_ms.get("propose", 0.0)
        n_later = sum(1 for position, _ in record.verifications if position > 0)
        counts.append((record.n_drafted, len(record.verifications), n_later))
        left_ms.append(ms - plain_ms - other_ms)
    return _priced(counts, left_ms)


def _asking(asked: Series | None) -> tuple[float, float]:
    """Milliseconds of a proposer's first guess in a step, and of every later one."""
    if asked is None:
        return 0.0, 0.0
    times = [sum(record.asked.values()) for record in asked.records]
    first_ms, later_ms = _priced([(min(k, 1), max(k - 1, 0)) for k in times], asked.stage_ms["propose"])
    return first_ms, later_ms


def _mean_asking(asked: Series | None) -> float:
    """Milliseconds of any of a proposer's guesses."""
    if asked is None:
        return 0.0
    return asked.total_ms("propose") / max(sum(sum(record.asked.values()) for record in asked.records), 1)


def _priced(counts: Sequence[tuple[int, ...]], ms: Sequence[float]) -> tuple[float, ...]:
    """(K,) prices that explain (N,) times best by (N, K) counts, none of them negative."""
    prices, _ = nnls(np.asarray(counts, dtype=np.float64), np.asarray(ms, dtype=np.float64))
    return tuple(float(price) for price in prices)


def measure_costs(config: BenchConfig, observations: Path | None = None) -> dict[str, Any]:
    """The result object of ``heisd bench --costs``: the table, the times behind it and where they come from."""
    import torch

    directory = resolve_weights(config.weights, config.suite)
    require_policy(directory, FORMAT, "--costs", "time its rounds: heisd bench --method full,flash --json")
    policy = describe_weights(directory)
    if config.threads:
        torch.set_num_threads(config.threads)
    path = observations or recorded_observations(config, N_RECORDED)
    recorded = load_observations(path)
    there = available(directory, config.suite)
    series = interleave(_agents(config, directory, there), recorded, config.steps, config.warmup)
    costs = fit_costs(series)
    digest = hashlib.sha256("".join(map(observation_hash, recorded)).encode()).hexdigest()
    return {
        "costs": asdict(costs),
        "parts_ms": parts_ms(series),
        "ceiling": ceiling(costs),
        "plain_ms": costs.plain_ms(n_tokens=7),
        "steps": config.steps,
        "warmup": config.warmup,
        "dtype": config.dtype,
        "suite": config.suite,
        "observations": {"file": path.name, "n": len(recorded), "sha256": digest},
        "policy": policy,
        "assets": hashes(directory, config.suite),
        "threads": torch_threads(),
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }


def parts_ms(series: Mapping[str, Series]) -> dict[str, dict[str, Any]]:
    """``ENGINE/STAGE`` -> distribution, and ``ENGINE/full clock``."""
    return {
        f"{name}/{stage}": distribution(values)
        for name, each in series.items()
        for stage, values in {**each.stage_ms, "full clock": each.latency_ms}.items()
    }


def _agents(config: BenchConfig, directory: Path, there: Collection[str]) -> dict[str, Agent]:
    """Engines with a policy of their own each: none pays for what another asks of one."""
    from heisd.bench.libero_world import EngineAgent
    from heisd.policies.bundle import load_policy
    from heisd.presets.assets import Assets

    asked = {name: router for name, router in ASKED.items() if name in there}
    return {
        name: EngineAgent(build, Assets(load_policy(directory, config.dtype), directory, config.suite))
        for name, build in builders(asked).items()
    }
