"""The demo: plain beside what has its assets, the same episodes for all, one line for what is missing."""

import json

import pytest
from report_fakes import METHODS, play
from typer.testing import CliRunner

from heisd import cli, demo
from heisd.errors import UnknownName
from heisd.kinematics.defaults import LIBERO as ONLOOKER
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


def calibrate(policy, *presets, policy_hash="0" * 64):
    score = SkipScore(names=(), mean=(), scale=(), weight=(), bias=0.0)
    Calibration(
        suite="libero_object", policy_hash=policy_hash, motion_paper=ONLOOKER.as_dict(), motion_code=ONLOOKER.as_dict(),
        kalman_process=(1.0,) * 7, kalman_measurement=(1.0,) * 7, adaptive_similarity=0.9,
        skips={name: SkipSetting(score=score, threshold=0.5, n_skips=1) for name in presets},
    ).save(place_of(policy, "libero_object", "calibration"))  # fmt: skip


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
    config = demo.demo_config("libero_object", "default", None, METHODS)
    assert config.methods == METHODS
    assert config.timing
    assert config.split == "validation"
    assert config.tasks == (0, 3, 6)
    assert config.episodes == config.videos == 3
    assert demo.demo_config("libero_object", "default", None).episodes == 5
    assert demo.demo_config("libero_object", "default", 10, METHODS).tasks == tuple(range(10))
    most = max(n * len_ for len_, n in demo.DEFAULT_EPISODES.items())
    assert 2 * most * 12 < 240  # seconds: two suites, 12 s an episode with the baseline's shadow


def test_the_table_gives_a_speed_only_to_what_was_timed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timed = play(tmp_path / "timed", monkeypatch, videos=0)["methods"]
    untimed = play(tmp_path / "untimed", monkeypatch, timing=False, videos=0)["methods"]
    columns = [list(column.cells) for column in demo.speed_table(timed).columns]
    assert columns[0] == list(METHODS)
    assert columns[1] == ["3/4"] * 3
    assert columns[3][0] == "-"
    assert columns[3][1] == "1.60x (1.60-1.60)"
    assert columns[5][:2] == ["0 %", "0 %"]
    assert columns[5][2] != "0 %"
    columns = [list(column.cells) for column in demo.speed_table(untimed).columns]
    assert columns[2] == columns[3] == ["-"] * 3


@pytest.mark.usefixtures("policy")
def test_the_command_says_in_one_line_what_is_missing(tmp_path, monkeypatch):
    import toy_world

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
