"""From episode records to the result object: LeRobot's fields, and one block per method."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from heisd.bench.overhead import PLAIN_METHODS, overhead_block
from heisd.bench.papers_clock import papers_block
from heisd.bench.realtime import pacing_block
from heisd.bench.results import EpisodeRecord
from heisd.bench.speculation import SpeculationCounts
from heisd.bench.stats import Estimate, distribution, paired_difference, ratio_of_sums, wilson
from heisd.bench.withdrawal import withdrawal_block
from heisd.config import EvalConfig, RealtimeConfig
from heisd.presets import PRESETS
from heisd.types import TokenOrigin


def outcomes(records: Iterable[EpisodeRecord]) -> list[EpisodeRecord]:
    """The valid record of every (method, start); the first one wins should there be several."""
    kept: dict[tuple[str, str], EpisodeRecord] = {}
    for record in records:
        if record.valid:
            kept.setdefault((record.method, record.key), record)
    return list(kept.values())


def unplayed(records: Sequence[EpisodeRecord]) -> list[dict[str, Any]]:
    """Episodes that have only invalid records: who, and the last error."""
    done = {(r.method, r.key) for r in outcomes(records)}
    last = {(r.method, r.key): r for r in records if (r.method, r.key) not in done}
    return [{"episode": r.key, "method": r.method, "tries": r.attempt + 1, "error": r.error} for r in last.values()]


def summarise(config: EvalConfig, records: Sequence[EpisodeRecord], *, store_mb: float | None = None) -> dict[str, Any]:
    """The measured part of ``eval_info.json`` (everything but provenance).

    ``store_mb`` is the size of the policy's store, told of the methods that read it.
    """
    played = sorted(outcomes(records), key=lambda r: (r.task_index, r.key))
    by_method = {method: [r for r in played if r.method == method] for method in config.methods}
    baseline = by_method[config.methods[0]]
    is_plain = config.methods[0] in PLAIN_METHODS
    return {
        **_lerobot_fields(baseline, config.suite),
        "methods": {
            name: {
                **_method_block(mine, baseline, config.realtime, is_plain),
                "peak_rss_mb": _peak_rss_mb(mine) if len(by_method) == 1 else None,
                "store_mb": store_mb if name in PRESETS and "store" in PRESETS[name].reads else None,
            }
            for name, mine in by_method.items()
        },
        "process_peak_rss_mb": _peak_rss_mb(played),
        "invalid": {"n": len(unplayed(records)), "episodes": unplayed(records)},
    }


def _lerobot_fields(records: Sequence[EpisodeRecord], suite: str) -> dict[str, Any]:
    """``per_task``, ``per_group`` and ``overall`` as lerobot-eval writes them, for the first method."""
    per_task = [
        {
            "task_group": suite,
            "task_id": task,
            "metrics": {
                "sum_rewards": [r.sum_reward for r in mine],
                "max_rewards": [r.max_reward for r in mine],
                "successes": [r.success for r in mine],
                "video_paths": [r.video for r in mine if r.video],
            },
        }
        for task, mine in _by_task(records).items()
    ]
    group = _lerobot_totals(records)
    eval_s = round(sum(r.wall_s for r in records), 2)
    per_episode = round(eval_s / len(records), 3) if records else None
    overall = {**group, "eval_s": eval_s, "eval_ep_s": per_episode}
    return {"per_task": per_task, "per_group": {suite: group}, "overall": overall}


def _lerobot_totals(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    return {
        "avg_sum_reward": _mean([r.sum_reward for r in records]),
        "avg_max_reward": _mean([r.max_reward for r in records]),
        "pc_success": _percent(wilson(sum(r.success for r in records), len(records))),
        "n_episodes": len(records),
        "video_paths": [r.video for r in records if r.video],
    }


def _method_block(
    records: Sequence[EpisodeRecord], baseline: Sequence[EpisodeRecord], realtime: RealtimeConfig | None, is_plain: bool
) -> dict[str, Any]:
    rate = wilson(sum(r.success for r in records), len(records))
    is_baseline = records is baseline
    return {
        "n_episodes": len(records),
        "pc_success": _percent(rate),
        "wilson95": _percent_pair(rate),
        "mean_steps": _mean([r.n_steps for r in records]),
        "per_task": [_task_block(task, mine) for task, mine in _by_task(records).items()],
        **_latency_blocks(records),
        **_overhead(records, is_plain, is_baseline),
        "realtime": pacing_block(records, realtime),
        "speculation": _speculation(records),
        "withdrawal": withdrawal_block([r.withdrawal for r in records if r.withdrawal is not None]),
        "speedup_vs_baseline": None if is_baseline else _speedup(records),
        "in_loop": _in_loop(records, baseline),
        "deviation": None if is_baseline else _deviation(records),
        "paired": None if is_baseline else _paired(records, baseline),
    }


def _peak_rss_mb(records: Sequence[EpisodeRecord]) -> float | None:
    """The largest process that played any of these, simulator and all; of several methods it tells no one's share."""
    return max((r.peak_rss_mb for r in records), default=None)


