"""Every verb as a user runs it: a process, a directory, an exit code."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
from processes import command, environment

from heisd.bench.observations import save_observations
from heisd.types import Observation, Proprioception

SUITE = "libero_object"


def eval_command(policy, out, *more):
    return ["eval", "--suite", SUITE, "--split", "validation", "--tasks", "7", "--episodes", 1, "--weights", policy,
            "--out", out, *more]  # fmt: skip


@pytest.fixture
def recorded(tmp_path, rng):
    """Three random observations in a file."""
    arm = Proprioception(
        np.array([-0.05, 0, 1.1]),
        np.array([1.0, 0, 0, 0]),
        np.array([0.04, -0.04]),
        np.zeros(2),
        np.zeros(7),
        np.zeros(7),
    )
    path = tmp_path / "observations.npz"
    pictures = rng.integers(0, 256, (3, 2, 128, 128, 3), dtype=np.uint8)
    save_observations(
        path,
        [
            Observation({"agentview": a, "wrist": w}, arm, "pick up the milk and place it in the basket", i / 20)
            for i, (a, w) in enumerate(pictures)
        ],
    )
    return path


def test_bench_times_every_stage_without_a_simulator(heisd, tiny_policy, recorded):
    done = heisd("bench", "--observations", recorded, "--weights", tiny_policy, "--steps", 8, "--warmup", 2, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    block = result["methods"]["ar"]
    assert block["ms_per_action"]["n"] == 8
    assert {"encode", "prefill", "decode", "act"} <= block["stages"].keys()
    assert sum(row["mean"] for row in block["stages"].values()) <= block["ms_per_action"]["mean"]
    ratio = result["cost_ratio"]
    assert ratio["ceiling"] == pytest.approx(1 + ratio["decode_over_prefill"])
    assert result["observations"]["n"] == 3


def test_bad_weights_are_named(heisd, tiny_policy, recorded, tmp_path):
    missing = heisd("bench", "--observations", recorded, "--weights", "nowhere")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "'nowhere'" in missing.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_policy.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"junk")
    foreign = heisd("bench", "--observations", recorded, "--weights", broken)
    assert foreign.returncode == 2
    assert "model.safetensors has sha256" in foreign.stderr
    assert "Traceback" not in foreign.stderr


@pytest.mark.libero
def test_unknown_suites_are_refused_with_the_known_ones(heisd, tiny_policy, tmp_path):
    done = heisd("eval", "--suite", "libero_moon", "--out", tmp_path / "run", "--weights", tiny_policy)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown suite 'libero_moon'; known: libero_10,")
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.libero
@pytest.mark.slow
def test_an_episode_in_libero_interrupted_resumed_and_reported(heisd, tiny_policy, tmp_path):
    out = tmp_path / "run"
    arguments = eval_command(tiny_policy, out, "--timing", "--videos", 1)
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (out / "config.json").exists() and process.poll() is None:
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted; 0 of 1 episodes are saved" in said
    assert not (out / "eval_info.json").exists()

    done = heisd(*arguments, "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((out / "eval_info.json").read_text())
    assert result["overall"]["n_episodes"] == 1
    assert result["methods"]["ar"]["ms_per_action"]["n"] == result["methods"]["ar"]["mean_steps"]
    assert result["methods"]["ar"]["speculation"]["lm_forwards_per_action"] == 7
    page = heisd("report", out, "--out", tmp_path / "report.html")
    assert page.returncode == 0, page.stderr
    assert "<video" in (tmp_path / "report.html").read_text()
