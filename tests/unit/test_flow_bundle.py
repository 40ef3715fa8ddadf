"""Flow-matching bundles: what is saved comes back; what is damaged or of another kind is refused by name and hash."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiny_flows as flows
import tiny_policies as tiny
from heisd.errors import BadArtifact, BadInput
from heisd.policies import bundle as bundles
from heisd.policies.bundle import FILES, list_bundled, load_policy, save_policy
from heisd.policies.flow.bundle import load_flow, save_flow
from heisd.policies.flow.config import FlowConfig
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import FLOW_FORMAT


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_flow(tmp_path / "tiny", flows.network(), tiny.tokenizer(), flows.codec(), command="test", seed=3)


def chunk(policy: FlowPolicy, rng: np.random.Generator) -> np.ndarray:
    context = policy.encode(tiny.observation(rng))
    noise = rng.standard_normal((policy.horizon, 7), dtype=np.float32)
    return policy.denoise(policy.prefill(context), context, noise, 3)


def test_a_loaded_policy_acts_as_the_saved_one(bundle: Path) -> None:
    ours, theirs = (chunk(p, np.random.default_rng(1)) for p in (flows.policy(), load_flow(bundle)))
    np.testing.assert_array_equal(ours, theirs)
    loaded = load_flow(bundle)
    assert loaded.config == flows.config()
    assert loaded.policy_hash == describe_weights(bundle)["sha256"]
    assert loaded.codec == flows.codec()


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_truncated_file_is_named_with_both_hashes(bundle: Path, name: str) -> None:
    path = bundle / name
    expected = json.loads((bundle / "manifest.json").read_text())["files"][name]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for damage in (bytes(data), bytes(data[:10])):
        path.write_bytes(damage)
        with pytest.raises(BadArtifact, match=rf"{name} has sha256 [0-9a-f]{{64}}, but its manifest says {expected}"):
            load_flow(bundle)


def test_each_kind_refuses_the_other_by_name(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"tiny holds a flow-matching policy \(heisd-flow-1\); a policy that decodes"):
        load_policy(bundle)
    model = tiny.network()
    tokens = save_policy(tmp_path / "tokens", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    with pytest.raises(BadArtifact, match=r"tokens holds a policy that decodes tokens \(heisd-policy-1\); a flow"):
        load_flow(tokens)
    (bundle / "manifest.json").write_text('{"format": "heisd-flow-9", "name": "x", "files": {}}')
    with pytest.raises(BadArtifact, match="'heisd-flow-9'; this version reads 'heisd-policy-1', 'heisd-flow-1'"):
        load_flow(bundle)


def test_weights_of_another_shape_are_refused_even_with_matching_hashes(bundle: Path, tmp_path: Path) -> None:
    save_flow(tmp_path / "blind", flows.network(is_blind=True), tiny.tokenizer(), flows.codec())
    manifest = json.loads((tmp_path / "blind" / "manifest.json").read_text())
    manifest["files"]["config.json"] = json.loads((bundle / "manifest.json").read_text())["files"]["config.json"]
    (tmp_path / "blind" / "model.safetensors").replace(bundle / "model.safetensors")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="does not fit"):
        load_flow(bundle)


def test_a_bundle_over_the_limit_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 1000)
    with pytest.raises(BadInput, match=r"would take [\d,]+ bytes; at most 1,000 are allowed"):
        save_flow(tmp_path / "tiny", flows.network(), tiny.tokenizer(), flows.codec())
    assert not (tmp_path / "tiny").exists()


def test_bundled_policies_are_listed_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setattr(bundles, "WEIGHTS_ROOT", tmp_path)
    model = tiny.network()
    save_policy(tmp_path / "tokens", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    assert (list_bundled(), list_bundled(FLOW_FORMAT)) == (["tokens"], ["tiny"])
    assert bundles.find_policy("tiny") == bundle
    assert bundles.find_policy("tokens") == tmp_path / "tokens"
    (bundle / "manifest.json").write_text("{}")
    assert list_bundled() == ["tiny", "tokens"]  # so that loading it says what is wrong


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="a chunk of 6 actions cannot have 8 executed"):
        flows.config(sampling={"executed": 8})
    with pytest.raises(ValueError, match="must be even"):
        flows.config(expert={"hidden_size": 25})
    with pytest.raises(ValueError, match="4 heads must split into 3 equal groups"):
        flows.config(n_kv_heads=3)
    assert FlowConfig.model_validate_json(flows.config().model_dump_json()) == flows.config()
