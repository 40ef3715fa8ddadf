"""The command line over toy worlds: one line per error, exit codes, JSON alone on stdout, quick help."""

import json
import subprocess
import sys

import pytest
import toy_world
from typer.testing import CliRunner

from heisd import cli

runner = CliRunner()


@pytest.fixture(autouse=True)
def _toy(tmp_path, monkeypatch):
    """LIBERO's setting replaced by the toy's; the working directory outside the checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heisd.bench.libero_world.libero_setting", lambda _config: toy_world.setting())


def run(*arguments):
    return runner.invoke(cli.app, [str(a) for a in arguments])


def eval_toy(out, *more):
    return run("eval", "--suite", "toy", "--split", "validation", "--episodes", 4, "--out", out, *more)


def test_json_is_one_object_alone_on_stdout(tmp_path):
    done = eval_toy(tmp_path / "run", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["overall"]["pc_success"] == 75.0


def test_the_table_is_for_people(tmp_path):
    done = eval_toy(tmp_path / "run", "--timing")
    assert "75.0 %" in done.stdout
    assert "full clock" in done.stdout
    assert "2/2" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "tset"], "unknown split 'tset'; known: calibration, test, train, validation"),
        (["--method", "warp"], "unknown method 'warp'; known: ar"),
        (["--method", ""], "unknown method ''; known: ar"),
        (
            ["--condition", "windy"],
            "unknown condition 'windy'; known: jitter, jitter4, moving12, moving2, moving4, moving6, moving8, shipped",
        ),
        (["--tasks", "one"], "--tasks 'one' is not a list of numbers"),
        (["--tasks", "7"], "task indices [7] are not in 0-1"),
        (["--timing", "--workers", "2"], "--timing is serial"),
        (["--episodes", "1000"], "ask for fewer, or add --fresh"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    done = eval_toy(tmp_path / "run", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "--suite", "toy", "--split", "validation", "--out", "FILE"],
        ["report", "RUN", "--out", "DIR"],
        ["latency-profile", "DIR", "--out", "profile.json"],
        ["latency-profile", "FILE", "--out", "missing/profile.json"],
        ["bench", "--observations", "FILE"],
        ["bench", "--observations", "EMPTY"],
        ["train", "policy", "--data", "DIR", "--out", "trained", "--config", "FILE"],
    ],
    ids=" ".join,
)
def test_a_file_of_the_wrong_kind_is_one_line_and_changes_nothing(tmp_path, arguments):
    places = {"FILE": tmp_path / "file.npz", "EMPTY": tmp_path / "empty.npz", "DIR": tmp_path / "dir"}
    places["FILE"].write_bytes(b"PK\x03\x04\xff\xfe torn")
    places["EMPTY"].touch()
    places["DIR"].mkdir()
    if "RUN" in arguments:
        assert eval_toy(tmp_path / "run").exit_code == 0
    before = sorted(tmp_path.iterdir())
    done = run(*(places.get(word, tmp_path / "run" if word == "RUN" else word) for word in arguments))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert sorted(tmp_path.iterdir()) == before
    assert places["FILE"].read_bytes() == b"PK\x03\x04\xff\xfe torn"


def test_another_configuration_in_the_same_directory_is_refused(tmp_path):
    eval_toy(tmp_path / "run")
    done = eval_toy(tmp_path / "run", "--condition", "jitter")
    assert done.exit_code == 2
    assert "condition: shipped -> jitter" in done.stderr


def test_ctrl_c_says_what_is_saved_and_resumes(tmp_path, monkeypatch):
    from heisd import cli_run

    def interrupting(self, record, done, total):
        original(self, record, done, total)
        if done == 2:
            raise KeyboardInterrupt

    original = cli_run.EpisodeBar.__call__
    monkeypatch.setattr(cli_run.EpisodeBar, "__call__", interrupting)
    done = eval_toy(tmp_path / "run")
    assert done.exit_code == 130
    assert "interrupted; 2 of 4 episodes are saved; repeat the command to go on" in done.stderr
    monkeypatch.setattr(cli_run.EpisodeBar, "__call__", original)
    assert eval_toy(tmp_path / "run").exit_code == 0


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "episodes.jsonl")

    monkeypatch.setattr("heisd.bench.results.RunDirectory.append", full)
    done = eval_toy(tmp_path / "run")
    assert done.exit_code == 2
    assert done.stderr.strip() == "error: No space left on device (episodes.jsonl); what was finished before is kept"
    assert not (tmp_path / "run" / "eval_info.json").exists()


def test_episodes_that_cannot_be_played_give_exit_code_1(tmp_path, monkeypatch):
    trips = tmp_path / "trips"
    trips.write_text("1000")
    monkeypatch.setenv("TOY_TRIPS", str(trips))
    fragile = toy_world.setting(toy_world.fragile_world)
    monkeypatch.setattr("heisd.bench.libero_world.libero_setting", lambda _config: fragile)
    done = eval_toy(tmp_path / "run", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == "invalid_episodes"
    assert "4 episodes could not be played" in done.stderr


def test_report_and_its_refusal(tmp_path):
    eval_toy(tmp_path / "run")
    done = run("report", tmp_path / "run", "--out", tmp_path / "r.html", "--json")
    assert json.loads(done.stdout)["report"] == str(tmp_path / "r.html")
    refused = run("report", tmp_path / "nowhere", "--out", tmp_path / "r2.html")
    assert refused.exit_code == 2
    assert "not a run of heisd eval, or not finished" in refused.stderr


def test_demo_plays_both_suites_and_writes_a_page(tmp_path, monkeypatch):
    def toy_config(suite, *_):
        return toy_world.config(suite=suite, videos=1)

    monkeypatch.setattr("heisd.demo.demo_config", toy_config)
    done = run("demo", "--out", tmp_path / "demo", "--json")
    result = json.loads(done.stdout)
    assert set(result["results"]) >= {"libero_object", "libero_spatial"}
    assert (tmp_path / "demo" / "report.html").is_file()


def test_collect_without_a_directory_says_so():
    done = run("collect", "--suite", "libero_object")
    assert done.exit_code == 2
    assert "needs --out DIR" in done.stderr


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['heisd', '--help']\n"
        "from heisd import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'mujoco', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("demo", "collect", "train", "eval", "bench", "report", "doctor"):
        assert verb in done.stdout
