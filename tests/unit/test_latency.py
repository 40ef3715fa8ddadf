"""Benchmarks of latency over toy agents with a clock that only moves when they work."""

from dataclasses import replace

import numpy as np
import pytest
from toy_world import observation

from heisd.bench.cost_model import Usage
from heisd.bench.latency import BenchConfig, cost_ratio, interleave, record, summarise
from heisd.bench.observations import load_observations, save_observations
from heisd.bench.overhead import overhead_block, overhead_text
from heisd.errors import BadArtifact, BadInput
from heisd.types import Action, StepRecord, TokenOrigin


class ClockedAgent:
    """Advances a shared clock by a fixed time per action; its first call is slow."""

    def __init__(self, clock_ns, ms, stages):
        self.clock_ns, self.ms, self.stages, self.calls, self.resets = clock_ns, ms, stages, 0, 0

    def reset(self):
        self.resets += 1

    def act(self, _):
        self.calls += 1
        self.clock_ns[0] += int(1e6 * (self.ms if self.calls > 1 else 100))
        action = Action(np.zeros(7), np.zeros(7, dtype=np.int64), (TokenOrigin.DECODED,) * 7)
        return action, StepRecord(0, self.ms, self.stages, 7, {"decoded": 7})


@pytest.fixture
def series():
    clock = [0]
    agents = {
        "ar": ClockedAgent(clock, 4.0, {"encode": 0.5, "prefill": 1.5, "decode": 2.0}),
        "fast": ClockedAgent(clock, 2.0, {"encode": 0.5, "prefill": 1.5}),
    }
    recorded = [observation(0.1 * i, i) for i in range(5)]
    return interleave(agents, recorded, steps=20, warmup=3, now_ns=lambda: clock[0])


def test_warm_up_is_apart_and_ratios_are_of_sums(series):
    result = summarise(series, BenchConfig(("ar", "fast"), steps=20, warmup=3))
    assert result["methods"]["ar"]["ms_per_action"] == {"n": 20, "p50": 4.0, "p95": 4.0, "p99": 4.0, "mean": 4.0}
    assert result["methods"]["ar"]["first_ms"] == pytest.approx(100)
    assert result["methods"]["ar"]["warmup_ms"]["n"] == 3
    assert result["methods"]["fast"]["speedup_vs_baseline"]["ratio"] == pytest.approx(2.0)
    assert result["methods"]["ar"]["speedup_vs_baseline"] is None


def test_a_bench_says_what_its_methods_did_as_an_evaluation_does(series):
    block = summarise(series, BenchConfig(("ar", "fast"), steps=20, warmup=3))["methods"]["ar"]["speculation"]
    assert Usage.of(block).n_forwards == 7.0
    assert (block["lm_forwards_per_action"], block["decoded"]) == (7.0, 140)
    assert block["routes"] == {"speculate/always": {"n": 20, "share": 1.0}}


def test_the_overhead_is_what_no_network_runs_in_beside_a_plain_step(series):
    series["fast"].stage_ms |= {
        "trie": [0.1] * 10, "route": [0.02] * 20, "accept": [0.03] * 20, "act": [0.04] * 20, "record": [0.01] * 20,
        "propose": [5.0] * 20,
    }  # fmt: skip
    methods = summarise(series, BenchConfig(("ar", "fast"), steps=20, warmup=3))["methods"]
    assert methods["fast"]["overhead_ms"] == pytest.approx(0.15)  # no trie in half of the steps
    assert methods["fast"]["overhead_share_of_plain"] == pytest.approx(0.15 / 4.0)
    assert overhead_text(methods["fast"]).endswith("record: 0.15 ms a step, 3.8 % of a plain step")
    unlike = summarise(series, BenchConfig(("fast", "ar"), steps=20, warmup=3))["methods"]["fast"]
    assert (unlike["overhead_ms"], unlike["overhead_share_of_plain"]) == (pytest.approx(0.15), None)
    assert overhead_text(unlike) == "trie + route + accept + act + record: 0.15 ms a step"
    assert overhead_block({}, 0, 1.0) == {"overhead_ms": None, "overhead_share_of_plain": None}
    assert overhead_text({}) is None


def test_all_forget_the_episode_before_where_one_begins():
    clock = [0]
    agent = ClockedAgent(clock, 1.0, {})
    recorded = [replace(observation(0.0, i), time_s=t) for i, t in enumerate((0.0, 0.1, 0.0, 0.1, 0.2))]
    interleave({"ar": agent}, recorded, steps=8, warmup=2, now_ns=lambda: clock[0])
    assert agent.resets == 4  # two episodes, twice


def test_the_cost_ratio_bounds_the_speed_up(series):
    assert cost_ratio(series["ar"]) == {"decode_over_prefill": pytest.approx(1.0), "ceiling": pytest.approx(2.0)}


def test_observations_survive_the_file(tmp_path):
    recorded = [observation(0.1 * i, i) for i in range(3)]
    path = tmp_path / "o.npz"
    save_observations(path, recorded)
    for before, after in zip(recorded, load_observations(path), strict=True):
        assert after.instruction == before.instruction
        assert after.time_s == before.time_s
        np.testing.assert_array_equal(after.images["wrist"], before.images["wrist"])
        np.testing.assert_array_equal(after.proprio.eef_pos_m, before.proprio.eef_pos_m)
    assert [p.name for p in tmp_path.iterdir()] == ["o.npz"]


def test_bad_observation_files_are_named(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        load_observations(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(BadArtifact, match=r"text\.npz is not a file of recorded observations"):
        load_observations(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(BadArtifact, match=r"other\.npz"):
        load_observations(tmp_path / "other.npz")


def test_recording_starts_again_when_the_episode_ends():
    from toy_world import ToyWorld

    recorded = record(ToyWorld(), BenchConfig(("ar",), suite="toy"), n_steps=25)
    assert len(recorded) == 25
    assert sum(o.time_s == 0 for o in recorded) >= 2
