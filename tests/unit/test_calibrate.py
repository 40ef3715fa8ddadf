"""The stages of a calibration over fake plays: the ladder's rule, what is written when, resuming, refusals."""

import json
import logging
from dataclasses import asdict, replace

import pytest
from calibrate_fakes import N_TASKS, SUITE, TARGET, FakePlay, record, speculation
from typer.testing import CliRunner

from heisd import cli
from heisd.bench.calibrate import STAGES, observe, reached_share, read_observation, run
from heisd.bench.calibration_plan import CalibrationPlan
from heisd.bench.ladder import FIRST, LADDER, SECOND, Rung, climb, judge
from heisd.bench.skip_fit import clopper_pearson_high
from heisd.bench.speculation import SpeculationCounts
from heisd.cli_calibrate import _verdict
from heisd.config import EvalConfig, content_hash
from heisd.errors import BadArtifact, BadInput, HeisdError, UnknownName
from heisd.policies.manifest import Manifest, dump, sha256_of
from heisd.presets.calibration import Calibration
from heisd.route.costs import Costs
from heisd.sim.splits import Condition, Split, episode_starts
from heisd.types import StepRecord

AR = EvalConfig(suite=SUITE, methods=("ar",))
HYBRID = EvalConfig(suite=SUITE, methods=("hybrid",))
CHARGED = Costs(vision_ms=1.0, prefill_ms=2.0, decode_ms=3.0, row_ms=0.1)


# --- the ladder -------------------------------------------------------------------------------------------------------


def trials(n_lost_by_rung, n=200):
    """A trial that loses so many of ``n`` episodes at each rung, and what was tried."""
    tried = []

    def trial(number, rung, look):
        assert rung == LADDER[number - 1]
        tried.append((number, look))
        n_lost = n_lost_by_rung[number - 1]
        n_lost = n_lost if isinstance(n_lost, int) else n_lost[look - FIRST]
        return [record(HYBRID, f"toy/{look}/{i}", success=i >= n_lost) for i in range(n)]

    return trial, tried


def plain(look=FIRST, n=200):
    return [record(AR, f"toy/{look}/{i}") for i in range(n)]


def test_the_ladder_is_a_constant_from_strict_to_loose():
    assert [(r.n_skips, r.threshold) for r in LADDER] == [
        (1, 0.9), (2, 0.9), (4, 0.9), (6, 0.8)
    ]  # fmt: skip


def test_the_climb_stops_at_the_first_loss_of_more_than_half_a_point():
    trial, tried = trials([0, 1, 7, 0])  # 1 of 200 is half a point exactly: allowed
    choice = climb("hybrid", "parallel", plain, trial)
    assert choice.rung == LADDER[1]
    assert [row["passes"] for row in choice.rungs] == [True, True, False]
    assert [row["difference_points"] for row in choice.rungs] == [0.0, -0.5, -3.5]
    assert choice.kept is choice.rungs[1]
    assert tried == [(1, FIRST), (2, FIRST), (3, FIRST)]


@pytest.mark.parametrize(("n_lost", "passes", "points"), [((2, 0), True, -0.5), ((6, 0), False, -1.5)])
def test_a_near_miss_is_judged_on_twice_as_many_starts(n_lost, passes, points):
    trial, tried = trials([n_lost, 50])
    choice = climb("hybrid", "parallel", plain, trial)
    assert tried[:2] == [(1, FIRST), (1, SECOND)]
    assert (choice.rungs[0]["n_pairs"], choice.rungs[0]["difference_points"]) == (400, points)
    assert (choice.rungs[0]["passes"], choice.rung) == (passes, LADDER[0] if passes else None)
    assert len(tried) == (3 if passes else 2), "nothing is climbed behind a loss; a clear one is not played again"


def test_nothing_passes_and_everything_passes():
    trial, tried = trials([50])
    choice = climb("hybrid", "parallel", plain, trial)
    assert (choice.rung, choice.kept, len(tried)) == (None, None, 1)
    trial, _ = trials([0] * 7)
    assert climb("hybrid", "parallel", plain, trial).rung == LADDER[-1]


