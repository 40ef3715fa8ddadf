"""A result says which drafter, store and calibration were in use, how large the store is, and what failed."""

import json
from dataclasses import replace
from pathlib import Path

import fake_target as fake
import pytest
import toy_world
from fake_target import FakePolicy
from test_faults import Bad, failing
from toy_policy import toy_policy
from toy_world import config

from heisd.bench import libero_world
from heisd.bench.evaluate import evaluate
from heisd.bench.results import RunDirectory
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput
from heisd.policies.manifest import sha256_of
from heisd.presets import PRESETS
from heisd.presets.assets import deciding_hash, in_use, place_of, store_mb
from heisd.telemetry import MemorySink
from heisd.types import Action, Observation, StepRecord


@pytest.fixture(autouse=True)
def _outside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy's directory with a drafter and a store beside it; nothing in them is loaded here."""
    return toy_policy(tmp_path, monkeypatch, "parallel", "store")


def play(out: Path, *methods: str) -> dict:
    settings = config(methods=methods)
    setting = replace(libero_world.libero_setting(settings), world_factory=toy_world.toy_world)
    return evaluate(settings, out, setting)


def test_only_what_the_methods_read_is_named(policy: Path, tmp_path: Path) -> None:
    assert in_use(policy, "toy", ("ar",)) == {}
    assert in_use(policy, "toy", ("ar", "exact")) == {"parallel": sha256_of(place_of(policy, "toy", "parallel"))}
    assert set(in_use(policy, "toy", ("exact", "retrieval_sd"))) == {"parallel", "store"}
    own, given = place_of(policy, "toy", "calibration"), tmp_path / "given.json"
    own.parent.mkdir()
    own.write_text('{"costs": 1}')
    given.write_text('{"costs": 2}')
    assert in_use(policy, "toy", ("exact",))["calibration"] == {"exact": deciding_hash(own, "exact")}
    assert in_use(policy, "toy", ("exact",), calibration=given)["calibration"] == {
        "exact": deciding_hash(given, "exact")
    }
    assert "calibration" not in in_use(policy, "toy", ("retrieval_sd",))


def test_a_calibration_is_another_only_to_those_whose_decisions_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    names = (
        "exact",
        "hybrid",
        "hold_calibrated",
        next(n for n, preset in PRESETS.items() if preset.ablates == "hybrid"),
    )

    def hashed(**changes: object) -> dict[str, str]:
        skips = {name: {"threshold": 0.9, "evidence": {"auc": 0.8}} for name in ("hybrid", "hold_calibrated")}
        file.write_text(json.dumps({"watch": {}, "evidence": {}, "skips": skips} | changes))
        return {name: deciding_hash(file, name) for name in names}

    def changed(**changes: object) -> list[str]:
        return [name for name, found in hashed(**changes).items() if found != first[name]]

    first = hashed()
    held = {"threshold": 0.9, "evidence": {}}
    assert changed(evidence={"good": 1}, command="again", provenance={"commit": "b"}) == []
    assert changed(acceptance=None) == []
    assert changed(watch={"hold_steps": 3}) == list(names)
    assert changed(skips={"hybrid": held}) == ["hold_calibrated"]
    assert changed(skips={"hybrid": {**held, "threshold": 0.8}, "hold_calibrated": held}) == ["hybrid", names[3]]
    for torn in ([], {"hybrid": 1}):
        with pytest.raises(BadArtifact, match="is no calibration"):
            hashed(skips=torn)


def test_late_chunks_are_accepted_and_skipped_by_the_settings_of_the_preset_that_waits(tmp_path: Path) -> None:
    def hashed(residual: float, threshold: float, **evidence: object) -> list[str]:
        skips = {"flow_hybrid": {"threshold": threshold, "evidence": evidence}}
        acceptance = {"residual": residual, "evidence": evidence}
        (tmp_path / "c.json").write_text(json.dumps({"skips": skips, "acceptance": acceptance}))
        return [deciding_hash(tmp_path / "c.json", name) for name in ("flow_hybrid", "flow_hybrid_rtc")]

    first = hashed(1.5, 0.9)
    assert hashed(1.5, 0.9, tried=[1]) == first
    for changed in (hashed(2.0, 0.9), hashed(1.5, 0.8)):
        assert all(mine != before for mine, before in zip(changed, first, strict=True))


