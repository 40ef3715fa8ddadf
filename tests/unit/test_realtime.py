"""The latency-charged loop over a toy world: when commands arrive, what is counted, what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from test_latency_profile import STAGES, written
from toy_world import config, setting
from typer.testing import CliRunner

from heisd import cli
from heisd.bench import rollout
from heisd.bench.evaluate import evaluate
from heisd.bench.realtime import Patient, RealTime, pacing_block
from heisd.bench.report import write_report
from heisd.bench.results import EpisodePacing, RunDirectory
from heisd.config import EvalConfig, Meanwhile, RealtimeConfig
from heisd.errors import BadInput, UnknownName
from heisd.types import Observation, StepRecord

PERIOD_MS = 50.0


@pytest.fixture(autouse=True)
def _outside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class LoggingEnv:
    """Remembers what it was told at every step; ends as told."""

    def __init__(self, n_steps: int = 100, succeeds_at: int | None = None) -> None:
        self.log: list[float | None] = []  # first number of every command, None for none
        self.n_steps, self.succeeds_at = n_steps, succeeds_at

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        return self._advance(float(action[0]))

    def wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        return self._advance(None)

    def _advance(self, command: float | None) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.log.append(command)
        n = len(self.log)
        success = n == self.succeeds_at
        return toy_world.observation(0.0, n), float(success), success, n >= self.n_steps, {}


class Charges:
    """A meter that reads the charge out of the record's step number."""

    def __init__(self, *ms: float) -> None:
        self.ms = ms

    def charge_ms(self, record: StepRecord) -> float:
        return self.ms[record.step % len(self.ms)]


def drive(
    ms: tuple[float, ...], n_steps: int, *, hz: int = 20, meanwhile: Meanwhile = Meanwhile.HOLD, **env: Any
) -> tuple[LoggingEnv, EpisodePacing, list[int]]:
    """The k-th answer commands k + 1; also the world step at which each was asked for."""
    world, asked = LoggingEnv(n_steps, **env), []
    settings = RealtimeConfig(latency_profile="zero", control_hz=hz, meanwhile=meanwhile)
    pace, is_over, k = RealTime(world, Charges(*ms), settings), False, 0
    while not is_over:
        asked.append(len(world.log))
        values = np.array([k + 1.0, 0, 0, 0, 0, 0, 1.0])
        for step in pace.answer(values, StepRecord(k, 0.0, {}, 7, {"decoded": 7})):
            assert not is_over, "nothing happens behind the end"
            is_over = step.is_over
        k += 1
    return world, pace.pacing, asked


N = None


