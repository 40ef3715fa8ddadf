"""Latency profiles: what a step is charged, what published totals they add up to, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import fake_target as fake
import numpy as np
import pytest
from test_cost_model import COSTS, speculation, step
from typer.testing import CliRunner

from heisd import cli
from heisd.bench.cost_model import Usage, predict
from heisd.bench.latency_profile import (
    ASKED_STAGES,
    CHUNK_STAGES,
    ChunkMeter,
    InstantMeter,
    LatencyProfile,
    TokenMeter,
    load_profile,
    profile_hash,
    published_profiles,
)
from heisd.bench.measured_profile import measured_profile
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies.manifest import FLOW_FORMAT, FORMAT
from heisd.presets import PRESETS
from heisd.propose import registry
from heisd.route.fixed import Fixed
from heisd.telemetry import MemorySink
from heisd.types import StepRecord

STAGES = {name.removesuffix("_ms"): getattr(COSTS, name) for name in COSTS.__slots__ if name != "judge_ms"}
DECODED = {"decoded": 7}


def profile(family: str = "tokens", **ms: float) -> LatencyProfile:
    stages = {name: {"ms": value, "kind": "assumed", "source": "a test"} for name, value in (ms or STAGES).items()}
    return LatencyProfile.model_validate(
        {"format": "heisd-latency-profile", "version": 1, "name": "mine", "family": family, "model": "a model",
         "hardware": "a machine", "stages": stages}
    )  # fmt: skip


def written(path: Path, **changes: Any) -> Path:
    value = {**profile().model_dump(mode="json"), **changes}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))
    return path


def record(route: str, forwards: int, drafted: int, *verifications: tuple[int, int], asked: str = "") -> StepRecord:
    return StepRecord(
        0, 1.0, {}, forwards, DECODED, verifications=verifications, n_drafted=drafted, route=route,
        asked=dict.fromkeys(asked.split(), 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("done", "charged_ms"),
    [
        (record("full", 7, 0), 1.0 + 4.0 + 6 * 1.5 + 0.25),
        (record("skip", 0, 0, asked="retrieval"), 1.0 + 0.5 + 0.25),
        (record("skip", 0, 0), 1.0 + 0.25),  # the last action held: nobody was asked
        (record("speculate", 1, 12, (0, 7), asked="parallel"), 1.0 + 4.0 + 12 * 0.125 + 1.0 + 0.25),
        (
            record("speculate", 4, 20, (0, 2), (3, 1), asked="parallel retrieval"),
            1.0 + 4.0 + 3 * 1.5 + 20 * 0.125 + 0.25 + 0.5 + (1.0 + 0.5) + 0.25,
        ),
        (record("speculate", 5, 8, (1, 2), asked="eagle"), 1.0 + 4.0 + 4 * 1.5 + 8 * 0.125 + 0.25 + 2.0 + 0.25),
    ],
)
def test_a_step_is_charged_for_what_it_did(done: StepRecord, charged_ms: float) -> None:
    assert profile().meter().charge_ms(done) == pytest.approx(charged_ms)


def test_the_mean_charge_is_what_the_cost_model_predicts_for_the_mean_step() -> None:
    steps = [
        step("skip", 0, 0), step("speculate", 1, 12, (0, 7)), step("speculate", 4, 20, (0, 2), (3, 1)),
        step("full", 7, 0), step("speculate", 5, 6, (2, 1)),
    ]  # fmt: skip
    charged = [
        profile().meter().charge_ms(record(s.route, s.lm_forwards, s.n_drafted, *s.verifications)) for s in steps
    ]
    assert np.mean(charged) == pytest.approx(predict(COSTS.asking(()), Usage.of(speculation(*steps))).total_ms)


def test_the_measured_times_of_a_step_change_no_charge() -> None:
    slow = StepRecord(0, 999.0, {"encode": 500.0, "decode": 499.0}, 7, DECODED, route="full")
    assert profile().meter().charge_ms(slow) == profile().meter().charge_ms(record("full", 7, 0))


def test_the_engine_says_whom_a_step_asked_and_how_often() -> None:
    sink, names = MemorySink(), ("persistence", "kalman")
    proposers = {name: registry.create(name, fake.CODEC) for name in names}
    once = {"persistence": 1, "kalman": 1}
    for router, asked in ((Fixed(drafters=("kalman",)), {"kalman": 1}), (Fixed(drafters=names), once), (Fixed(), {})):
        engine = Engine(fake.FakePolicy(), proposers=proposers, sink=sink, router=router)
        for seen in fake.observations(3):
            engine.act(seen)
        assert [record.asked for record in sink.records[-3:]] == [asked] * 3
    Engine(fake.FakePolicy(), sink=sink).act(fake.observations(1)[0])
    assert sink.records[-1].asked == {}


@pytest.mark.parametrize(
    ("name", "total_ms"),
    [
        ("openvla-7b-heisd", 174.0), ("openvla-7b-a100", 178.95), ("openvla-7b-rtx3090", 282.6),
        ("openvla-7b-rtx4090", 300.1), ("pi0-rtx4090d-torch", 58.0), ("pi0-rtx4090d-triton", 39.7), ("zero", 0.0),
    ],
)  # fmt: skip
def test_published_profiles_add_up_to_the_published_totals(name: str, total_ms: float) -> None:
    found = load_profile(name)
    assert found.plain_ms == pytest.approx(total_ms, abs=0.01)
    assert found.name == name
    if found.family == "tokens":
        assert found.meter().charge_ms(record("full", 7, 0)) == pytest.approx(total_ms, abs=0.01)
    runs = FORMAT if found.family == "tokens" else FLOW_FORMAT
    found.require_priced([name for name, preset in PRESETS.items() if preset.policy == runs])


def ran(*stages: str, asked: str = "") -> StepRecord:
    """A step of a chunk policy; its actions have origins, too."""
    return StepRecord(0, 9.0, dict.fromkeys(stages, 3.0), 0, {"relaxed": 7}, asked=dict.fromkeys(asked.split(), 1))


def test_rounds_by_the_published_chunk_profiles() -> None:
    for name, full_ms, flash_ms in (("pi0-rtx4090d-triton", 39.7, 7.8), ("pi0-rtx4090d-torch", 58.0, 18.2)):
        meter = load_profile(name).meter()
        assert meter.charge_ms(ran("encode", "route", "propose", "prefill", "denoise", "act")) == pytest.approx(full_ms)
        flash = ran("encode", "route", "propose", "verify", "accept", "act", asked="draft_head tail")
        assert meter.charge_ms(flash) == pytest.approx(flash_ms)
        assert meter.charge_ms(ran("act")) == 0.0  # of a chunk in hand


def test_every_published_number_has_a_kind_and_a_source() -> None:
    assert len(published_profiles()) >= 6
    for found in published_profiles():
        assert all(len(stage.source) > 10 and stage.kind != "measured" for stage in found.stages.values())


def test_families_are_not_mixed_and_no_stage_is_forgotten() -> None:
    chunks = profile("chunks", **dict.fromkeys(CHUNK_STAGES, 5.0))
    assert isinstance(chunks.meter(), ChunkMeter)
    with pytest.raises(BadInput, match="is of a flow-matching policy, and method 'ar' runs a policy that decodes"):
        chunks.require_priced(["ar", "exact"])
    with pytest.raises(BadInput, match="is of a policy that decodes tokens, and method 'flash' runs a flow-matching"):
        profile().require_priced(["flash"])
    with pytest.raises(BadInput, match="no latency for draft, verify, which method 'flow_hybrid'"):
        chunks.require_priced(["full", "flow_hybrid"])
    chunks.require_priced(["full", "full_naive", "full_longer", "full_rtc"])
    with pytest.raises(BadInput, match="no latency for verify, which method 'tail_2to1'"):  # its drafts are free
        chunks.require_priced(["tail_2to1"])
    for step_of, missing in ((ran("encode", "euler"), "euler"), (ran("encode", asked="draft_head"), "draft"),
                             (ran("encode", "prefill", "decode"), "decode")):  # fmt: skip
        with pytest.raises(BadInput, match=rf"no latency for the stage\(s\) {missing}"):
            chunks.meter().charge_ms(step_of)


def test_a_profile_of_zeros_charges_nothing() -> None:
    zeros = profile(**dict.fromkeys(STAGES, 0.0))
    assert zeros.is_instant
    assert isinstance(zeros.meter(), InstantMeter)
    assert zeros.meter().charge_ms(record("full", 7, 0)) == zeros.plain_ms == 0.0
    assert isinstance(profile().meter(), TokenMeter)


@pytest.mark.parametrize(("method", "stage"), [("hybrid", "lookup"), ("exact", "redraft"), ("kerv_code", "eagle")])
def test_a_method_that_asks_whom_the_profile_does_not_know_is_refused(method: str, stage: str) -> None:
    lacking = profile(**{name: ms for name, ms in STAGES.items() if name != stage})
    lacking.require_priced(["ar"])
    with pytest.raises(BadInput, match=rf"'mine' has no latency for {stage}, which method '{method}'"):
        lacking.require_priced(["ar", method])
    assert any(stage in stages for stages in ASKED_STAGES.values())


def test_files_and_names_are_told_apart(tmp_path: Path) -> None:
    assert load_profile(str(written(tmp_path / "own.json", name="own"))).name == "own"
    with pytest.raises(UnknownName, match=r"unknown latency profile 'openvla'; known: openvla-7b-a100, .*zero"):
        load_profile("openvla")
    with pytest.raises(BadArtifact, match="cannot be read"):
        load_profile(str(tmp_path / "missing.json"))


def stages(**changes: Any) -> dict[str, Any]:
    """Those of the test's profile, some replaced; None leaves one out."""
    found = {**profile().model_dump(mode="json")["stages"], **changes}
    return {name: stage for name, stage in found.items() if stage is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": stages(prefill=None)}, "no latency for prefill"),
        ({"stages": stages(denoise={"ms": 1.0, "kind": "assumed", "source": "x"})}, "unknown stage.*denoise; known: "),
        ({"stages": stages(decode={"ms": -1.0, "kind": "assumed", "source": "x"})}, "stages.decode.ms"),
        ({"stages": stages(decode={"ms": 0.0, "kind": "assumed", "source": "x"})}, "prefill and decode take time"),
        ({"stages": stages(decode={"ms": "fast", "kind": "assumed", "source": "x"})}, "stages.decode.ms"),
        ({"stages": stages(decode={"ms": 1.0, "kind": "rumour", "source": "x"})}, "stages.decode.kind"),
        ({"stages": stages(decode={"ms": 1.0, "kind": "assumed"})}, "stages.decode.source"),
        ({"family": "diffusion"}, "family"),
        ({"version": 2}, "version"),
        ({"format": None}, "format"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_malformed_profiles_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "own.json", **changes)
    with pytest.raises(BadArtifact, match=rf"own.json is no latency profile: .*{message}") as error:
        load_profile(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b'{"ms": NaN}', b""])
