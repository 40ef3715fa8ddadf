"""The demo: plain beside what has its assets, the same episodes for all, one line for what is missing; two families."""

import json

import pytest
import toy_world
from chunk_fakes import chunk_world
from report_fakes import METHODS, play
from typer.testing import CliRunner

import tiny_flows as flows
import tiny_policies as tiny
from heisd import cli, demo
from heisd.bench.evaluate import Setting
from heisd.errors import UnknownName
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.policies.bundle import save_policy
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import FLOW_FORMAT, FORMAT
from heisd.presets.assets import place_of
from heisd.presets.calibration import Calibration, SkipSetting
from heisd.route.calibrated import SkipScore


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """A policy directory with nothing beside it."""
    directory = tmp_path / "weights" / "toy"
    directory.mkdir(parents=True)
    monkeypatch.setattr("heisd.bench.weights.resolve_weights", lambda *_: directory)
    monkeypatch.setattr("heisd.presets.assets.describe_weights", lambda _: {"name": "toy", "sha256": "0" * 64})
    return directory


def place(policy, what):
    path = place_of(policy, "libero_object", what)
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    return path


def calibrate(policy, *presets, policy_hash="0" * 64, suite="libero_object"):
    score = SkipScore(names=(), mean=(), scale=(), weight=(), bias=0.0)
    Calibration(
        suite=suite, policy_hash=policy_hash, motion_paper=ONLOOKER.as_dict(), motion_code=ONLOOKER.as_dict(),
        kalman_process=(1.0,) * 7, kalman_measurement=(1.0,) * 7, adaptive_similarity=0.9,
        skips={name: SkipSetting(score=score, threshold=0.5, n_skips=1) for name in presets},
    ).save(place_of(policy, suite, "calibration"))  # fmt: skip


def available(*_):
    return demo.methods_for("libero_object", "default")


@pytest.mark.usefixtures("policy")
def test_plain_alone_when_nothing_lies_beside_the_policy():
    methods, missing = available()
    assert methods == ("ar",)
    assert list(missing) == ["exact", "hybrid"]
    line = demo.missing_line({"libero_object": missing, "libero_spatial": missing})
    assert line.startswith("not shown: exact, hybrid; method 'exact' needs a parallel drafter")
    assert "heisd train drafter" in line
    assert "\n" not in line


def test_a_method_is_shown_when_all_it_needs_is_there(policy):
    place(policy, "parallel")
    assert available()[0] == ("ar", "exact")
    place(policy, "store")
    calibrate(policy, "hold_calibrated")
    methods, missing = available()
    assert methods == ("ar", "exact")
    assert "has no setting for 'hybrid'" in missing["hybrid"]
    calibrate(policy, "hybrid", policy_hash="1" * 64)
    assert "was made for policy" in available()[1]["hybrid"]
    calibrate(policy, "hybrid")
    assert available() == (METHODS, {})


def test_an_unknown_policy_is_an_error_and_not_a_missing_piece():
    with pytest.raises(UnknownName):
        demo.methods_for("libero_object", "no-such-policy")


def test_all_methods_play_the_same_few_episodes_timed_and_off_the_test_split():
    shown = demo.Show("libero_object", FORMAT, METHODS, {})
    config = demo.demo_config("libero_object", "default", demo.default_episodes([shown])[shown.name], METHODS)
    assert config.methods == METHODS
    assert config.timing
    assert config.split == "validation"
    assert config.tasks == (0, 3, 6)
    assert config.episodes == config.videos == 3
    assert demo.demo_config("libero_object", "default", 10, METHODS).tasks == tuple(range(10))


def shown(*policies, methods=demo.METHODS):
    return [demo.Show("libero_object", policy, tuple(methods[policy]), {}) for policy in policies]


def test_there_is_time_for_what_is_shown():
    """On two suites, at 12 s an episode with the baseline's shadow."""
    assert list(demo.default_episodes(shown(FORMAT)).values()) == [3]
    assert list(demo.default_episodes(shown(FLOW_FORMAT)).values()) == [4]
    assert list(demo.default_episodes(shown(FORMAT, methods={FORMAT: ["ar"]})).values()) == [5]
    both = shown(FORMAT, FLOW_FORMAT)
    assert demo.default_episodes(both) == {"libero_object": 2, "flow-libero_object": 1}
    for played in (shown(FORMAT), shown(FLOW_FORMAT), both):
        n_episodes = sum(demo.default_episodes(played)[show.name] * len(show.methods) for show in played)
        assert 2 * n_episodes * 12 < 240