@pytest.mark.parametrize(("n_lost", "n_steps", "is_calm"), [(0, 2, True), (50, 2, False), (0, 0, None)])
def test_the_last_that_passed_is_tried_once_more_with_calm_chunks_executed_further(n_lost, n_steps, is_calm):
    """Behind the failure that ended the climb, or its end; not where nothing passed."""
    losses = [*[0] * n_steps, 50, n_lost]  # of the rungs that pass, of one that does not, of the calm one
    tried = []

    def trial(number, rung, look):
        tried.append((number, rung.calm))
        lost = losses[len(tried) - 1]
        return [record(HYBRID, f"toy/{look}/{i}", success=i >= lost) for i in range(200)]

    choice = climb("hybrid", "parallel", plain, trial, further=True)
    if is_calm is None:
        assert (choice.rung, tried) == (None, [(1, False)])
        return
    assert tried == [(1, False), (2, False), (3, False), (len(LADDER) + 1, True)]
    assert choice.rung == replace(LADDER[1], calm=is_calm)
    assert choice.kept is choice.rungs[3 if is_calm else 1]
    assert [row.get("calm") for row in choice.rungs] == [None, None, None, True]
    assert climb("hybrid", "parallel", plain, trials([0] * 9)[0]).rung == LADDER[-1]


def test_success_is_compared_in_pairs():
    """Two episodes gained elsewhere make up for two lost, and starts that were not seen alike do not count."""
    baseline = [record(AR, f"toy/{i}", success=i > 1) for i in range(100)]
    mine = [record(HYBRID, f"toy/{i}", success=i not in (50, 51)) for i in range(100)]
    mine[99] = record(HYBRID, "toy/99", success=False, start_hash="another")
    row = judge("hybrid", "parallel", LADDER[0], baseline, mine)
    assert (row["n_pairs"], row["difference_points"]) == (99, 0.0)
    with pytest.raises(BadArtifact, match="no start in common"):
        judge("hybrid", "parallel", LADDER[0], baseline, [record(HYBRID, "toy/other")])


def test_the_bound_on_bad_skips_is_that_of_the_audits():
    counts = speculation(
        {"skip/tolerant motion": 30, "speculate/audit": 4, "speculate/score below threshold": 6},
        {"parallel": 2, "retrieval": 1, "": 1},
    )
    mine = [record(HYBRID, f"toy/1/{i}", speculation=counts) for i in range(10)]
    row = judge("hybrid", "parallel", Rung(2, 0.8), plain(n=10), mine)
    # Only what the skip would have executed counts: another's guess that was kept says nothing about it.
    assert (row["n_audits"], row["n_bad_audits"]) == (40, 20)
    assert (row["skip_share"], row["skips_per_episode"]) == (0.75, 30)
    assert row["bad_share_high95"] == clopper_pearson_high(20, 40)
    assert row["bad_skips_per_episode_high95"] == pytest.approx(30 * clopper_pearson_high(20, 40))
    untouched = judge("hybrid", "parallel", Rung(2, 0.8), plain(n=1), [record(HYBRID, "toy/1/0")])
    assert (untouched["bad_share_high95"], untouched["bad_skips_per_episode_high95"]) == (1.0, 0.0)


def test_audits_are_counted_by_whose_whole_action_was_kept():
    def step(reason, verifications, kept):
        return StepRecord(
            0, 1.0, {}, 1, {}, route="speculate", reason=reason, verifications=verifications, kept_by_source=kept
        )

    counts = SpeculationCounts()
    counts.add(step("audit", ((0, 7),), {"parallel": 7}))
    counts.add(step("audit", ((0, 7),), {"retrieval": 7}))
    counts.add(step("audit", ((0, 6),), {"parallel": 6}))  # another gripper is another action
    counts.add(step("audit", ((0, 5), (6, 1)), {"parallel": 6}))  # not of one guess
    counts.add(step("audit", (), {}))
    counts.add(step("score below threshold", ((0, 7),), {"parallel": 7}))
    total = SpeculationCounts.total([counts.as_dict(), {**SpeculationCounts().as_dict(), "audits": {"": 1}}])
    assert total.block({}, 0)["audits"] == {"n": 6, "kept_by_source": {"parallel": 1, "retrieval": 1}}
    old = counts.as_dict()
    del old["audits"]
    assert SpeculationCounts.total([old]).block({}, 0)["audits"]["n"] == 0


