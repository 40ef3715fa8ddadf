"""Closed-loop evaluation over a toy world: outcomes, resuming, crashes, refusals."""

import ctypes
import json
import signal

import numpy as np
import pytest
import toy_world
from toy_world import config, setting

from heisd.bench.evaluate import evaluate, filmed_tasks
from heisd.bench.results import EPISODES_NAME, RESULT_NAME, RunDirectory, open_run
from heisd.config import EvalConfig
from heisd.errors import BadArtifact, BadInput, MissingExtra
from heisd.sim.splits import Split, episode_starts


@pytest.fixture(autouse=True)
def _outside_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that the committed log of test runs is never written to


@pytest.fixture
def _ctrl_c():
    """Python's own handler, also where a shell has started the tests in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def lines(out):
    return (out / EPISODES_NAME).read_text().splitlines()


def test_result_has_lerobot_fields_and_method_blocks(tmp_path):
    result = evaluate(config(), tmp_path / "run", setting())
    # Task 0 is always solved, task 1 only from even states: 30 yes, 31 no.
    assert [t["metrics"]["successes"] for t in result["per_task"]] == [[True, True], [True, False]]
    assert result["overall"]["pc_success"] == 75.0
    assert result["overall"]["n_episodes"] == 4
    assert result["per_group"]["toy"]["pc_success"] == 75.0
    block = result["methods"]["ar"]
    assert block["wilson95"][0] < 75 < block["wilson95"][1]
    assert block["speculation"]["lm_forwards_per_action"] == 7
    assert block["speculation"]["decoded"] == 7 * sum(json.loads(line)["n_steps"] for line in lines(tmp_path / "run"))
    assert result["status"] == "complete"
    assert json.loads((tmp_path / "run" / RESULT_NAME).read_text())["methods"]["ar"]["n_episodes"] == 4


def test_latencies_exist_only_with_timing(tmp_path):
    plain = evaluate(config(), tmp_path / "plain", setting())["methods"]["ar"]
    assert plain["ms_per_action"] == {"n": 0, "p50": None, "p95": None, "p99": None, "mean": None}
    assert plain["cpu_s_per_action"] is None
    assert plain["stages"] == {}
    timed = evaluate(config(timing=True), tmp_path / "timed", setting())["methods"]["ar"]
    assert timed["ms_per_action"]["n"] > 0
    assert timed["stages"]["decode"]["p50"] == 0.75
    assert timed["speedup_vs_baseline"] is None
    assert (plain["overhead_ms"], plain["overhead_share_of_plain"]) == (None, None)
    assert timed["overhead_ms"] == 0.0  # the toy names no such stage


def test_the_overhead_stands_beside_the_shadow_s_plain_step(tmp_path, monkeypatch):
    monkeypatch.setattr("heisd.bench.methods.PRESETS", {"ar": "", "slow": ""})
    monkeypatch.setattr("toy_world.STAGES", {"encode": 0.5, "route": 0.125, "record": 0.125})
    run = evaluate(config(methods=("ar", "slow"), timing=True), tmp_path / "run", setting())
    records = RunDirectory(tmp_path / "run").records()
    for name, block in run["methods"].items():
        timings = [r.timing for r in records if r.method == name]
        plain = [ms for t in timings for ms in (t.shadow_ms or t.latency_ms)]
        assert block["overhead_ms"] == 0.25
        assert block["overhead_share_of_plain"] == pytest.approx(0.25 / np.mean(plain), rel=1e-3)


def test_two_methods_are_paired_and_shadowed(tmp_path, monkeypatch):
    monkeypatch.setattr("heisd.bench.methods.PRESETS", {"ar": "", "slow": ""})
    result = evaluate(config(methods=("ar", "slow"), timing=True), tmp_path / "run", setting())
    slow = result["methods"]["slow"]
    assert slow["paired"]["n_pairs"] == 4
    assert slow["paired"]["difference_points"] == 0
    assert slow["speedup_vs_baseline"]["clock"] == "full"
    assert slow["speedup_vs_baseline"]["ci95"][0] <= slow["speedup_vs_baseline"]["ratio"]
    # Only x differs, by 0.1 of its range: 5 mm over three axes, 12.75 bins over seven dimensions.
    assert slow["deviation"]["mm"] == pytest.approx(5 / 3)
    assert slow["deviation"]["bins"] == pytest.approx(12.75 / 7)
    assert result["methods"]["ar"]["paired"] is None


def test_a_torn_line_is_dropped_and_only_missing_episodes_are_played(tmp_path):
    out = tmp_path / "run"
    first = evaluate(config(), out, setting())
    whole = lines(out)
    (out / EPISODES_NAME).write_text("\n".join(whole[:2]) + "\n" + whole[2][:40])
    assert len(RunDirectory(out).records()) == 2  # readers, too, come upon runs that were killed
    played = []
    again = evaluate(config(), out, setting(), progress=lambda record, *_: played.append(record.key))
    assert len(played) == 2
    assert len(RunDirectory(out).records()) == len(lines(out)) == 4
    assert again["methods"]["ar"]["pc_success"] == first["methods"]["ar"]["pc_success"]


def test_interrupting_loses_nothing_and_leaves_no_result(tmp_path):
    def stop(_record, done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), tmp_path / "run", setting(), progress=stop)
    assert len(lines(tmp_path / "run")) == 3
    assert not (tmp_path / "run" / RESULT_NAME).exists()
    assert evaluate(config(), tmp_path / "run", setting())["overall"]["n_episodes"] == 4


def test_an_older_result_does_not_stay_beside_unfinished_episodes(tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    evaluate(config(), out, setting())
    (out / EPISODES_NAME).write_text("\n".join(lines(out)[:2]) + "\n")
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), out, setting(), progress=stop)
    assert not (out / RESULT_NAME).exists()


def test_an_interrupt_while_the_policy_thinks_is_no_invalid_episode(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(toy_world.ToyAgent, "act", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), tmp_path / "run", setting())
    assert not (tmp_path / "run" / EPISODES_NAME).exists()


def test_resuming_with_another_configuration_says_what_differs(tmp_path):
    evaluate(config(), tmp_path / "run", setting())
    with pytest.raises(BadInput, match=r"condition: shipped -> jitter; episodes: 4 -> 6"):
        evaluate(config(episodes=6, condition="jitter"), tmp_path / "run", setting())
    evaluate(config(videos=1), tmp_path / "run", setting())  # the manner may change


def test_a_crash_is_retried_and_never_a_failure(tmp_path, monkeypatch):
    trips = tmp_path / "trips"
    trips.write_text("1")
    monkeypatch.setenv("TOY_TRIPS", str(trips))
    result = evaluate(config(), tmp_path / "run", setting(toy_world.fragile_world))
    assert result["overall"]["pc_success"] == 75.0
    assert result["invalid"] == {"n": 0, "episodes": []}
    assert [json.loads(line)["error"] for line in lines(tmp_path / "run")].count(None) == 4
    assert len(lines(tmp_path / "run")) == 5


def test_an_episode_that_always_crashes_is_reported_apart(tmp_path, monkeypatch):
    trips = tmp_path / "trips"
    trips.write_text("1000")
    monkeypatch.setenv("TOY_TRIPS", str(trips))
    result = evaluate(config(episodes=1), tmp_path / "run", setting(toy_world.fragile_world))
    assert result["status"] == "invalid_episodes"
    assert result["invalid"]["n"] == 1
    assert "renderer tripped" in result["invalid"]["episodes"][0]["error"]
    assert result["methods"]["ar"] | {"n_episodes": 0, "pc_success": None} == result["methods"]["ar"]


def test_two_writers_are_refused(tmp_path):
    with open_run(tmp_path, {"a": 1}), pytest.raises(BadInput, match="another process"), open_run(tmp_path, {"a": 1}):
        pass


def test_garbage_inside_the_records_is_an_error_with_its_line(tmp_path):
    evaluate(config(), tmp_path / "run", setting())
    path = tmp_path / "run" / EPISODES_NAME
    path.write_text("{not json}\n" + path.read_text())
    with pytest.raises(BadArtifact, match="line 1"):
        RunDirectory(tmp_path / "run").records()


def test_full_disk_takes_the_line_back(tmp_path, monkeypatch):
    out = tmp_path / "run"
    evaluate(config(), out, setting())
    record = RunDirectory(out).records()[0]
    before = (out / EPISODES_NAME).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("heisd.bench.results.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        RunDirectory(out).append(record)
    assert (out / EPISODES_NAME).read_bytes() == before


def test_every_test_split_run_is_logged(tmp_path):
    out = tmp_path / "run"
    evaluate(config(), out, setting())
    assert not (out / "test_runs.jsonl").exists()
    out = tmp_path / "test"
    evaluate(config(split="test"), out, setting())
    log = [json.loads(line) for line in (out / "test_runs.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in log] == ["started", "finished"]
    assert log[1]["pc_success"] == {"ar": 75.0}


def test_inside_a_checkout_the_log_is_the_committed_one(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('name = "heisd"\n')
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    evaluate(config(split="test"), tmp_path / "run", setting())
    assert (tmp_path / "benchmarks" / "test_runs.jsonl").exists()


def test_worker_processes_give_the_same_result(tmp_path):
    pytest.importorskip("heisd.sim.pool")
    serial = evaluate(config(), tmp_path / "serial", setting())
    pooled = evaluate(config(workers=2), tmp_path / "pooled", setting())
    assert serial["per_task"] == pooled["per_task"]


def test_films_are_made_for_first_success_and_first_failure(tmp_path):
    result = evaluate(config(videos=1), tmp_path / "run", setting())
    films = sorted(p.name for p in (tmp_path / "run" / "videos").glob("*.mp4"))
    assert films == ["ar_task00_success.mp4", "ar_task01_failure.mp4"]
    assert result["overall"]["video_paths"] == [f"videos/{name}" for name in films]


def test_filmed_tasks_are_spread():
    starts = episode_starts("s", 10, Split.TEST, 10)
    assert filmed_tasks(config(videos=3), starts) == {0, 3, 6}
    assert filmed_tasks(config(videos=0), starts) == set()


def test_timing_is_serial():
    with pytest.raises(BadInput, match="--timing is serial"):
        EvalConfig(suite="s", methods=("ar",), timing=True, workers=2)


def test_warm_up_is_apart_from_the_episodes_times(tmp_path):
    result = evaluate(config(timing=True, episodes=2), tmp_path / "run", setting())
    block = result["methods"]["ar"]
    assert block["warmup_ms"]["n"] == 4
    assert block["ms_per_action"]["n"] == 2 * block["mean_steps"]


def test_an_episode_counts_without_its_film(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("ffmpeg went away")

    monkeypatch.setattr("heisd.bench.videos._encode", broken)
    result = evaluate(config(videos=2), tmp_path / "run", setting())
    assert result["overall"]["pc_success"] == 75.0
    assert result["overall"]["video_paths"] == []
    assert list((tmp_path / "run" / "videos").iterdir()) == []


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("is_interrupted", "expected"), [(True, KeyboardInterrupt), (False, MissingExtra)])
def test_an_interrupted_import_is_an_interrupt_and_a_broken_one_stops_the_run(
    tmp_path, monkeypatch, is_interrupted, expected
):
    def broken(*_):
        if is_interrupted:
            lose_an_interrupt()
        raise ImportError("initialization failed")

    monkeypatch.setattr(toy_world.ToyWorld, "env", broken)
    with pytest.raises(expected):
        evaluate(config(), tmp_path / "run", setting())
    assert not (tmp_path / "run" / EPISODES_NAME).exists()


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_lost_in_a_callback_from_c_still_stops_the_run(tmp_path, monkeypatch):
    act, calls = toy_world.ToyAgent.act, []

    def act_and_lose_an_interrupt(self, observation):
        calls.append(observation)
        if len(calls) == 3:
            lose_an_interrupt()
        return act(self, observation)

    monkeypatch.setattr(toy_world.ToyAgent, "act", act_and_lose_an_interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), tmp_path / "run", setting())
    assert len(calls) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def lose_an_interrupt():
    """Ctrl-C while a callback from C runs: Python prints the KeyboardInterrupt and drops it."""
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()