def _task_block(task: int, records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    successes = sum(r.success for r in records)
    rate = wilson(successes, len(records))
    return {
        "task_id": task,
        "instruction": records[0].instruction,
        "n_episodes": len(records),
        "n_successes": successes,
        "pc_success": _percent(rate),
        "wilson95": _percent_pair(rate),
        "mean_steps": _mean([r.n_steps for r in records]),
    }


def _latency_blocks(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Times exist only for runs with ``--timing``; otherwise n is 0 and every figure None."""
    timings = [r.timing for r in records if r.timing is not None]
    steps = [ms for t in timings for ms in t.latency_ms]
    stage_names = dict.fromkeys(name for t in timings for name in t.stage_ms)
    stages = {name: distribution([ms for t in timings for ms in t.stage_ms.get(name, [])]) for name in stage_names}
    return {
        "ms_per_action": distribution(steps),
        "ms_per_episode": distribution([sum(t.latency_ms) for t in timings]),
        "cpu_s_per_action": sum(t.cpu_s for t in timings) / len(steps) if steps else None,
        "cpu_s_per_episode": _mean([t.cpu_s for t in timings]),
        "stages": stages,
        "warmup_ms": distribution([ms for t in timings for ms in t.warmup_ms]),
        "papers_clock": papers_block(
            [t.papers_ms for t in timings if t.papers_ms is not None],
            [t.shadow_papers_ms for t in timings if t.shadow_papers_ms is not None],
            len(steps),
        ),
    }


def _overhead(records: Sequence[EpisodeRecord], is_plain: bool, is_baseline: bool) -> dict[str, float | None]:
    """Beside a plain step on the same observations, where the baseline (``is_plain``) decodes plainly."""
    timings = [r.timing for r in records if r.timing is not None]
    plain = [ms for t in timings for ms in (t.latency_ms if is_baseline else t.shadow_ms)]
    stages = dict.fromkeys(name for t in timings for name in t.stage_ms)
    stage_ms = {name: [ms for t in timings for ms in t.stage_ms.get(name, ())] for name in stages}
    return overhead_block(stage_ms, sum(len(t.latency_ms) for t in timings), _mean(plain) if is_plain else None)


def _speculation(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    tokens = {origin.value: sum(r.origins.get(origin, 0) for r in records) for origin in TokenOrigin}
    counts = SpeculationCounts.total([r.speculation for r in records if r.speculation is not None])
    return counts.block(tokens, sum(r.lm_forwards for r in records if r.speculation is not None))


def _speedup(records: Sequence[EpisodeRecord]) -> dict[str, Any] | None:
    """Baseline time over method time on the same observations, both measured in the same process."""
    timings = [r.timing for r in records if r.timing is not None and r.timing.shadow_ms]
    ratio = ratio_of_sums([sum(t.shadow_ms) for t in timings], [sum(t.latency_ms) for t in timings])
    return None if ratio is None else {"clock": "full", "ratio": ratio.value, "ci95": ratio.ci95}


def _in_loop(records: Sequence[EpisodeRecord], baseline: Sequence[EpisodeRecord]) -> dict[str, Any] | None:
    """Time while the simulator worked between the steps, and beside the baseline's on the same starts.

    The two played episodes of their own there, so every start weighs the same: by its mean step.
    """
    mine, plain = _loop_ms_by_start(records), _loop_ms_by_start(baseline)
    if not mine:
        return None
    shared = [key for key in mine if key in plain]
    ratio = None if records is baseline else ratio_of_sums([plain[k] for k in shared], [mine[k] for k in shared])
    timings = [r.timing for r in records if r.timing is not None and r.timing.loop_ms is not None]
    return {
        "ms_per_action": sum(t.loop_ms or 0.0 for t in timings) / sum(len(t.latency_ms) for t in timings),
        "speedup_vs_baseline": None if ratio is None else {"clock": "full", "ratio": ratio.value, "ci95": ratio.ci95},
        "n_replayed_otherwise": sum(t.n_otherwise for t in timings),  # 0: the times are those of what was played
    }


def _loop_ms_by_start(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    return {
        r.key: r.timing.loop_ms / len(r.timing.latency_ms)
        for r in records
        if r.timing is not None and r.timing.loop_ms is not None
    }


def _deviation(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Mean absolute distance to the baseline's action on the same observation, weighted by steps."""

    def weighted(value: Callable[[EpisodeRecord], float | None]) -> float | None:
        pairs = [(v, r.n_steps) for r in records if (v := value(r)) is not None]
        return float(np.average([v for v, _ in pairs], weights=[n for _, n in pairs])) if pairs else None

    return {
        "bins": weighted(lambda r: r.deviation_bins),
        "mm": weighted(lambda r: r.deviation_mm),
        "deg": weighted(lambda r: r.deviation_deg),
    }


def _paired(records: Sequence[EpisodeRecord], baseline: Sequence[EpisodeRecord]) -> dict[str, Any] | None:
    """Success against the baseline on the starts both have played and seen alike."""
    reference = {(r.key, r.start_hash): r.success for r in baseline}
    pairs = [(reference[r.key, r.start_hash], r.success) for r in records if (r.key, r.start_hash) in reference]
    difference = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    if difference is None:
        return None
    return {"n_pairs": len(pairs), "difference_points": _percent(difference), "ci95": _percent_pair(difference)}


def _by_task(records: Sequence[EpisodeRecord]) -> dict[int, list[EpisodeRecord]]:
    grouped: dict[int, list[EpisodeRecord]] = {}
    for record in records:
        grouped.setdefault(record.task_index, []).append(record)
    return grouped


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _percent(estimate: Estimate | None) -> float | None:
    return None if estimate is None else round(100 * estimate.value, 2)


def _percent_pair(estimate: Estimate | None) -> tuple[float, float] | None:
    return None if estimate is None else (round(100 * estimate.low, 2), round(100 * estimate.high, 2))