# --- the stages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(tmp_path):
    """A policy's directory with a drafter and a store beside it."""
    directory = tmp_path / "weights" / "tiny"
    for name in ("tiny", "tiny-drafter", "tiny-store"):
        (tmp_path / "weights" / name).mkdir(parents=True)
        (tmp_path / "weights" / name / "manifest.json").write_text(dump(Manifest(name=name, files={})))
    return directory


@pytest.fixture
def place(policy):
    return policy.with_name("tiny-calibration") / f"{SUITE}.json"


def a_plan(tmp_path, **changes):
    return CalibrationPlan(
        **{"suite": SUITE, "out": tmp_path / "runs", "n_observed": 8, "n_trials": 10, "workers": 2, **changes}
    )


def calibrated(plan, policy, place, play, stages=STAGES):
    return run(plan, stages, policy=policy, place=place, target=TARGET, play=play)


def load(place):
    return Calibration.load(place, TARGET.sha256)


def test_all_stages_give_a_file_that_presets_load(tmp_path, policy, place):
    play = FakePlay({"hybrid-3-shipped": 3, "hold_calibrated-1-jitter": 5})
    result = calibrated(a_plan(tmp_path, command="heisd calibrate"), policy, place, play)
    assert result["is_complete"]
    assert result["file"] == str(place)
    made = load(place)
    hybrid, hold = made.skip_setting("hybrid"), made.skip_setting("hold_calibrated")
    assert (hybrid.n_skips, hybrid.threshold) == (LADDER[1].n_skips, LADDER[1].threshold)
    assert (hold.n_skips, hold.evidence["chosen"]) == (0, None)
    assert [row["passes"] for row in hybrid.evidence["rungs"]] == [True, True, False]
    assert hybrid.evidence["chosen"] == hybrid.evidence["rungs"][1]
    assert sum(row["n"] for row in hybrid.evidence["curve"]) == hybrid.evidence["n_held_out"] > 0
    assert made.command == "heisd calibrate"
    assert made.provenance["observed"]["n_steps"] == result["observed_steps"] == 8 * 40
    assert result["presets"]["hybrid"]["evidence"]["rungs"]
    json.dumps(result, allow_nan=False)
    # Plain decoding is played once for both presets.
    assert play.played[:4] == ["observe/shipped", "observe/jitter", "ladder/ar-shipped", "ladder/ar-jitter"]
    assert len(play.played) == len(set(play.played))


def test_starts_are_fresh_calibration_starts_half_jittered_and_never_used_twice(tmp_path):
    plan = a_plan(tmp_path, n_observed=7, n_trials=5)
    looks = [plan.trial("hybrid", "hybrid-1", look) for look in (FIRST, SECOND)]
    configs = [*plan.observation().values(), *(config for look in looks for config in look.values())]
    keys = [start.key for c in configs for start in starts_of(c)]
    seeds = [key.split("/", 1)[1].rsplit("/", 1)[0] for key in keys]  # task and seed, whatever the condition
    assert len(seeds) == len(set(seeds)) == 17
    assert {c.split for c in configs} == {Split.CALIBRATION}
    assert [(c.condition, c.episodes) for c in configs] == [
        (Condition.SHIPPED, 4), (Condition.JITTER, 3), *[(Condition.SHIPPED, 3), (Condition.JITTER, 2)] * 2
    ]  # fmt: skip
    baselines = [c for look in (FIRST, SECOND) for c in plan.trial("ar", "ar", look).values()]
    assert [start.key for c in baselines for start in starts_of(c)] == keys[7:]


def starts_of(config):
    return episode_starts(
        config.suite, N_TASKS, config.split, config.episodes, condition=config.condition, fresh=config.fresh,
        offset=config.offset,
    )  # fmt: skip


def test_offset_leaves_out_the_first_starts():
    every = episode_starts(SUITE, 3, Split.CALIBRATION, 10, fresh=True)
    assert episode_starts(SUITE, 3, Split.CALIBRATION, 6, fresh=True, offset=4) == every[4:]
    with pytest.raises(BadInput, match="20 episodes asked for behind 5 others"):
        episode_starts(SUITE, 2, Split.TEST, 20, offset=5)