@pytest.mark.parametrize("what", ["parallel", "store"])
def test_a_run_is_not_resumed_over_another_drafter_or_store(policy: Path, tmp_path: Path, what: str) -> None:
    methods = ("ar", "exact", "retrieval_sd")
    result = play(tmp_path / "run", *methods)
    place = place_of(policy, "toy", what)
    assert result["assets"][what] == sha256_of(place)
    assert play(tmp_path / "run", *methods)["assets"] == result["assets"]  # finished, and resumed all the same
    place.write_text("trained again")
    with pytest.raises(BadInput, match=rf"another configuration \(provenance\.assets\.{what}: "):
        play(tmp_path / "run", *methods)


def test_plain_decoding_does_not_care_what_lies_beside_it(policy: Path, tmp_path: Path) -> None:
    assert "assets" not in play(tmp_path / "run", "ar")
    place_of(policy, "toy", "parallel").write_text("trained again")
    play(tmp_path / "run", "ar")


def test_the_store_is_weighed_for_the_presets_that_read_it(policy: Path, tmp_path: Path) -> None:
    (place_of(policy, "toy", "store").parent / "shards").mkdir()
    (place_of(policy, "toy", "store").parent / "shards" / "task-000.rows").write_bytes(bytes(1_500_000))
    assert store_mb(policy, "toy") == 1.5
    blocks = play(tmp_path / "run", "ar", "retrieval_sd")["methods"]
    assert {name: block["store_mb"] for name, block in blocks.items()} == {"ar": None, "retrieval_sd": 1.5}


def test_one_process_with_several_methods_has_a_peak_and_none_of_them_has(tmp_path: Path) -> None:
    both = evaluate(config(methods=("ar", "exact")), tmp_path / "both", toy_world.setting())
    assert both["process_peak_rss_mb"] > 0
    assert [block["peak_rss_mb"] for block in both["methods"].values()] == [None, None]
    alone = evaluate(config(), tmp_path / "alone", toy_world.setting())
    assert alone["methods"]["ar"]["peak_rss_mb"] == alone["process_peak_rss_mb"] > 0


class FaultyAgent:
    """A real engine one of whose proposers always fails; every action moves the toy forward."""

    def __init__(self, *proposers: str) -> None:
        self.sink = MemorySink()
        self.engine = Engine(FakePolicy(), proposers={name: Bad(failing) for name in proposers}, sink=self.sink)
        self.seen = fake.observations(1)[0]

    def reset(self) -> None:
        self.engine.reset()

    def act(self, _: Observation) -> tuple[Action, StepRecord]:
        action = self.engine.act(self.seen)
        return replace(action, values=action.values * 0 + 1.0), self.sink.records.pop()


class FaultyWorld(toy_world.ToyWorld):
    def agent(self, method: str) -> FaultyAgent:
        return FaultyAgent(*(["bad"] if method == "exact" else []))


def faulty_world(config: object, *, n_threads: int | None) -> FaultyWorld:  # noqa: ARG001
    return FaultyWorld()


def test_faults_reach_the_records_and_the_result_by_proposer_and_kind(tmp_path: Path) -> None:
    result = evaluate(config(methods=("ar", "exact")), tmp_path, toy_world.setting(faulty_world))
    told = result["methods"]["exact"]["speculation"]
    assert told["faults"] == {"bad": {"RuntimeError": 3 * 4}}  # benched at the third, in each of four episodes
    assert told["benched_episodes"] == {"bad": 4}
    plain = result["methods"]["ar"]["speculation"]
    assert (plain["faults"], plain["benched_episodes"]) == ({}, {})
    records = [record for record in RunDirectory(tmp_path).records() if record.method == "exact"]
    assert [record.speculation["faults"] for record in records] == [{"bad": {"RuntimeError": 3}}] * 4
