"""Files of calibrations: what is refused when they are read, whose they are, and what is said before anything plays."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_policy import HASH, toy_policy

from heisd.bench import libero_world
from heisd.config import EvalConfig
from heisd.errors import BadArtifact
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.presets.assets import Assets, place_of, require
from heisd.presets.calibration import Calibration

SCORE: dict[str, Any] = {"names": ["similarity"], "mean": [0.0], "scale": [1.0], "weight": [1.0], "bias": 0.0}


def setting(**changes: Any) -> dict[str, Any]:
    return {"score": SCORE | changes, "threshold": 0.5, "n_skips": 1}


def written(path: Path, *presets: str, **changes: Any) -> Path:
    """A calibration with settings for these presets."""
    values = {
        "suite": path.stem, "policy_hash": HASH, "motion_paper": ONLOOKER.as_dict(), "motion_code": ONLOOKER.as_dict(),
        "kalman_process": [1.0] * 7, "kalman_measurement": [1.0] * 7, "adaptive_similarity": 0.9,
        "skips": {name: setting() for name in presets},
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values | changes))
    return path


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy with a drafter and a store beside it; nothing in them is loaded here."""
    return toy_policy(tmp_path, monkeypatch, "parallel", "store", "eagle")


def own(policy: Path, suite: str) -> Path:
    return place_of(policy, suite, "calibration")


# ---- values that no rule can use


def test_a_file_that_can_be_used_is_read(tmp_path: Path) -> None:
    assert Calibration.load(written(tmp_path / "toy.json", "hybrid"), HASH, "toy").skip_setting("hybrid").n_skips == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kalman_process": [1.0] * 6}, "kalman_process and kalman_measurement: noise is 7 numbers each.*got 6 and 7"),
        ({"kalman_measurement": []}, "kalman_measurement: .*got 7 and 0"),
        ({"kalman_process": [-1.0] * 7}, "kalman_process and kalman_measurement: noise is q >= 0"),
        ({"motion_paper": {}}, "motion_paper: motion ranges with"),
        ({"motion_code": {**ONLOOKER.as_dict(), "window": 1}}, "motion_code: a window has at least 3"),
        (
            {"skips": {"coast": setting(names=["courage"])}},
            r"skips\.coast\.score: unknown feature\(s\) \['courage'\]; known: similarity, .*n_skips",
        ),
    ],
)
def test_a_file_that_no_rule_can_use_is_refused_by_field_and_command(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    path = written(tmp_path / "toy.json", **changes)
    with pytest.raises(
        BadArtifact, match=rf"toy\.json: .*{why}.*; make it anew: heisd calibrate --suite toy"
    ) as caught:
        Calibration.load(path, HASH)
    assert "\n" not in str(caught.value)


# ---- whose it is


def played(policy: Path, suite: str, calibration: Path | None = None) -> str:
    """The suite whose calibration an evaluation says it uses; BadArtifact when it refuses to begin."""
    given = None if calibration is None else str(calibration)
    config = EvalConfig(suite=suite, methods=("hybrid",), calibration=given)
    setting = libero_world.libero_setting(config)
    engine_s = Assets(
        SimpleNamespace(codec=None), policy, libero_world.calibrated_suite(policy, suite, calibration),  # type: ignore[arg-type]
        calibration=calibration,
    ).calibration()  # fmt: skip
    told = str(setting.provenance["calibration"]["suite"])
    assert told == engine_s.suite
    return told


def test_a_calibration_of_another_suite_is_refused_naming_both(policy: Path, tmp_path: Path) -> None:
    for suite in ("libero_object", "libero_spatial"):
        written(own(policy, suite), "hybrid")
    other = own(policy, "libero_object")
    said = (
        r"libero_object\.json is a calibration of libero_object, and one of libero_spatial is needed.*--suite libero_s"
    )
    with pytest.raises(BadArtifact, match=said):
        played(policy, "libero_spatial", other)
    with pytest.raises(BadArtifact, match=said):
        Assets(SimpleNamespace(codec=None), policy, "libero_spatial", calibration=other).calibration()  # type: ignore[arg-type]
    written(own(policy, "libero_spatial"), "hybrid", suite="libero_object")  # one that was copied into its place
    with pytest.raises(BadArtifact, match="is a calibration of libero_object, and one of libero_spatial is needed"):
        played(policy, "libero_spatial")
    assert played(policy, "libero_spatial", written(tmp_path / "libero_spatial.json", "hybrid")) == "libero_spatial"


def test_a_variant_borrows_its_bases_calibration_and_nobody_elses(policy: Path, tmp_path: Path) -> None:
    base = written(own(policy, "libero_goal"), "hybrid")
    assert played(policy, "libero_goal_swap") == "libero_goal"
    assert played(policy, "libero_goal_swap", base) == "libero_goal"
    assert (
        played(policy, "libero_goal_swap", written(tmp_path / "libero_goal_swap.json", "hybrid")) == "libero_goal_swap"
    )
    with pytest.raises(BadArtifact, match="of libero_object, and one of libero_goal_swap is needed"):
        played(policy, "libero_goal_swap", written(tmp_path / "libero_object.json", "hybrid"))
    base.unlink()  # given, it need not lie beside the policy
    assert played(policy, "libero_goal_swap", written(tmp_path / "libero_goal.json", "hybrid")) == "libero_goal"


# ---- what a preset needs of it is said before anything is played


@pytest.mark.parametrize(
    ("method", "needed"),
    [
        ("coast", "coast"),
        ("hybrid_no_store", "hybrid_no_store"),
        ("hybrid_2to1", "hybrid"),
        ("hybrid_store_25", "hybrid"),
    ],
)  # fmt: skip
def test_a_preset_without_a_setting_is_refused_before_anything_is_played(
    policy: Path, tmp_path: Path, method: str, needed: str
) -> None:
    config = EvalConfig(suite="toy", methods=("ar", method))
    written(own(policy, "toy"), "hold_calibrated")
    command = f"heisd calibrate --suite toy --method {needed}"
    said = rf"no setting for '{needed}' \(it has: hold_calibrated\); make one: {command}$"
    for suite_calibration in (None, written(tmp_path / "toy.json", "hold_calibrated")):
        with pytest.raises(BadArtifact, match=said):
            require(policy, "toy", ["ar", method], calibration=suite_calibration)
    with pytest.raises(BadArtifact, match=said):
        libero_world.libero_setting(config)
    written(own(policy, "toy"), "hold_calibrated", needed)
    libero_world.libero_setting(config)


def test_presets_that_skip_by_no_score_need_no_setting(policy: Path) -> None:
    written(own(policy, "toy"))
    require(policy, "toy", ["ar", "exact", "kerv_paper", "heisd_code", "heisd_code_skip"])


def test_a_calibration_that_a_preset_may_use_is_looked_at_too(policy: Path) -> None:
    require(policy, "toy", ["exact"])
    own(policy, "toy").parent.mkdir()
    own(policy, "toy").write_text("{")
    require(policy, "toy", ["ar", "retrieval_sd"])
    with pytest.raises(BadArtifact, match=r"toy\.json is not JSON"):
        require(policy, "toy", ["exact"])
