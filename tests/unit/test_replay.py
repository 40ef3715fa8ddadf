"""Timing passes: the same observations for everybody, in turns, and the simulator's company kept apart."""

import subprocess
import sys

import numpy as np
import pytest
from toy_world import ToyAgent, ToyWorld, config, observation, setting

from heisd.bench import replay, rollout
from heisd.bench.evaluate import evaluate
from heisd.bench.latency import TURN_STEPS, interleave
from heisd.bench.replay import WARMUP_CALLS, Timed, episode_timing, replay_beside
from heisd.bench.results import RunDirectory
from heisd.errors import BadInput
from heisd.types import Action, StepRecord

ONE, TWO, TOKENS = np.full(7, 1.0), np.full(7, 2.0), np.zeros(7, dtype=np.int64)


class Listening(ToyAgent):
    """Writes down who was asked what."""

    def __init__(self, name, heard, stages=None):
        super().__init__(1.0)
        self.name, self.heard, self.stages = name, heard, stages or {}

    def reset(self):
        super().reset()
        self.heard.append((self.name, "reset"))

    def act(self, seen):
        self.heard.append((self.name, seen.time_s))
        action, _ = super().act(seen)
        return action, StepRecord(self.step, 1.0, dict(self.stages), 7, {"decoded": 7})


def test_each_answers_the_whole_episode_in_one_go_from_a_fresh_start():
    seen = [observation(0.1 * i, i) for i in range(4)]
    firsts = set()
    for seed in range(8):
        heard = []
        replay_beside(Listening("a", heard), Listening("b", heard), seen, seed=seed)
        pass_of = {name: [what for who, what in heard if who == name] for name in "ab"}
        whole = ["reset", *[seen[0].time_s] * WARMUP_CALLS, "reset", *(o.time_s for o in seen), "reset"]
        assert pass_of == {"a": whole, "b": whole}
        assert [who for who, _ in heard] in (
            ["a"] * len(whole) + ["b"] * len(whole),
            ["b"] * len(whole) + ["a"] * len(whole),
        )
        firsts.add(heard[0][0])
    assert firsts == {"a", "b"}


def test_what_is_kept_of_a_replay():
    steps = [
        Timed(Action(ONE, TOKENS, ()), StepRecord(0, 1.0, {"encode": 1.0}, 1, {}), 2.0, 0.5),
        Timed(Action(TWO, TOKENS, ()), StepRecord(1, 1.0, {"encode": 3.0, "decode": 4.0}, 1, {}), 8.0, 0.25),
    ]
    kept = episode_timing(replay.Replay([9.0], steps), replay.Replay([9.0], steps[:1]), 30.0, played=[ONE, TWO])
    assert (kept.latency_ms, kept.shadow_ms, kept.loop_ms) == ([2.0, 8.0], [2.0], 30.0)
    assert kept.stage_ms == {"encode": [1.0, 3.0], "decode": [0.0, 4.0]}
    assert (kept.cpu_s, kept.papers_ms, kept.shadow_papers_ms) == (0.75, 8.0, 1.0)
    alone = episode_timing(replay.Replay([9.0], steps), None, 30.0, played=[ONE, ONE])
    assert (alone.shadow_ms, alone.shadow_papers_ms) == ([], None)
    assert (kept.n_otherwise, alone.n_otherwise) == (0, 1)