def test_younger_fields_leave_earlier_hashes_alone():
    fields = EvalConfig(suite="a", methods=("ar",)).outcome_fields()
    assert not {"calibration", "offset"} & fields.keys()
    changed = EvalConfig(suite="a", methods=("ar",), calibration="c.json", offset=3).outcome_fields()
    assert (changed["calibration"], changed["offset"]) == ("c.json", 3)
    assert content_hash(fields) != content_hash(changed)


def test_a_second_run_plays_nothing_and_gives_the_same(tmp_path, policy, place):
    play = FakePlay({"hybrid-2-shipped": 3})
    first = calibrated(a_plan(tmp_path), policy, place, play)
    n_played = len(play.played)
    second = calibrated(a_plan(tmp_path), policy, place, play)
    assert len(play.played) == n_played
    assert second["presets"] == first["presets"]


def test_a_killed_ladder_leaves_no_settings_and_goes_on(tmp_path, policy, place):
    class Killed(FakePlay):
        def __call__(self, config, out, adapt):
            if out.name == "hybrid-2-jitter":
                raise KeyboardInterrupt
            return super().__call__(config, out, adapt)

    with pytest.raises(KeyboardInterrupt):
        calibrated(a_plan(tmp_path), policy, place, Killed())
    assert load(place).skips == {}  # ranges are there for presets that need nothing else
    with pytest.raises(BadArtifact, match=r"no setting for 'hybrid'.*heisd calibrate"):
        load(place).skip_setting("hybrid")
    play = FakePlay()
    calibrated(a_plan(tmp_path), policy, place, play)
    assert "ladder/hybrid-1-shipped" not in play.played
    assert "ladder/hybrid-2-shipped" not in play.played
    assert load(place).skip_setting("hybrid").n_skips == LADDER[-1].n_skips


def test_no_rung_is_played_for_a_score_that_is_never_high_enough(tmp_path, policy, place):
    """Its episodes would say nothing about skips: there are none."""
    plan, play = a_plan(tmp_path, presets=("hold_calibrated",)), FakePlay()
    calibrated(plan, policy, place, play, ("observe", "fit"))
    fitted = Calibration.load(plan.fit_path, TARGET.sha256)
    setting = fitted.skips["hold_calibrated"]
    lowest = min(rung.threshold for rung in LADDER)

    def with_curve(*rows):
        curve = [{"low": low, "high": low + 0.1, "n": n, "score": low, "good": 0.5} for low, n in rows]
        changed = setting.model_copy(update={"evidence": {**setting.evidence, "curve": curve}})
        fitted.model_copy(update={"skips": {"hold_calibrated": changed}}).save(plan.fit_path)
        return changed

    assert reached_share(with_curve((lowest - 0.1, 995), (lowest, 5)), LADDER) == 0.005
    result = calibrated(plan, policy, place, play, ("ladder",))
    assert not [name for name in play.played if name.startswith("ladder")]
    chosen = load(place).skip_setting("hold_calibrated")
    assert (chosen.n_skips, chosen.evidence["rungs"], chosen.evidence["chosen"]) == (0, [], None)
    verdict = _verdict("hold_calibrated", result["presets"]["hold_calibrated"])
    assert "0.5 % of held-out steps; nothing was played" in verdict
    with_curve((lowest - 0.1, 99), (lowest, 1))
    calibrated(plan, policy, place, play, ("ladder",))
    assert "ladder/hold_calibrated-1-shipped" in play.played


def test_the_file_names_the_commands_of_all_its_settings(tmp_path, policy, place):
    def command_of(preset, command):
        calibrated(a_plan(tmp_path, presets=(preset,), command=command), policy, place, FakePlay())
        return load(place).command

    assert command_of("hybrid", "one") == "one"
    assert command_of("hold_calibrated", "two") == "one && two"
    assert command_of("hold_calibrated", "two") == "one && two"  # resumed


