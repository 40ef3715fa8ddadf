"""Tables of costs as files: what is refused, what a calibration keeps of them, predictions beside measurements."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from calibrate_fakes import SUITE, TARGET
from test_cost_model import BLOCK, COSTS, PREDICTED_MS
from typer.testing import CliRunner

from heisd import cli
from heisd.bench.costs_file import keep_costs, predictions
from heisd.errors import BadArtifact, BadInput
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.presets.calibration import Calibration
from heisd.route.costs_file import read_costs

HASH = TARGET.sha256


def costs_result(**changes: Any) -> dict[str, Any]:
    return {
        "costs": asdict(COSTS), "policy": {"name": "toy", "sha256": HASH}, "suite": "toy_a", "steps": 9,
        "dtype": "float32", "threads": 2, "observations": {"file": "a.npz", "sha256": "aaa"}, "machine": {},
        "commit": None, **changes,
    }  # fmt: skip


def bench_result(measured_ms: float | None, **changes: Any) -> dict[str, Any]:
    block = {"speculation": BLOCK, "ms_per_action": {"mean": measured_ms}, "speedup_vs_baseline": {"ratio": 1.4}}
    return {
        "methods": {"hybrid": block}, "policy": {"sha256": HASH}, "dtype": "float32", "suite": "toy_b", "threads": 2,
        "observations": {"sha256": "bbb"}, **changes,
    }  # fmt: skip


def written(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tmp_path / "costs.json", costs_result())


def a_calibration(path: Path) -> Calibration:
    calibration = Calibration(
        suite=SUITE, policy_hash=HASH, motion_paper=ONLOOKER.as_dict(), motion_code=ONLOOKER.as_dict(),
        kalman_process=(1.0,) * 7, kalman_measurement=(1.0,) * 7, adaptive_similarity=0.9, provenance={"observed": 1},
    )  # fmt: skip
    calibration.save(path)
    return calibration


def test_a_calibration_keeps_a_table_and_where_it_comes_from_and_nothing_else_changes(
    tmp_path: Path, table: Path
) -> None:
    place = tmp_path / "toy.json"
    before = a_calibration(place)
    keep_costs(place, read_costs(table), HASH)
    after = Calibration.load(place, HASH)
    assert after.costs == COSTS
    origin = after.provenance["costs"]
    assert (origin["file"], origin["suite"], origin["dtype"]) == ("costs.json", "toy_a", "float32")
    assert after.model_copy(update={"costs": None, "provenance": before.provenance}) == before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"), (json.dumps({"methods": {}}), "no result of heisd bench --costs .KeyError"),
        (json.dumps(costs_result(policy={})), "no result of heisd bench --costs"),
        (json.dumps(costs_result(costs={**asdict(COSTS), "gpu_ms": 1.0})), "gpu_ms"),
        (json.dumps(costs_result(costs={**asdict(COSTS), "row_ms": -1.0})), "not negative"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(BadArtifact, match=rf"other\.json.*{why}.*heisd bench --costs --json"):
        read_costs(path)


def test_a_table_of_another_policy_is_not_kept(tmp_path: Path, table: Path) -> None:
    place = tmp_path / "toy.json"
    a_calibration(place)
    with pytest.raises(BadArtifact, match=r"measured on policy ffffffffffff…, the policy of .* is 0000"):
        keep_costs(place, read_costs(table), "0" * 64)
    with pytest.raises(BadArtifact, match="heisd calibrate"):
        keep_costs(tmp_path / "none.json", read_costs(table), HASH)


def test_predicted_stands_beside_measured_for_files_and_runs(tmp_path: Path, table: Path) -> None:
    near = written(tmp_path / "bench.json", bench_result(10.0))
    run = {**bench_result(20.0), "config": {"suite": "toy_c", "dtype": "float32"}}
    del run["threads"], run["observations"], run["suite"], run["dtype"]
    written(tmp_path / "run" / "eval_info.json", run)
    result = predictions(read_costs(table), [near, tmp_path / "run"])
    first, second = result["results"]
    assert (first["suite"], second["suite"]) == ("toy_b", "toy_c")
    assert first["methods"]["hybrid"]["error"] == pytest.approx(PREDICTED_MS / 10.0 - 1)
    assert result["largest_error"] == pytest.approx(PREDICTED_MS / 20.0 - 1)
    assert result["is_within_10_percent"] is False
    assert predictions(read_costs(table), [near])["is_within_10_percent"] is True
    untimed = written(tmp_path / "untimed.json", bench_result(None))
    assert predictions(read_costs(table), [untimed])["largest_error"] is None


def test_the_same_observations_are_said(tmp_path: Path, table: Path) -> None:
    same = written(tmp_path / "same.json", bench_result(10.0, observations={"sha256": "aaa"}))
    other = written(tmp_path / "other.json", bench_result(10.0))
    result = predictions(read_costs(table), [same, other])
    assert [each["has_same_observations"] for each in result["results"]] == [True, False]


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"policy": {"sha256": "0" * 64}}, BadArtifact, "measured on policy"),
        ({"dtype": "bfloat16"}, BadInput, "dtype float32, .* with bfloat16"),
        ({"threads": 1}, BadInput, "threads 2, .* with 1"),
        ({"methods": {"full": {}}}, BadInput, "chunk policies"),
        ({"methods": {"nobody": {}}}, BadArtifact, "no result of heisd bench or heisd eval"),
        ({"methods": {"ar": {"ms_per_action": {}}}}, BadArtifact, "again with this version"),
    ],
)  # fmt: skip
def test_results_that_the_table_says_nothing_about_are_refused(
    tmp_path: Path, table: Path, changes: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        predictions(read_costs(table), [written(tmp_path / "result.json", bench_result(10.0, **changes))])


def test_the_command_prints_a_table_or_one_json_object(tmp_path: Path, table: Path) -> None:
    near = written(tmp_path / "bench.json", bench_result(10.0))
    said = CliRunner().invoke(cli.app, ["predict", str(table), str(near)], env={"COLUMNS": "200"})
    assert said.exit_code == 0
    assert "hybrid" in said.stdout
    assert "within 10 %" in said.stdout
    parsed = json.loads(CliRunner().invoke(cli.app, ["predict", str(table), str(near), "--json"]).stdout)
    assert parsed["results"][0]["methods"]["hybrid"]["predicted"]["total_ms"] == PREDICTED_MS
    wrong = CliRunner().invoke(cli.app, ["predict", str(near), str(near)])
    assert (wrong.exit_code, "no result of heisd bench --costs" in wrong.stderr) == (2, True)
    assert "Traceback" not in wrong.output
