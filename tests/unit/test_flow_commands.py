"""From a data set on disk to speculation: every command of the flow family, one after the other, on tiny shapes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demo_fakes import make_dataset
from typer.testing import CliRunner

pytest.importorskip("libero", reason="the vocabulary is built from LIBERO's instructions (extra libero)")

import tiny_policies as tiny
from heisd.bench.chunk_model import ChunkCosts
from heisd.bench.observations import save_observations
from heisd.bench.rounds import RoundKind
from heisd.cli import app

RECIPE = {
    "steps": 4, "batch_size": 8, "warmup_steps": 2, "checkpoint_every": 2, "log_every": 2, "threads": 1,
    "holdout_every": 4, "hidden_size": 32, "n_layers": 2, "n_heads": 2, "intermediate_size": 48, "draws": 2,
    "expert_hidden_size": 24, "expert_intermediate_size": 32, "horizon": 6, "executed": 4, "euler_steps": 2,
    "validate_episodes": 0,
}  # fmt: skip
HEAD = {"steps": 4, "batch_size": 8, "warmup_steps": 2, "checkpoint_every": 2, "threads": 1, "holdout_every": 4}
METHODS = (
    "full,full_naive,full_longer,flash,flash_retrieval,tail_2to1,flow_hybrid,flow_hybrid_retrieval,"
    "flow_hybrid_all_drafts"
)


def invoke(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    return done.stdout if code == 0 else done.stderr


def test_from_demonstrations_to_speculation(tmp_path: Path, rng: np.random.Generator) -> None:
    data = make_dataset(tmp_path / "data", 8)
    (tmp_path / "flow.json").write_text(json.dumps(RECIPE))
    (tmp_path / "head.json").write_text(json.dumps(HEAD))
    train = ("train", "flow", "--data", data, "--out", tmp_path / "run", "--config", tmp_path / "flow.json")
    made = json.loads(invoke(*train, "--json"))
    policy = Path(made["policy"])
    assert "already holds a run; add --resume" in invoke(*train, code=2)

    # other sampling, exported again without training: the weights stay what they were
    before = (policy / "model.safetensors").read_bytes()
    (tmp_path / "flow.json").write_text(json.dumps(RECIPE | {"euler_steps": 3}))
    invoke(*train, "--resume")
    assert json.loads((policy / "config.json").read_text())["sampling"]["euler_steps"] == 3
    assert (policy / "model.safetensors").read_bytes() == before

    invoke("train", "draft-head", "--data", data, "--weights", policy, "--out", tmp_path / "head",
           "--config", tmp_path / "head.json")  # fmt: skip
    (tmp_path / "head" / "drafter").rename(tmp_path / "run" / "policy-draft")
    invoke("index", "build", "--data", data, "--weights", policy, "--out", tmp_path / "run" / "policy-store")

    seen = [replace(tiny.observation(rng, "pick up the soup", size_px=128), time_s=i / 20) for i in range(24)]
    save_observations(tmp_path / "seen.npz", seen)
    result = json.loads(
        invoke("bench", "--method", METHODS, "--weights", policy, "--observations", tmp_path / "seen.npz",
               "--steps", 20, "--warmup", 4, "--json")
    )  # fmt: skip
    assert result["sampling"] == {"euler_steps": 3, "executed": 4, "noise_scale": 1.0}
    for name in METHODS.split(","):
        assert result["methods"][name]["ms_per_action"]["n"] == 20
        assert result["methods"][name]["ms_per_round"]["n"] >= 2
    blocks = result["methods"]
    costs = ChunkCosts.of_bench(blocks["full"], blocks["flash"])  # its second round is verified
    assert min(costs.denoise_ms, costs.draft_ms, costs.verify_ms, costs.accept_ms, costs.in_hand_ms) > 0
    assert ChunkCosts.of_bench(blocks["full_naive"]).of(RoundKind.FULL) > costs.in_hand_ms
    for option in ("--costs", "--check-exact"):  # before anything is recorded
        refused = invoke("bench", option, "--weights", policy, code=2)
        assert refused.startswith(f"error: {option} needs a policy that decodes tokens, and ")
    (tmp_path / "flow.json").write_text('{"drawz": 1}')
    assert "drawz" in invoke(*train, "--resume", code=2)