def test_files_that_are_no_json_object_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(BadArtifact, match=r"own.json is no latency profile"):
        load_profile(str(path))


COSTS_RESULT = {
    "costs": {name: getattr(COSTS, name) for name in COSTS.__slots__} | {"eagle_ms": 0.0, "tree_ms": 0.0},
    "steps": 60, "suite": "libero_object", "dtype": "float32", "threads": 2, "commit": "abc",
    "policy": {"name": "libero", "sha256": "0" * 64}, "machine": {"processor": "A CPU", "cores": 2},
}  # fmt: skip


def test_a_measured_profile_charges_what_the_costs_say() -> None:
    mine = measured_profile(COSTS_RESULT, "laptop")
    assert mine.plain_ms == COSTS.plain_ms(7)
    assert mine.hardware == "A CPU, 2 core(s)"
    assert {stage.kind.value for stage in mine.stages.values()} == {"measured"}
    assert "eagle" not in mine.stages  # there was none to be measured
    with pytest.raises(BadInput, match="no latency for eagle"):
        mine.require_priced(["spec_vla_strict"])
    assert mine.meter().charge_ms(record("full", 7, 0)) == COSTS.plain_ms(7)


def mean(ms: float, n: int = 10) -> dict[str, float]:
    return {"mean": ms, "n": n}


