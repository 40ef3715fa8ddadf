"""Made-up runs for rows of the comparison."""

from pathlib import Path
from types import SimpleNamespace

from heisd.bench.report_run import Run
from heisd.bench.results import EpisodeTiming


def run(
    outcomes: dict[str, str],
    *,
    suite: str = "toy",
    condition: str = "shipped",
    timing: bool = False,
    hashes: str = "h",
    first: int = 0,
    faults: dict | None = None,
    ms: dict[str, float] | None = None,
) -> Run:
    """``outcomes``: preset -> a letter an episode, ``+`` solved and ``-`` not; the baseline comes first.

    ``ms``: what a step of each preset takes; two of them are an episode.
    """
    config = {"suite": suite, "condition": condition, "split": "test", "dtype": "float32", "timing": timing}
    blocks = {
        name: {"n_episodes": len(letters), "ms_per_action": {"n": 10 * len(letters) * timing}}
        for name, letters in outcomes.items()
    }
    baseline = next(iter(outcomes))
    records = [
        SimpleNamespace(
            method=name, key=f"{suite}/{condition}/{i}", start_hash=f"{hashes}{i}", success=letter == "+",
            timing=taken(ms[baseline], ms[name], is_plain=name == baseline) if timing and ms else None,
            speculation=speculation(faults if name != baseline else None),
        )
        for name, letters in outcomes.items()
        for i, letter in enumerate(letters, first)
    ]  # fmt: skip
    result = {"config": config, "methods": blocks, "policy": {"name": "p", "sha256": "s"}, "condition": condition}
    return Run(Path(f"{suite}-{condition}-{first}"), result, records)


def speculation(faults: dict | None) -> dict:
    from heisd.bench.speculation import SpeculationCounts

    return {**SpeculationCounts().as_dict(), "faults": faults or {}}


def taken(plain_ms: float, own_ms: float, *, is_plain: bool) -> EpisodeTiming:
    """In the simulator's company everybody takes 4 ms more a step."""
    mine_ms = plain_ms if is_plain else own_ms
    return EpisodeTiming([mine_ms] * 2, {}, 0.0, [] if is_plain else [plain_ms] * 2, [], loop_ms=2 * (mine_ms + 4.0))


def group(*runs: Run):
    from rows import Group

    return Group(runs)