def test_candidates_are_played_with_their_own_file(tmp_path, policy, place):
    play = FakePlay()
    calibrated(a_plan(tmp_path, presets=("hybrid",)), policy, place, play)
    tried = {out.name: config for out, config, _ in play.asked if out.name.startswith("hybrid")}
    assert len(tried) == 2 * len(LADDER)
    for number, rung in enumerate(LADDER, 1):
        candidate = load(
            tried[f"hybrid-{number}-jitter"].calibration and tmp_path / "runs/ladder" / f"hybrid-{number}.json"
        )
        assert tried[f"hybrid-{number}-jitter"].calibration == str(tmp_path / "runs/ladder" / f"hybrid-{number}.json")
        setting = candidate.skip_setting("hybrid")
        assert (setting.n_skips, setting.threshold) == (rung.n_skips, rung.threshold)
        # Its hash decides whether a run may be resumed: nothing in it may change from one day to the next.
        assert (candidate.provenance, candidate.command, setting.evidence) == ({}, "", {})
    assert all(config.calibration is None for out, config, _ in play.asked if out.name.startswith("ar-"))


def test_presets_are_calibrated_one_after_the_other_and_costs_are_kept(tmp_path, policy, place):
    costs = Costs(vision_ms=1, prefill_ms=4, decode_ms=2, row_ms=0.1)
    calibrated(a_plan(tmp_path, presets=("hybrid",)), policy, place, FakePlay())
    load(place).model_copy(update={"costs": costs}).save(place)
    calibrated(a_plan(tmp_path, presets=("hold_calibrated",)), policy, place, FakePlay())
    assert set(load(place).skips) == {"hybrid", "hold_calibrated"}
    assert load(place).costs == costs
    # From another observation: F keeps the bounds that the other settings were tried with, and scores go by them.
    before = load(place)
    other = a_plan(tmp_path, out=tmp_path / "other", n_observed=6, presets=("hold_calibrated",))
    calibrated(other, policy, place, FakePlay())
    after = load(place)
    assert after.skips["hybrid"] == before.skips["hybrid"]
    assert (after.motion_code, after.watch, after.costs) == (before.motion_code, before.watch, costs)
    observed = after.skips["hold_calibrated"].evidence["observed"]["observed"]
    assert len(observed["episodes"]) == 6 != len(before.provenance["observed"]["episodes"])
    # Everything anew: so are the bounds.
    both = a_plan(tmp_path, out=tmp_path / "both", n_observed=6, presets=("hybrid", "hold_calibrated"))
    calibrated(both, policy, place, FakePlay())
    assert load(place).motion_code != before.motion_code


def test_fitting_again_does_not_take_settings_away(tmp_path, policy, place):
    calibrated(a_plan(tmp_path), policy, place, FakePlay())
    before = place.read_bytes()
    calibrated(a_plan(tmp_path), policy, place, FakePlay(), ("fit",))
    assert place.read_bytes() == before
    place.write_text("torn")
    calibrated(a_plan(tmp_path), policy, place, FakePlay(), ("fit",))
    assert load(place).skips == {}