def test_the_simulator_s_company_has_figures_of_its_own(tmp_path, monkeypatch):
    """Played beside the simulator a call takes 12 ms (fast: 8), alone 6 and 3."""
    monkeypatch.setattr("heisd.bench.methods.PRESETS", {"ar": "", "fast": ""})

    def taking(plain_ms, fast_ms):
        def timed(agent, seen):
            action, record = agent.act(seen)
            return Timed(action, record, plain_ms if agent.speed == 1.0 else fast_ms, 0.0)

        return timed

    monkeypatch.setattr(rollout, "timed", taking(12.0, 8.0))
    monkeypatch.setattr(replay, "timed", taking(6.0, 3.0))
    blocks = evaluate(config(methods=("ar", "fast"), timing=True), tmp_path / "run", setting())["methods"]
    assert blocks["ar"]["ms_per_action"]["mean"] == 6.0
    assert blocks["ar"]["in_loop"] == {
        "ms_per_action": 12.0, "speedup_vs_baseline": None, "n_replayed_otherwise": 0,
    }  # fmt: skip
    assert blocks["fast"]["speedup_vs_baseline"]["ratio"] == pytest.approx(2.0)
    assert blocks["fast"]["in_loop"]["ms_per_action"] == pytest.approx(8.0)
    assert blocks["fast"]["in_loop"]["speedup_vs_baseline"]["ratio"] == pytest.approx(1.5)
    assert {motion["speedup_vs_baseline"] for motion in blocks["fast"]["speculation"]["by_motion"].values()} == {2.0}
    assert evaluate(config(methods=("ar",)), tmp_path / "untimed", setting())["methods"]["ar"]["in_loop"] is None


def test_the_replayed_observations_are_those_that_were_answered(tmp_path, monkeypatch):
    answered, again = [], []

    class World(ToyWorld):
        def agent(self, method):
            return Watching(1.0 if method == "ar" else 0.9)

    class Watching(ToyAgent):
        def act(self, seen):
            (answered if rollout_is_on[0] else again).append(rollout.observation_hash(seen))
            return super().act(seen)

    rollout_is_on = [True]
    time = rollout._time

    def timing(*args):
        rollout_is_on[0] = False
        time(*args)
        rollout_is_on[0] = True

    monkeypatch.setattr(rollout, "_time", timing)
    evaluate(config(timing=True, episodes=1), tmp_path / "run", setting(lambda *_, **__: World()))
    (record,) = RunDirectory(tmp_path / "run").records()
    assert again == [answered[0]] * WARMUP_CALLS + answered
    assert len(record.timing.latency_ms) == len(answered) == record.n_steps > 3


def test_a_bench_asks_in_turns():
    heard = []
    seen = [observation(0.1 * i, i) for i in range(3 * TURN_STEPS)]
    interleave({name: Listening(name, heard) for name in "abc"}, seen, steps=2 * TURN_STEPS + 3, warmup=1)
    asked = [who for who, what in heard if what != "reset"]
    turns = [asked[i] for i in range(len(asked)) if i == 0 or asked[i] != asked[i - 1]]
    assert len(turns) <= 9
    for name in "abc":
        assert [what for who, what in heard if who == name] == [
            "reset",
            *(o.time_s for o in seen[: 2 * TURN_STEPS + 4]),
        ]
    assert np.ptp([asked.count(name) for name in "abc"]) == 0


def test_the_peak_of_memory_is_not_that_of_whoever_started_the_process():
    large = np.ones(40_000_000)  # 320 MB, touched
    mine = rollout.peak_rss_mb()
    code = "from heisd.bench.rollout import peak_rss_mb; print(peak_rss_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert large[0] == 1.0
    assert 10 < float(done.stdout) < mine - 100


def test_a_replay_that_decides_otherwise_is_told(tmp_path, caplog):
    class Fickle(ToyAgent):
        n_episodes = 0

        def reset(self):
            super().reset()
            self.n_episodes += 1

        def act(self, seen):
            self.speed = 1.0 if self.n_episodes == 1 else 0.5
            return super().act(seen)

    class World(ToyWorld):
        def agent(self, method):  # noqa: ARG002
            self.mine = getattr(self, "mine", Fickle(1.0))
            return self.mine

    block = evaluate(config(timing=True, episodes=1), tmp_path / "run", setting(lambda *_, **__: World()))["methods"][
        "ar"
    ]
    assert block["in_loop"]["n_replayed_otherwise"] == block["ms_per_action"]["n"] > 3
    assert "replayed otherwise than played" in caplog.text


def test_a_run_timed_in_the_older_way_is_not_resumed(tmp_path):
    evaluate(config(timing=True, episodes=1), tmp_path / "run", setting())
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"timing": "replay"', '"timing": "beside"'))
    with pytest.raises(BadInput, match="timing"):
        evaluate(config(timing=True, episodes=1), tmp_path / "run", setting())