EVERY_STEP = {name: mean(0.1) for name in ("route", "act", "record")}
ROUNDS_RESULT = {
    "methods": {
        "full": {"stages": {"encode": mean(2.0), "prefill": mean(4.0), "denoise": mean(8.0), **EVERY_STEP}},
        "flash": {"stages": {
            "encode": mean(2.0), "propose": mean(1.0), "verify": mean(3.0, 5), "accept": mean(0.2), **EVERY_STEP,
        }},
        "flash_retrieval": {"stages": {"propose": mean(0.5)}},
    },
    "steps": 60, "dtype": "float32", "threads": 2, "commit": "abc", "sampling": {"euler_steps": 4, "executed": 8},
    "policy": {"name": "flow", "sha256": "0" * 64}, "machine": {"processor": "A CPU", "cores": 2},
}  # fmt: skip


def test_a_measured_profile_of_a_chunk_policy() -> None:
    mine = measured_profile(ROUNDS_RESULT, "laptop")
    assert {name: stage.ms for name, stage in mine.stages.items()} == {
        "encode": 2.0, "prefill": 4.0, "denoise": 8.0, "draft": 2.0, "verify": 3.0, "lookup": 0.5,
    }  # fmt: skip
    assert "4 Euler steps" in mine.stages["denoise"].source
    mine.require_priced(["full", "flash", "flash_retrieval", "flow_hybrid"])
    methods = {"full": ROUNDS_RESULT["methods"]["full"]}  # type: ignore[index]
    methods["flash"] = ROUNDS_RESULT["methods"]["flash"]  # type: ignore[index]
    with pytest.raises(BadInput, match="no latency for lookup"):
        measured_profile({**ROUNDS_RESULT, "methods": methods}, "laptop").require_priced(["flash", "flash_retrieval"])
    unverified = {name: row for name, row in methods["flash"]["stages"].items() if name != "verify"}
    with pytest.raises(BadArtifact, match="flash verified nothing"):
        measured_profile({**ROUNDS_RESULT, "methods": {**methods, "flash": {"stages": unverified}}}, "laptop")
    del methods["flash"]
    alone = measured_profile({**ROUNDS_RESULT, "methods": methods}, "laptop")
    assert alone.plain_ms == 14.0
    with pytest.raises(BadInput, match="no latency for draft"):
        alone.require_priced(["flash"])
    for wrong in ({"methods": {"ar": {"stages": {}}}}, {"methods": {"full": {"stages": {}}}}):
        with pytest.raises(BadArtifact, match="not a result of heisd bench with a profile"):
            measured_profile({**ROUNDS_RESULT, **wrong}, "laptop")


def test_the_command_writes_a_profile_that_can_be_loaded(tmp_path: Path) -> None:
    costs, out = tmp_path / "costs.json", tmp_path / "laptop.json"
    costs.write_text(json.dumps(COSTS_RESULT))
    done = CliRunner().invoke(cli.app, ["latency-profile", str(costs), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert load_profile(str(out)).name == "laptop"
    with pytest.raises(BadArtifact, match="heisd latency-profile"):  # and what it was made of says how
        load_profile(str(costs))
    refused = CliRunner().invoke(cli.app, ["latency-profile", str(out), "--out", str(tmp_path / "x.json")])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: not a result of heisd bench with a profile in it (KeyError: 'machine')")
    assert refused.stderr.count("\n") == 1


def test_the_hash_is_of_the_content() -> None:
    assert profile_hash(profile()) == profile_hash(profile())
    assert profile_hash(profile()) != profile_hash(profile(**{**STAGES, "decode": 9.0}))