def test_what_is_not_there_is_left_out(tmp_path, policy, caplog):
    (policy.with_name("tiny-drafter") / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        observe(a_plan(tmp_path), policy, play := FakePlay())
    assert "hybrid is left out" in caplog.text
    factory = play.asked[0][2].world_factory
    assert factory.presets == ()  # every preset that skips hears the drafter
    assert factory.scouts == ("retrieval", "persistence")  # memory is watched for HeiSD's similarity all the same


def test_an_observation_is_not_continued_with_other_scouts(tmp_path, policy):
    observe(a_plan(tmp_path), policy, FakePlay())
    (policy.with_name("tiny-store") / "manifest.json").write_text("another store")
    with pytest.raises(BadInput, match=r"scouts\.retrieval"):
        observe(a_plan(tmp_path), policy, FakePlay())


def test_stages_out_of_turn_are_refused(tmp_path, policy, place):
    with pytest.raises(BadInput, match="run --stage observe"):
        calibrated(a_plan(tmp_path), policy, place, FakePlay(), ("fit",))
    with pytest.raises(BadInput, match="run --stage fit"):
        calibrated(a_plan(tmp_path), policy, place, FakePlay(), ("ladder",))
    assert not place.exists()


def test_rows_that_are_missing_are_not_fitted_over(tmp_path, policy):
    plan = a_plan(tmp_path)
    observe(plan, policy, FakePlay())
    path = sorted(plan.rows_dir.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadArtifact, match="39 observed steps of 40"):
        read_observation(plan)


def test_a_plan_says_what_it_cannot_do(tmp_path):
    with pytest.raises(UnknownName, match="'exact'; known: coast, flow_hybrid, hold_calibrated, hybrid"):
        a_plan(tmp_path, presets=("hybrid", "exact"))
    with pytest.raises(UnknownName, match="known: coast, flow_hybrid, hold_calibrated, hybrid"):
        a_plan(tmp_path, presets=())
    with pytest.raises(BadInput, match="at least 2"):
        a_plan(tmp_path, n_observed=1)


# --- the command line -------------------------------------------------------------------------------------------------

runner = CliRunner()


@pytest.fixture
def command(tmp_path, policy, monkeypatch):
    """``heisd calibrate`` over a fake play."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heisd.cli_calibrate._target", lambda _policy: TARGET)
    monkeypatch.setattr("heisd.bench.weights.resolve_weights", lambda *_: policy)
    monkeypatch.setattr("heisd.cli_calibrate._play", FakePlay({"hybrid-2-shipped": 3, "hold_calibrated-1-shipped": 5}))
    return lambda *more: runner.invoke(
        cli.app, ["calibrate", "--suite", SUITE, "--observe", "8", "--episodes", "10", *map(str, more)]
    )


def test_the_command_prints_one_object_or_a_table(command, place):
    done = command("--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["presets"]["hybrid"]["n_skips"] == 1
    shown = command()
    assert "trials, strict to loose" in shown.stdout
    assert "hold_calibrated: never skips" in shown.stdout
    assert "bad skips per episode" in shown.stdout
    assert "more than 15 bins" in shown.stdout
    assert load(place).skip_setting("hybrid").threshold == LADDER[0].threshold


def test_the_stages_of_the_command_one_by_one(command, place):
    assert "control steps observed" in command("--stage", "observe").stdout
    fitted = command("--stage", "fit").stdout
    assert "not tried yet" in fitted
    assert load(place).skips == {}
    assert json.loads(command("--stage", "ladder", "--json").stdout)["is_complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "climb"], "unknown stage 'climb'; known: all, fit, ladder, observe"),
        (
            ["--method", "exact"],
            "unknown method with calibrated skips 'exact'; known: coast, flow_hybrid, hold_calibrated, hybrid",
        ),
        (["--method", ""], "unknown method with calibrated skips ''"),
        (["--stage", "fit"], "is not complete; run --stage observe"),
    ],
)
def test_errors_are_one_line(command, arguments, message):
    done = command(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_other_errors_are_one_line_too(command, monkeypatch):
    def broken(*_):
        raise HeisdError("the simulator\nis gone")

    monkeypatch.setattr("heisd.cli_calibrate._play", broken)
    assert command().stderr == "error: the simulator is gone\n"


def test_eval_takes_a_calibration(tmp_path, monkeypatch):
    import toy_world

    configs = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heisd.bench.libero_world.libero_setting", lambda c: configs.append(c) or toy_world.setting())
    arguments = [
        "--suite",
        "toy",
        "--split",
        "validation",
        "--episodes",
        "2",
        "--out",
        "run",
        "--calibration",
        "c.json",
    ]
    assert runner.invoke(cli.app, ["eval", *arguments]).exit_code == 0
    assert configs[0].calibration == "c.json"
    refused = runner.invoke(cli.app, ["eval", *arguments[:-2]])
    assert "calibration: c.json -> None" in refused.stderr


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"costs": {"vision_ms": 1, "prefill_ms": 0, "decode_ms": 2, "row_ms": 0.1}}, "above 0"),
        ({"costs": {"vision_ms": 1, "prefill_ms": 4, "decode_ms": 2, "row_ms": 0.1, "gpu_ms": 1}}, "costs.gpu_ms"),
        ({"score": {"names": ["a"], "mean": [0.0], "scale": [0.0], "weight": [1.0], "bias": 0.0}}, "scale"),
        ({"score": {"names": ["a"], "mean": [], "scale": [1.0], "weight": [1.0], "bias": 0.0}}, "one mean"),
    ],
)
def test_a_file_with_impossible_numbers_is_refused_by_name_when_it_is_read(tmp_path, change, why):
    values = {
        "suite": "toy", "policy_hash": "h", "motion_paper": {}, "motion_code": {}, "kalman_process": [],
        "kalman_measurement": [], "adaptive_similarity": 1.0,
    }  # fmt: skip
    if "score" in change:
        change = {"skips": {"hybrid": {**change, "threshold": 0.5, "n_skips": 1}}}
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(values | change))
    with pytest.raises(BadArtifact, match=rf"toy\.json.*{why}"):
        Calibration.load(path, "h")


def test_the_command_keeps_a_table_of_costs_and_later_ladders_are_climbed_with_it(
    tmp_path, command, place, monkeypatch
):
    monkeypatch.setattr("heisd.policies.identity.describe_weights", lambda _: {"sha256": TARGET.sha256})
    assert command("--method", "hold_calibrated", "--json").exit_code == 0
    table = tmp_path / "costs.json"
    table.write_text(json.dumps({"costs": asdict(CHARGED), "policy": {"sha256": TARGET.sha256}, "suite": SUITE}))
    before = load(place)
    kept = command("--costs", table, "--json")
    assert kept.exit_code == 0, kept.stderr
    assert json.loads(kept.stdout)["costs"] == asdict(CHARGED) == asdict(load(place).costs)
    assert load(place).skips == before.skips
    assert "pause" in command("--costs", table).stdout
    assert command("--method", "hybrid", "--json").exit_code == 0  # its candidates have the table, and so has the file
    candidates = sorted((tmp_path / "runs" / f"calibrate-{SUITE}" / "ladder").glob("*.json"))
    costs = {path.name: json.loads(path.read_text())["costs"] for path in candidates}
    assert {name for name, has in costs.items() if has} == {name for name in costs if name.startswith("hybrid")}
    assert load(place).costs == CHARGED
    assert load(place).provenance["costs"]["file"] == "costs.json"
    for options, why in ((("--costs", table, "--stage", "fit"), "runs nothing"), (("--costs", place), "heisd bench")):
        refused = command(*options)
        assert (refused.exit_code, why in refused.stderr, "Traceback" in refused.output) == (2, True, False)


def test_a_given_calibration_is_loaded_in_place_of_the_policys_own(tmp_path, policy, place, monkeypatch):
    from types import SimpleNamespace

    from heisd.bench import libero_world
    from heisd.presets import assets

    calibrated(a_plan(tmp_path, presets=("hold_calibrated",)), policy, place, FakePlay())
    given = tmp_path / "given.json"
    load(place).model_copy(update={"adaptive_similarity": 0.5}).save(given)
    monkeypatch.setattr(assets, "describe_weights", lambda _: {"sha256": TARGET.sha256})
    used = assets.Assets(SimpleNamespace(codec=None), policy, SUITE, calibration=given)
    assert used.calibration().adaptive_similarity == 0.5
    assert assets.Assets(SimpleNamespace(codec=None), policy, SUITE).calibration() == load(place)
    # … and a profile's table in place of this machine's.
    assert assets.Assets(SimpleNamespace(codec=None), policy, SUITE, costs=CHARGED).costs() is CHARGED

    monkeypatch.setattr(libero_world, "suite_info", lambda _: SimpleNamespace(n_tasks=N_TASKS))
    monkeypatch.setattr(libero_world, "weights_for", lambda *_: policy)
    monkeypatch.setattr(libero_world, "policy_format", lambda _: "heisd-policy-1")
    monkeypatch.setattr(libero_world, "describe_weights", lambda _: {"sha256": TARGET.sha256})

    def in_provenance(method="hold_calibrated", **changes):
        config = EvalConfig(suite=SUITE, methods=(method,), **changes)
        return libero_world.libero_setting(config).provenance.get("calibration", {}).get("sha256")

    assert in_provenance() == sha256_of(place)
    assert in_provenance(calibration=str(given)) == sha256_of(given) != sha256_of(place)
    assert in_provenance("ar") is None
    place.unlink()
    assert in_provenance(calibration=str(given)) == sha256_of(given)  # the policy's own is not needed then
    with pytest.raises(BadArtifact, match="needs a calibration"):
        in_provenance()
    with pytest.raises(BadArtifact, match=r"there is none at .*nowhere\.json"):
        in_provenance(calibration=str(tmp_path / "nowhere.json"))
    given.write_text("{}")
    with pytest.raises(BadArtifact, match="is not a heisd-calibration-1"):
        in_provenance(calibration=str(given))
