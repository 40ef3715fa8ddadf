"""Presets of flow-matching policies: what they are made of; each kind of policy refuses the other's methods."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny_flows as flows
import tiny_policies as tiny
from heisd.bench import libero_world
from heisd.bench.latency import BenchConfig, interleave, summarise
from heisd.bench.libero_world import EngineAgent, load_assets
from heisd.bench.weights import weights_for
from heisd.cli import app
from heisd.config import EvalConfig
from heisd.errors import BadArtifact, BadInput
from heisd.kinematics.defaults import LIBERO
from heisd.policies.bundle import save_policy
from heisd.policies.config import ConvTowerConfig
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import FLOW_FORMAT
from heisd.presets import ABLATIONS, PRESETS, builder
from heisd.presets.assets import require
from heisd.presets.calibration import Acceptance, Calibration, SkipSetting
from heisd.presets.flash import STRICTEST, SUITES, suite_setting
from heisd.presets.flow_assets import FlowAssets, calm_executed, chosen_sampling
from heisd.route.calibrated import SkipScore
from heisd.sim.rendering import LatePictures
from heisd.telemetry import MemorySink
from heisd.types import Observation, StepRecord
from heisd.watch import ROUNDS, Watch

FLOW_METHODS = [name for name, preset in PRESETS.items() if preset.policy == FLOW_FORMAT and not preset.ablates]
FLOW_ABLATIONS = [name for name, preset in ABLATIONS.items() if preset.policy == FLOW_FORMAT]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow policy with its draft head, and a token policy."""
    root = tmp_path_factory.mktemp("policies")
    vision = ConvTowerConfig(image_size=32, channels=(8, 16, 24), groups=4)
    flows.stored_policy(root / "flow", vision=vision)
    flows.stored_draft_head(root / "flow", vision=vision)
    model = tiny.network()
    save_policy(root / "tokens", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    return root


def assets(home: Path, suite: str = "libero_goal") -> FlowAssets:
    from heisd.policies.loading import load_any

    policy = load_any(home / "flow")
    assert isinstance(policy, FlowPolicy)
    return FlowAssets(policy, home / "flow", suite)


def one_episode(rng: np.random.Generator, n_steps: int) -> list[Observation]:
    return [replace(tiny.observation(rng), time_s=i / 20) for i in range(n_steps)]


def test_every_flow_preset_that_has_what_it_needs_acts(home: Path, rng: np.random.Generator) -> None:
    plain = ["full", "full_naive", "full_calm", "full_longer", "flash", "flash_retrieval", "tail_2to1", "flow_hybrid"]
    assert [*plain, "full_rtc", "flash_rtc", "flow_hybrid_rtc"] == FLOW_METHODS
    seen = one_episode(rng, 10)
    config = BenchConfig(("full", "full_naive", "flash", "flow_hybrid"), steps=10, warmup=0)
    agents: dict[str, Any] = {name: EngineAgent(builder(name), assets(home)) for name in config.methods}
    result = summarise(interleave(agents, seen, 10, 0), config)
    blocks = result["methods"]
    assert {"encode", "prefill", "denoise", "act"} <= blocks["full"]["stages"].keys()
    assert blocks["full"]["ms_per_round"]["n"] == 3  # steps 0, 4 and 8 of ten
    assert blocks["full"]["ms_per_action"]["n"] == 10
    assert {"propose", "verify", "accept"} <= blocks["flash"]["stages"].keys()
    assert result["cost_ratio"] == {"decode_over_prefill": None, "ceiling": None}


@pytest.mark.parametrize("looks", [True, False])
def test_a_picture_is_drawn_before_the_engine_begins_its_step_if_it_will_look(
    looks: bool, rng: np.random.Generator
) -> None:
    drawn: list[str] = []

    class Loop:
        will_look = looks

        def __init__(self, _: Any, sink: MemorySink) -> None:
            self._sink = sink

        def act(self, _: Observation) -> None:
            assert drawn == (["agentview", "wrist"] if looks else [])
            self._sink.emit(StepRecord(0, 1.0, {}, 0, {}))

    seen = tiny.observation(rng)
    late = LatePictures(("agentview", "wrist"), lambda camera: drawn.append(camera) or seen.images["agentview"])
    EngineAgent(Loop, None).act(replace(seen, images=late))


def test_every_ablation_and_control_acts_by_the_proposers_it_declares(home: Path, rng: np.random.Generator) -> None:
    seen, mine = one_episode(rng, 10), assets(home)
    for name in ["full_calm", "full_longer", "tail_2to1", *FLOW_ABLATIONS]:
        if "store" in PRESETS[name].needs:
            continue  # those are played in test_flow_commands
        require(home / "flow", "libero_goal", [name])
        engine = builder(name)(mine)
        for observation in seen:
            assert np.isfinite(engine.act(observation).values).all(), name
        asked = set(engine._inference.panel._proposers)
        assert ("draft_head" in asked) == ("draft_head" in PRESETS[name].needs), name
        assert not engine.faults, name


def test_the_cheapest_acceleration_executes_more_of_every_chunk(home: Path, rng: np.random.Generator) -> None:
    def rounds(name: str, mine: FlowAssets) -> list[int]:
        engine = builder(name)(mine)
        engine.sink = MemorySink()
        for observation in seen:
            engine.act(observation)
        return [i for i, record in enumerate(engine.sink.records) if record.round is not None]

    seen, mine = one_episode(rng, 13), assets(home)
    assert rounds("full", mine) == [0, 4, 8, 12]
    assert rounds("full_longer", mine) == [0, 6, 12]  # the whole of a chunk of six
    assert mine.sampling.executed == 4
    mine.target = flows.policy(horizon=16, vision=ConvTowerConfig(image_size=32, channels=(8, 16, 24), groups=4))
    assert rounds("full_longer", mine) == [0, 12]
    assert builder("full_calm")(mine)._inference._calm_executed == 6


@pytest.mark.parametrize(
    ("executed", "horizon", "delay_steps", "calm"),
    [(8, 16, 0, 12), (8, 16, 6, 10), (8, 9, 0, 9), (8, 8, 0, 8), (6, 50, 0, 9), (12, 50, 0, 12), (8, 16, 8, 8)],
)
def test_half_as_much_again_of_a_calm_chunk(executed: int, horizon: int, delay_steps: int, calm: int) -> None:
    assert calm_executed(executed, horizon, delay_steps) == calm


@pytest.mark.parametrize("calm", [True, False])
def test_calm_chunks_are_executed_further_where_the_calibration_says_so(home: Path, tmp_path: Path, calm: bool) -> None:
    score = SkipScore(("agreement_bins",), (1.0,), (1.0,), (-1.0,), 0.0)
    setting = SkipSetting(score=score, threshold=0.9, n_skips=2, calm=calm)
    bare, path = assets(home), calibrated(home, tmp_path, skips={"flow_hybrid": setting})
    mine = FlowAssets(bare.target, home / "flow", "libero_goal", calibration=path)
    assert builder("flow_hybrid")(mine)._inference._calm_executed == (6 if calm else 4)
    assert builder("flow_hybrid")(bare)._inference._calm_executed == 4


def test_naive_inference_gives_fulls_actions_at_the_same_number_of_steps(home: Path, rng: np.random.Generator) -> None:
    mine = assets(home)
    mine.sampling = mine.sampling.model_copy(update={"euler_steps": 10})
    fast, slow = (builder(name)(mine) for name in ("full", "full_naive"))
    for _ in range(5):
        seen = tiny.observation(rng)
        np.testing.assert_allclose(fast.act(seen).values, slow.act(seen).values, atol=1e-5)


def test_flashs_settings_are_the_published_ones(home: Path) -> None:
    assert {name: (s.period, s.guards_gripper) for name, s in SUITES.items()} == {
        "libero_spatial": (0, True), "libero_object": (0, False), "libero_goal": (4, True), "libero_10": (2, True),
    }  # fmt: skip
    assert suite_setting("libero_goal_swap") is SUITES["libero_goal"]
    assert suite_setting("libero_90") is STRICTEST
    engine = builder("flash")(assets(home))
    rule, router = engine._inference._rule, engine._router
    assert (rule.levels, rule.tolerances, rule.shares_noise) == ((0.1, 0.05), (0.15, 0.15), True)
    assert (rule.verify_stop, rule.post_cut, router.fallbacks.period) == (True, True, 4)
    free = builder("flash")(assets(home, "libero_object"))
    assert not free._inference._rule.verify_stop
    assert free._router.fallbacks.period == 0


def test_one_setting_for_all_suites_is_ours(home: Path) -> None:
    engines = [builder("flow_hybrid")(assets(home, suite)) for suite in SUITES]
    assert len({repr((e._inference._rule, e._router.fallbacks)) for e in engines}) == 1
    fallbacks = engines[0]._router.fallbacks
    assert fallbacks.max_age_steps == 3 * 4
    assert fallbacks.min_similarity > 0
    assert fallbacks.gripper_margin_steps > 0
    assert engines[0]._router.watch == ROUNDS
    assert ROUNDS.hold_steps > 12  # more than a chunk's executed actions: the round behind an alarm cannot miss it


def calibrated(home: Path, directory: Path, **changes: Any) -> Path:
    """A calibration of the flow policy."""
    score = SkipScore(("agreement_bins",), (1.0,), (1.0,), (-1.0,), 0.0)
    values: dict[str, Any] = {
        "suite": "libero_goal", "policy_hash": describe_weights(home / "flow")["sha256"],
        "motion_paper": LIBERO.as_dict(), "motion_code": LIBERO.as_dict(), "kalman_process": (1.0,) * 7,
        "kalman_measurement": (1.0,) * 7, "adaptive_similarity": 1.0, "watch": Watch(hold_steps=33),
        "skips": {"flow_hybrid": SkipSetting(score=score, threshold=0.9, n_skips=2)},
        "acceptance": Acceptance(residual=0.75),
    }  # fmt: skip
    path = directory / "calibration.json"
    Calibration(**(values | changes)).save(path)
    return path


def test_the_calibration_says_what_is_accepted_skipped_and_withdrawn(
    home: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    def built(name: str = "flow_hybrid", delay_steps: int = 0, **changes: Any) -> Any:
        config = EvalConfig(suite="libero_goal", methods=(name,), weights=str(home / "flow"))
        mine = load_assets(config.model_copy(update={"calibration": str(calibrated(home, tmp_path, **changes))}))
        mine._delay_steps = delay_steps
        return builder(name)(mine)

    engine = built()
    router, skip = engine._router, engine._router.skip
    assert engine._inference._rule.tolerances == pytest.approx((0.075,))
    assert (skip.source, skip.scouts, skip.n_skips, skip.threshold) == ("draft_head", ("draft_head", "tail"), 2, 0.9)
    assert skip.n_actions == 4
    assert router.watch.hold_steps == 33
    for _ in range(9):
        assert np.isfinite(engine.act(tiny.observation(rng)).values).all()
    assert skip.n_unseen == 2
    assert (router.sources, router.fallbacks.max_age_steps) == ((), np.inf)  # either skipped or full
    assert router.fallbacks.min_similarity > 0
    assert router.fallbacks.gripper_margin_steps > 0
    never = SkipSetting(score=skip.score, threshold=0.9, n_skips=0)
    for skips in ({"flow_hybrid": never}, {}):
        verifying = built(skips=skips)._router
        assert verifying.skip is None
        assert (verifying.sources, verifying.fallbacks.max_age_steps) == (("draft_head",), 3 * 4)
    assert built(acceptance=None)._inference._rule.tolerances == pytest.approx((0.15,))
    nothing = built(acceptance=Acceptance(residual=0.0), skips={})
    assert (nothing._router.sources, nothing._router.asked) == ((), ())
    late = built("flow_hybrid_rtc", delay_steps=2)
    assert late._router.skip.n_actions == 4 + 2
    with pytest.raises(BadArtifact, match="was made for policy 000"):
        built(policy_hash="0" * 64)


def test_a_delay_is_of_presets_that_do_not_wait(home: Path) -> None:
    mine = assets(home)
    mine._delay_steps = 2
    delays = {name: builder(name)(mine)._inference._delay_steps for name in ("full", "flash", "full_rtc", "flash_rtc")}
    assert delays == {"full": 0, "flash": 0, "full_rtc": 2, "flash_rtc": 2}
    config = EvalConfig(suite="libero_goal", methods=("full", "full_rtc"), weights=str(home / "flow"), delay_steps=1)
    assert load_assets(config, "full_rtc").delay(True) == 1
    assert load_assets(config, "full").delay(True) == 0
    assert libero_world.sampling_in_use(config, home / "flow")["delay_steps"] == {"full_rtc": 1}


def test_published_presets_watch_no_camera(home: Path) -> None:
    assert builder("flash")(assets(home))._router.watch is None


def test_what_a_method_needs_and_lacks_is_named_with_its_command(home: Path) -> None:
    require(home / "flow", "libero_goal", ["full", "full_naive", "flash", "flow_hybrid"])
    with pytest.raises(BadArtifact, match=r"'flash_retrieval' needs an experience store.*heisd index build"):
        require(home / "flow", "libero_goal", ["flash_retrieval"])
    (home / "bare").mkdir(exist_ok=True)
    with pytest.raises(BadArtifact, match=r"'flash' needs a draft head.*heisd train draft-head .*--weights bare"):
        require(home / "bare", "libero_goal", ["flash"])


def test_each_kind_of_policy_refuses_the_others_methods(home: Path) -> None:
    with pytest.raises(BadInput, match=r"'ar' runs a policy that decodes tokens; .*flow is a flow-matching.*: full,"):
        weights_for(str(home / "flow"), "libero_goal", ["ar"])
    with pytest.raises(
        BadInput, match=r"'flash' runs a flow-matching policy; .*tokens is a policy that decodes.*: ar,"
    ):
        weights_for(str(home / "tokens"), "libero_goal", ["flash"])
    with pytest.raises(
        BadInput, match=r"two kinds of it: full, flash for a flow-matching policy; ar for a policy that decodes"
    ):
        weights_for("default", "libero_goal", ["full", "ar", "flash"])
    assert weights_for(str(home / "flow"), "libero_goal", ["full", "flash"]) == home / "flow"


@pytest.mark.parametrize("command", ["bench", "eval"])
def test_the_command_line_says_so_in_one_line(home: Path, tmp_path: Path, command: str) -> None:
    arguments = ["--suite", "libero_goal", "--out", str(tmp_path / "run")] if command == "eval" else []
    runner = CliRunner()
    done = runner.invoke(app, [command, *arguments, "--method", "ar", "--weights", str(home / "flow")])
    assert done.exit_code == 2
    assert "error: method 'ar' runs a policy that decodes tokens" in done.stderr
    assert done.stderr.count("\n") == 1
    steps = ["--euler-steps", "3"]
    done = runner.invoke(app, [command, *arguments, "--method", "ar", "--weights", str(home / "tokens"), *steps])
    assert done.exit_code == 2
    assert "--euler-steps and --executed are for flow-matching policies" in done.stderr
    done = runner.invoke(
        app, [command, *arguments, "--method", "full", "--weights", str(home / "flow"), "--executed", "9"]
    )
    assert done.exit_code == 2
    assert "--executed is 1 to 6 of a chunk's 6 actions; got 9" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["train", "drafter", "--rollouts", "r", "--out", "OUT"], "flow", "a drafter of tokens needs .*draft-head"),
        (["train", "draft-head", "--data", "d", "--out", "OUT"], "tokens", "a draft head needs .*heisd train drafter"),
        (["index", "build", "--rollouts", "r", "--out", "OUT"], "flow", "--rollouts needs .*--data DIR"),
        (["calibrate", "--suite", "libero_goal", "--out", "OUT"], "flow", "method 'hybrid' runs .* which runs: full"),
        (["bench", "--costs"], "flow", "--costs needs .*heisd bench --method full,flash"),
        (["bench", "--check-exact"], "flow", "--check-exact needs .*promises no equal actions"),
        (["bench"], "flow", "method 'ar' runs .* which runs: full"),
    ],
)
def test_every_command_refuses_a_policy_of_the_other_kind_at_once(
    home: Path, tmp_path: Path, arguments: list[str], given: str, message: str
) -> None:
    """In one line, that names the policy and what to do instead; nothing is written, simulated or loaded."""
    given_out = [str(tmp_path / "run") if argument == "OUT" else argument for argument in arguments]
    done = CliRunner().invoke(app, [*given_out, "--weights", str(home / given)])
    assert done.exit_code == 2
    assert re.search(f"^error: {message}", done.stderr), done.stderr
    assert str(home / given) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flow", "--eyes", "HOME/flow"], "--eyes needs a policy that decodes tokens.*--from RUN"),
        (["flow", "--from", "HOME/run-tokens"], "--from needs a flow-matching policy.*--eyes POLICY"),
        (["policy", "--from", "HOME/run-flow"], "--from needs a policy that decodes tokens.*heisd train flow"),
        (["flow", "--from", "HOME/nothing"], "unknown policy .*nothing"),
    ],
)
def test_training_refuses_to_begin_with_the_other_kind(
    home: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    for name in ("flow", "tokens"):
        (tmp_path / f"run-{name}").mkdir()
        (tmp_path / f"run-{name}" / "policy").symlink_to(home / name)
    places = {"HOME/flow": str(home / "flow")}
    given = [places.get(a, a.replace("HOME", str(tmp_path))) for a in arguments]
    done = CliRunner().invoke(app, ["train", *given, "--data", "no-data", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_sampling_is_the_bundles_unless_asked_otherwise(home: Path) -> None:
    config = EvalConfig(suite="libero_goal", methods=("full",), weights=str(home / "flow"), euler_steps=7)
    found = load_assets(config)
    assert (found.sampling.euler_steps, found.sampling.executed) == (7, 4)
    assert libero_world.sampling_in_use(config, home / "flow")["sampling"]["euler_steps"] == 7
    assert libero_world.sampling_in_use(config.model_copy(update={"euler_steps": None}), home / "tokens") == {}
    assert "euler_steps" not in EvalConfig(suite="libero_goal", methods=("full",)).outcome_fields()
    assert config.outcome_fields()["euler_steps"] == 7
    with pytest.raises(BadInput, match="--euler-steps is 1 to 100; got 0"):
        chosen_sampling(found.sampling, 6, euler_steps=0)


def test_either_kind_of_policy_may_drive_before_an_expert_takes_over(home: Path, rng: np.random.Generator) -> None:
    demonstrate = pytest.importorskip("heisd.sim.demonstrate", reason="needs the simulator (extra libero)")
    for name, steps_in_hand in (("flow", 3), ("tokens", 0)):
        engine = demonstrate._engine(str(home / name))
        engine.sink = MemorySink()
        for _ in range(4):
            assert np.isfinite(engine.act(tiny.observation(rng)).values).all()
        assert sum(record.route == "chunk" for record in engine.sink.records) == steps_in_hand


def test_bench_prints_rounds_and_stages(home: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    from heisd.bench.observations import save_observations

    save_observations(tmp_path / "seen.npz", one_episode(rng, 4))
    arguments = ["bench", "--method", "full,flash", "--weights", str(home / "flow"), "--steps", "8", "--warmup", "4"]
    arguments += ["--observations", str(tmp_path / "seen.npz")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["methods"]["full"]["ms_per_round"]["n"] == 2
    shown = CliRunner().invoke(app, arguments)
    assert "full: 2 rounds of 4.0 actions" in shown.stdout
    assert "denoise" in shown.stdout
    assert "cost ratio" not in shown.stdout