def test_the_table_gives_a_speed_only_to_what_was_timed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timed = play(tmp_path / "timed", monkeypatch, videos=0)["methods"]
    untimed = play(tmp_path / "untimed", monkeypatch, timing=False, videos=0)["methods"]
    columns = [list(column.cells) for column in demo.speed_table(timed).columns]
    assert columns[0] == list(METHODS)
    assert columns[1] == ["3/4"] * 3
    assert columns[3][0] == "-"
    assert columns[3][1] == "1.60x (1.60-1.60)"
    assert columns[5] == ["1.0"] * 3  # a token policy is asked for every action
    assert columns[6][:2] == ["0 %", "0 %"]
    assert columns[6][2] != "0 %"
    columns = [list(column.cells) for column in demo.speed_table(untimed).columns]
    assert columns[2] == columns[3] == ["-"] * 3


@pytest.mark.usefixtures("policy")
def test_the_command_says_in_one_line_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heisd.bench.libero_world.libero_setting", lambda _config: toy_world.setting())
    monkeypatch.setattr("heisd.demo.demo_config", lambda suite, *_: toy_world.config(suite=suite, videos=1))
    done = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("not shown: exact, hybrid")]
    result = json.loads(done.stdout)
    assert set(result["missing"]) == {"libero_object", "libero_spatial"}
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_bundled_policy_can_be_asked():
    assert demo.methods_for("libero_object", "default")[0][0] == "ar"


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A token policy and a flow-matching one, bundled with nothing beside them."""
    root = tmp_path / "bundled"
    monkeypatch.setattr("heisd.policies.bundle.WEIGHTS_ROOT", root)
    model = tiny.network()
    save_policy(root / "libero", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    flows.stored_policy(root / "libero-flow")
    return root


def calibrate_flow(root):
    policy = root / "libero-flow"
    for suite in demo.SUITES:
        calibrate(policy, "flow_hybrid", policy_hash=describe_weights(policy)["sha256"], suite=suite)


def played(weights="default"):
    return [(show.name, show.methods) for show in demo.shows(weights)]


def test_a_flow_policy_is_shown_behind_the_other_once_its_accelerated_method_can_be(bundled):
    tokens = [("libero_object", ("ar",)), ("libero_spatial", ("ar",))]
    assert played() == tokens
    flows.stored_draft_head(bundled / "libero-flow")
    flow = [(f"flow-{suite}", ("full", "flow_hybrid")) for suite in demo.SUITES]
    assert played() == tokens  # as yet it goes by a first guess
    calibrate_flow(bundled)
    assert played() == [*tokens, *flow]
    assert played("libero") == tokens
    assert played("libero-flow") == played(str(bundled / "libero-flow")) == flow


@pytest.mark.usefixtures("bundled")
def test_a_flow_policy_that_is_named_plays_alone_and_says_what_it_lacks():
    (one, other) = demo.shows("libero-flow")
    assert (one.methods, other.methods) == (("full",), ("full",))
    assert "needs a draft head" in one.missing["flow_hybrid"]


def test_both_families_stand_in_the_same_tables_and_on_one_page(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flows.stored_draft_head(bundled / "libero-flow")
    calibrate_flow(bundled)
    chunks, tokens = (Setting(2, world, toy_world.SETTING_PROVENANCE) for world in (chunk_world, toy_world.toy_world))

    def config(suite, _weights, _episodes, methods):
        return toy_world.config(suite=suite, methods=methods, timing=True, videos=1)

    monkeypatch.setattr(
        "heisd.bench.libero_world.libero_setting", lambda config: chunks if config.methods[0] == "full" else tokens
    )
    monkeypatch.setattr("heisd.demo.demo_config", config)
    result = demo.run_demo(tmp_path / "demo", weights="default", episodes=None)
    assert list(result["results"]) == ["libero_object", "libero_spatial", "flow-libero_object", "flow-libero_spatial"]
    methods = result["results"]["flow-libero_object"]["methods"]
    rows = list(zip(*(column.cells for column in demo.speed_table(methods).columns), strict=True))
    full, hybrid = rows
    assert (full[0], full[4], full[5], full[6]) == ("full", "0.28", "3.6", "0 %")  # 14 rounds, 50 actions
    assert (hybrid[0], hybrid[4], hybrid[5], hybrid[6]) == ("flow_hybrid", "0.10", "3.6", "20 %")
    assert "(" in hybrid[3]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "<b>flow_hybrid</b>" in page
    assert "<b>ar</b>" in page


def test_one_episode_has_a_speed_without_an_interval(tmp_path, monkeypatch):
    alone = play(tmp_path / "one", monkeypatch, world=chunk_world, methods=("full", "flow_hybrid"), episodes=1)
    speeds = list(demo.speed_table(alone["methods"]).columns[3].cells)
    assert speeds[0] == "-"
    assert speeds[1].endswith("x")
