"""Bundles: what is saved comes back; what is damaged or foreign is refused by name and hash."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies import bundle as bundles
from heisd.policies.bundle import MAX_BUNDLE_BYTES, WEIGHTS_ROOT, list_bundled, load_policy, save_policy
from heisd.policies.norm_stats import codec_from_stats
from heisd.policies.tokenizer import WordTokenizer


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = tiny.network()
    codec = tiny.codec(model.config.action_vocab_size)
    return save_policy(tmp_path / "tiny", model, tiny.tokenizer(), codec, command="test", seed=3, scores={"x": 1})


def test_a_loaded_policy_acts_as_the_saved_one(bundle: Path, rng: np.random.Generator) -> None:
    model = tiny.network()
    model.seal_head()
    saved = type(tiny.policy())(model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    loaded = load_policy(bundle)
    for instruction in tiny.INSTRUCTIONS:
        seen = tiny.observation(rng, instruction)
        ours, theirs = Engine(saved).act(seen), Engine(loaded).act(seen)
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_storage_halves_the_file(tmp_path: Path, bundle: Path, dtype: str) -> None:
    model = tiny.network()
    codec = tiny.codec(model.config.action_vocab_size)
    half = save_policy(tmp_path / "half", model, tiny.tokenizer(), codec, store_dtype=dtype)
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (half, bundle)]
    assert sizes[0] < 0.6 * sizes[1]
    assert load_policy(half).runtime.embedding.element_size() == 4


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def save_tiny(directory: Path, command: str = "") -> Path:
    model = tiny.network(seed=1)
    return save_policy(directory, model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size), command=command)


@pytest.mark.parametrize("excess", [1, 100_000], ids=["by one byte", "by its weights alone"])
def test_a_bundle_over_the_limit_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: int
) -> None:
    size = size_of(save_tiny(tmp_path / "tiny"))
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", size - excess)
    with pytest.raises(BadInput, match=r"would take [\d,]+ bytes; at most [\d,]+ are allowed: .*float16.*Nothing was"):
        save_tiny(tmp_path / "tiny")
    assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()} == earlier
    with pytest.raises(BadInput):
        save_tiny(tmp_path / "nowhere", command="a command, so that this one is larger still")
    assert not (tmp_path / "nowhere").exists()
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", size)
    assert size_of(save_tiny(tmp_path / "tiny")) == size


def test_a_policy_too_large_to_store_is_left_unsealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 1000)
    with pytest.raises(BadInput):
        save_policy(tmp_path / "tiny", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", list_bundled())
def test_shipped_bundles_keep_to_the_limit(name: str) -> None:
    assert size_of(WEIGHTS_ROOT / name) <= MAX_BUNDLE_BYTES == 40_000_000


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "norm_stats.json"])
def test_a_changed_file_is_named_with_both_hashes(bundle: Path, name: str) -> None:
    path = bundle / name
    expected = json.loads((bundle / "manifest.json").read_text())["files"][name]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadArtifact, match=rf"{name} has sha256 [0-9a-f]{{64}}, but its manifest says {expected}"):
        load_policy(bundle)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "norm_stats.json"])
def test_a_truncated_or_missing_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(BadArtifact, match=name):
        load_policy(bundle)
    path.unlink()
    with pytest.raises(BadArtifact, match=name):
        load_policy(bundle)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"format": "other", "name": "x", "files": {}}',
        '{"format": "heisd-policy-1", "name": "x", "files": {}}',
    ],
)
def test_a_foreign_manifest_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BadArtifact, match="manifest"):
        load_policy(bundle)


def test_a_manifest_cannot_point_outside_its_bundle(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../secret"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="outside the bundle"):
        load_policy(bundle)


def test_weights_of_another_shape_are_refused_even_with_matching_hashes(bundle: Path, tmp_path: Path) -> None:
    model = tiny.network(is_blind=True)
    save_policy(tmp_path / "blind", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    for name in ("model.safetensors", "manifest.json"):
        (tmp_path / "blind" / name).replace(bundle / name)
    manifest = json.loads((bundle / "manifest.json").read_text())
    from heisd.policies.manifest import sha256_of

    manifest["files"]["config.json"] = sha256_of(bundle / "config.json")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="does not fit"):
        load_policy(bundle)


def test_unknown_names_are_refused_with_what_is_known(bundle: Path) -> None:
    with pytest.raises(UnknownName, match="known:"):
        load_policy("no-such-policy")
    with pytest.raises(UnknownName, match="bfloat16, float16, float32"):
        load_policy(bundle, dtype="int4")
    assert isinstance(list_bundled(), list)


def test_unnorm_keys() -> None:
    action = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    stats = {"a_no_noops": {"action": action}, "b": {"action": action}}
    assert codec_from_stats(stats, "a", 32_000).length == 7
    with pytest.raises(BadInput, match="choose an unnorm_key"):
        codec_from_stats(stats, None, 32_000)
    with pytest.raises(UnknownName, match="a_no_noops, b"):
        codec_from_stats(stats, "c", 32_000)
    with pytest.raises(BadArtifact, match="malformed"):
        codec_from_stats({"a": {"action": {"q01": [0.0]}}}, "a", 32_000)


def test_word_tokenizer_keeps_the_fixed_phrases_whole() -> None:
    words = tiny.tokenizer()
    ids = words.encode("Pick  up the MILK")
    assert ids[:2] == [1, 3]
    assert ids[-1] == 4
    assert len(ids) == 3 + 4
    assert words.encode("pick up the spaceship")[-2] == 2
    assert WordTokenizer(words.dumps()).encode("pick up the milk") == ids
    assert max(i for text in tiny.INSTRUCTIONS for i in words.encode(text)) < words.n_text_tokens


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadArtifact, match=r"tokenizer\.json"):
        WordTokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"format": "heisd-store-1"}'])
def test_what_belongs_to_no_policy_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "config.json").write_text(content)
    for read in (
        lambda: bundles.manifests.read_manifest(tmp_path),
        lambda: bundles.read_config(tmp_path, bundles.OpenVLAConfig),
    ):
        with pytest.raises(BadArtifact) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "http" not in str(caught.value)