@pytest.mark.parametrize(
    ("ms", "log", "asked"),
    [
        ((0.0,), [1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]),  # the ordinary loop
        ((10.0,), [N, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),  # one step late, and a new action in every step
        ((50.0,), [N, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),  # exactly a period is one
        ((50.1,), [N, N, 1, N, 2, N], [0, 2, 4]),
        ((174.0,), [N, N, N, N, 1, N, N, N, 2, N], [0, 4, 8]),
        ((174.0, 20.0), [N, N, N, N, 1, 2, N, N, N, 3, 4, N], [0, 4, 5, 9, 10]),
        ((120.0, 0.0, 0.0), [N, N, N, 1, 2, 3, N, N, 4, 5, 6, N], [0, 3, 4, 5, 8, 9, 10]),  # a chunk in hand
        ((0.0, 60.0), [1, N, N, 2, 3, N, 4, 5], [0, 1, 3, 4, 6, 7]),
    ],
)
def test_a_command_comes_into_force_when_its_charge_is_over(
    ms: tuple[float, ...], log: list[float | None], asked: list[int]
) -> None:
    world, pacing, began = drive(ms, len(log))
    assert world.log == log
    assert began == asked
    assert pacing.n_control_steps == len(log)
    assert pacing.n_new_actions == sum(command is not None for command in log)
    assert pacing.charged_ms == [ms[i % len(ms)] for i in range(len(asked))]


def test_a_sum_of_stages_that_is_a_period_up_to_rounding_is_one_period() -> None:
    sum_ms = sum([0.1] * 500)
    world, *_ = drive((sum_ms,), 4)
    assert PERIOD_MS < sum_ms < PERIOD_MS + 1e-9
    assert world.log == [N, 1, 2, 3]


@pytest.mark.parametrize(
    ("meanwhile", "log"),
    [
        (Meanwhile.HOLD, [N, N, 1, N, 2, N]),
        (Meanwhile.REPEAT, [N, N, 1, 1, 2, 2]),
        (Meanwhile.STOP, [N, N, 1, 0, 2, 0]),
    ],
)
def test_what_the_robot_does_meanwhile(meanwhile: Meanwhile, log: list[float | None]) -> None:
    assert drive((80.0,), 6, meanwhile=meanwhile)[0].log == log


def test_stopping_leaves_the_gripper_as_commanded() -> None:
    told: list[Any] = []

    class Env(LoggingEnv):
        def step(self, action: Any) -> Any:
            told.append(np.asarray(action).tolist())
            return super().step(action)

    settings = RealtimeConfig(latency_profile="zero", meanwhile=Meanwhile.STOP)
    pace = RealTime(Env(6), Charges(80.0), settings)
    for k in range(2):
        list(pace.answer(np.array([0.5, 0, 0, 0, 0, 0, 1.0]), StepRecord(k, 0.0, {}, 7, {"decoded": 7})))
    assert told == [[0.5, 0, 0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0, 0, 1.0]]


def test_a_slower_control_rate_keeps_every_command_for_its_period() -> None:
    world, pacing, asked = drive((0.0,), 6, hz=10)
    assert (world.log, asked) == ([1, N, 2, N, 3, N], [0, 2, 4])
    assert (pacing.n_control_steps, pacing.n_new_actions) == (3, 3)
    world, pacing, _ = drive((120.0,), 10, hz=10, meanwhile=Meanwhile.REPEAT)
    assert world.log == [N, N, N, N, 1, N, 1, N, 2, N]
    assert (pacing.n_control_steps, pacing.n_new_actions) == (5, 2)


def test_an_episode_ends_where_it_ends() -> None:
    for hz, ms in ((20, 300.0), (10, 300.0), (5, 300.0), (10, 0.0), (5, 0.0)):
        assert len(drive((ms,), 100, hz=hz, succeeds_at=9)[0].log) == 9
        assert len(drive((ms,), 7, hz=hz)[0].log) == 7


def test_the_age_of_actions_by_hand() -> None:
    # [N, N, 1, N, 2, N]: 1 answers to step 0 and is in force in steps 2 and 3, 2 to step 2 and in 4 and 5.
    pacing = drive((80.0,), 6)[1]
    assert (pacing.n_commanded_steps, pacing.sum_age_steps) == (4, 2 + 3 + 2 + 3)
    assert drive((0.0,), 6)[1].sum_age_steps == 0
    assert drive((10.0,), 6)[1].sum_age_steps == 5  # one step each


# --- through the evaluation -------------------------------------------------------------------------------------------


def charged(path: Path, decode_ms: float, **more: Any) -> dict[str, Any]:
    """Settings of a run whose plain answers take vision 1, prefill 4, overhead 0.25 and six decodes."""
    ms = {**STAGES, "decode": decode_ms}
    stages = {name: {"ms": value, "kind": "assumed", "source": "a test"} for name, value in ms.items()}
    return {"latency_profile": str(written(path, stages=stages)), **more}


def summary(records: list[Any]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    skip = {"wall_s", "peak_rss_mb", "realtime"}
    return [{k: v for k, v in asdict(record).items() if k not in skip} for record in records]


@pytest.mark.parametrize("name", ["zero", "own"])
def test_a_profile_of_zeros_is_the_ordinary_loop_step_for_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every action, observation and record, films and their timelines among them."""
    seen: dict[str, list[Any]] = {}

    class Watched(toy_world.ToyEnv):
        def step(self, action: Any) -> Any:
            outcome = super().step(action)
            seen.setdefault(where, []).append((self.task_index, np.asarray(action).tolist(), outcome[0].time_s))
            return outcome

    monkeypatch.setattr(toy_world, "ToyEnv", Watched)
    profile = name if name == "zero" else charged(tmp_path / "own.json", 1.0)["latency_profile"]
    if name == "own":
        ms = json.loads(Path(profile).read_text())
        ms["stages"] = {k: {**stage, "ms": 0} for k, stage in ms["stages"].items()}
        Path(profile).write_text(json.dumps(ms))
    where = "plain"
    evaluate(config(videos=1), tmp_path / where, setting())
    where = "charged"
    result = evaluate(config(videos=1, realtime={"latency_profile": profile}), tmp_path / where, setting())
    assert seen["charged"] == seen["plain"]
    plain, paced = (RunDirectory(tmp_path / at).records() for at in ("plain", "charged"))
    assert summary(paced) == summary(plain)
    assert any(record.timeline for record in paced)
    block = result["methods"]["ar"]["realtime"]
    assert (block["stale_action_ratio"], block["mean_action_age_steps"], block["effective_control_hz"]) == (0, 0, 20)
    assert block["deadline_misses"] == {"n": 0, "share": 0.0}


def test_a_result_tells_how_control_suffered(tmp_path: Path) -> None:
    # 1 + 4 + 0.25 + 6 x 19 = 119.25 ms: three steps. 20 steps: 3 without anything, then an action every third.
    settings = charged(tmp_path / "slow.json", 19.0)
    result = evaluate(config(realtime=settings), tmp_path / "run", setting())
    block = result["methods"]["ar"]
    assert block["pc_success"] == 0.0  # 5 moves of 0.1 do not reach 1.0
    assert block["mean_steps"] == 20
    pace = block["realtime"]
    assert pace["n_control_steps"] == 4 * 20
    assert pace["n_new_actions"] == 4 * 6
    assert pace["stale_action_ratio"] == pytest.approx(1 - 6 / 20)
    assert pace["effective_control_hz"] == pytest.approx(6.0)
    assert pace["mean_action_age_steps"] == pytest.approx((5 * (3 + 4 + 5) + 3 + 4) / 17)
    assert pace["deadline_misses"] == {"n": 4 * 7, "share": 1.0}
    assert pace["charged_ms"] == {"n": 28, "p50": 119.25, "p95": 119.25, "p99": 119.25, "mean": 119.25}
    assert block["speculation"]["lm_forwards_per_action"] == 7  # counted over answers
    assert result["config"]["realtime"] == {**settings, "control_hz": 20, "meanwhile": "hold"}
    assert result["latency_profile"]["stages"]["decode"]["ms"] == 19.0
    assert len(result["latency_profile"]["sha256"]) == 64


def test_a_charged_run_repeats_exactly_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = charged(tmp_path / "slow.json", 12.0)
    evaluate(config(realtime=settings), tmp_path / "first", setting())
    monkeypatch.setattr(rollout.time, "perf_counter_ns", iter(range(0, 10**15, 10**9)).__next__)
    evaluate(config(realtime=settings), tmp_path / "second", setting())
    first, second = (RunDirectory(tmp_path / at).records() for at in ("first", "second"))
    assert summary(first) == summary(second)
    assert [r.realtime for r in first] == [r.realtime for r in second]


def test_a_run_is_resumed_and_other_settings_are_refused(tmp_path: Path) -> None:
    settings, out = charged(tmp_path / "slow.json", 12.0), tmp_path / "run"
    whole = evaluate(config(realtime=settings), out, setting())
    lines = (out / "episodes.jsonl").read_text().splitlines()
    (out / "episodes.jsonl").write_text("\n".join(lines[:2]) + "\n")
    played: list[str] = []
    again = evaluate(config(realtime=settings), out, setting(), progress=lambda r, *_: played.append(r.key))
    assert len(played) == 2
    assert again["methods"]["ar"]["realtime"] == whole["methods"]["ar"]["realtime"]
    for other, message in (
        (None, "realtime.control_hz: 20 -> None"),
        ({**settings, "control_hz": 10}, "realtime.control_hz: 20 -> 10"),
        ({**settings, "meanwhile": "repeat"}, "realtime.meanwhile: hold -> repeat"),
        ({"latency_profile": "zero"}, "realtime.latency_profile: .* -> zero"),
    ):
        with pytest.raises(BadInput, match=message):
            evaluate(config(realtime=other), out, setting())


def test_an_edited_profile_is_another_setting(tmp_path: Path) -> None:
    from heisd.bench.latency_profile import load_profile

    settings, out = charged(tmp_path / "slow.json", 12.0), tmp_path / "run"
    evaluate(config(realtime=settings), out, setting())
    charged(tmp_path / "slow.json", 13.0)
    load_profile.cache_clear()  # another process
    with pytest.raises(BadInput, match=r"provenance.latency_profile.stages.decode.ms: 12.0 -> 13.0"):
        evaluate(config(realtime=settings), out, setting())


def test_a_method_whose_proposers_have_no_latency_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    settings = charged(tmp_path / "slow.json", 12.0)
    lacking = json.loads((tmp_path / "slow.json").read_text())
    del lacking["stages"]["drafter"]
    (tmp_path / "lacking.json").write_text(json.dumps(lacking))
    with pytest.raises(BadInput, match="no latency for drafter, which method 'exact'"):
        evaluate(
            config(methods=("ar", "exact"), realtime={**settings, "latency_profile": str(tmp_path / "lacking.json")}),
            tmp_path / "run", setting(),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_runs_of_before_have_the_hash_they_had() -> None:
    assert "realtime" not in config().outcome_fields()


def test_a_film_has_every_step_and_says_when_the_policy_was_thinking(tmp_path: Path) -> None:
    settings = charged(tmp_path / "slow.json", 19.0)
    evaluate(config(realtime=settings, videos=1), tmp_path / "run", setting())
    filmed = [record for record in RunDirectory(tmp_path / "run").records() if record.timeline]
    assert filmed
    for record in filmed:
        assert record.timeline is not None
        assert "".join(record.timeline.route) == "FWW" * 6 + "FW"
        assert len(record.timeline.speed_mm) == record.n_steps == 20
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert "When the world does not wait" in page
    assert "policy thinking" in page
    assert "toy · shipped · mine" in page
    assert '<td class="num">70 %</td>' in page  # steps without a new action


def test_an_ordinary_report_has_no_word_of_it(tmp_path: Path) -> None:
    evaluate(config(videos=1), tmp_path / "run", setting())
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert "When the world does not wait" not in page
    assert "policy thinking" not in page


def test_counts_without_an_episode() -> None:
    block = pacing_block([], RealtimeConfig(latency_profile="zero"))
    assert block is not None
    assert block["effective_control_hz"] is block["deadline_misses"]["share"] is None
    assert pacing_block([], None) is None


def test_the_patient_world_waits() -> None:
    env = LoggingEnv()
    steps = list(Patient(env).answer(np.ones(7), StepRecord(0, 1e9, {}, 7, {"decoded": 7})))
    assert (env.log, len(steps)) == ([1.0], 1)


@pytest.mark.parametrize("hz", [0, -20, 3, 7, 15, 40])
def test_rates_that_the_simulation_does_not_have_are_refused(hz: int) -> None:
    with pytest.raises(BadInput, match=r"possible: 1, 2, 4, 5, 10, 20"):
        RealtimeConfig(latency_profile="zero", control_hz=hz)


def test_charged_and_measured_times_do_not_mix() -> None:
    with pytest.raises(BadInput, match="give one"):
        EvalConfig(suite="s", methods=("ar",), timing=True, realtime=RealtimeConfig(latency_profile="zero"))


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heisd.bench.libero_world.libero_setting", lambda _config: toy_world.setting())


def eval_toy(out: Path, *more: str) -> Any:
    arguments = ["eval", "--suite", "toy", "--split", "validation", "--episodes", "4", "--out", str(out), *more]
    return CliRunner().invoke(cli.app, arguments)


@pytest.mark.usefixtures("_toy")
def test_the_command_charges_a_published_profile(tmp_path: Path) -> None:
    done = eval_toy(tmp_path / "run", "--realtime", "--latency-profile", "openvla-7b-heisd", "--json")
    assert done.exit_code == 0, done.output
    pace = json.loads(done.stdout)["methods"]["ar"]["realtime"]
    assert pace["charged_ms"]["mean"] == pytest.approx(174.0, abs=0.01)
    assert pace["effective_control_hz"] == pytest.approx(20 * 4 / 20)  # steps 4, 8, 12 and 16 of 20
    assert math.isclose(pace["stale_action_ratio"], 0.8)
    table = eval_toy(tmp_path / "run", "--realtime", "--latency-profile", "openvla-7b-heisd")
    assert "4.0 new actions a second" in " ".join(table.stdout.split())
    assert "real time: openvla-7b-heisd" in " ".join(table.stdout.split())


def test_the_list_needs_no_other_option() -> None:
    done = CliRunner().invoke(cli.app, ["eval", "--realtime", "--latency-profile", "list"])
    assert done.exit_code == 0
    assert "openvla-7b-a100: OpenVLA-7B" in done.stdout
    assert "VALIDATION.md" in done.stdout


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--realtime"], "--realtime needs --latency-profile"),
        (["--latency-profile", "zero"], "belong to --realtime"),
        (["--control-hz", "10"], "belong to --realtime"),
        (["--meanwhile", "repeat"], "belong to --realtime"),
        (["--realtime", "--latency-profile", "warp"], "unknown latency profile 'warp'; known: openvla-7b-a100"),
        (["--realtime", "--latency-profile", "no/such.json"], "no/such.json cannot be read"),
        (["--realtime", "--latency-profile", "zero", "--meanwhile", "dance"], "known: hold, repeat, stop"),
        (["--realtime", "--latency-profile", "zero", "--control-hz", "30"], "possible: 1, 2, 4, 5, 10, 20"),
        (["--realtime", "--latency-profile", "zero", "--timing"], "give one"),
        (["--realtime", "--latency-profile", "pi0-rtx4090d-torch"], "method 'ar' runs a policy that decodes tokens"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = eval_toy(tmp_path / "run", *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_an_unknown_way_to_go_on_is_named() -> None:
    from heisd.config import parse_meanwhile

    with pytest.raises(UnknownName, match="dance"):
        parse_meanwhile("dance")
