"""Frames that others drove through, labelled by the target: its own greedy tokens behind what was really executed."""

from dataclasses import replace
from pathlib import Path

import drafter_fakes as fakes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_index_build import fake_demos, seen

import tiny_policies as tiny
from heisd.errors import BadInput, LeakError
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.demos import Demos
from heisd.sim.splits import EpisodeStart
from heisd.train import relabel, rollouts
from heisd.train.drafter_data import DrafterSamples, bins_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("relabel")


@pytest.fixture(scope="module")
def policy(home: Path) -> OpenVLAPolicy:
    return fakes.stored_policy(home / "policy")


def labelled(home: Path, out: Path, demos: Demos, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(relabel, "load_demos", lambda *_: demos)
    return relabel.label([home], str(home / "policy"), "libero_object", out)


def test_labels_are_the_targets_and_the_past_is_what_was_executed(
    home: Path, policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    demos = fake_demos()
    executed = np.random.default_rng(5).uniform(-1, 1, demos.actions.shape).astype(np.float32)
    demos = replace(demos, executed=executed)
    paths = labelled(home, home / "out", demos, monkeypatch)
    assert len(paths) == len(demos.instructions)
    for number, path in enumerate(paths):
        found = rollouts.load(path, policy.policy_hash)
        frames = np.flatnonzero(demos.episode == number)
        assert (found.start, found.instruction) == (demos.provenance[number].start, demos.instructions[number])
        for t, frame in enumerate(frames):
            assert found.tokens[t].tolist() == tiny.greedy(policy, seen(demos, int(frame)))
        expected = policy.codec.encode_bins(executed[frames])
        assert np.array_equal(bins_of(found, policy.codec, executed=True), expected)
    samples = DrafterSamples.load(paths[:2], policy, paths[2:] * 6)
    assert sum(map(rollouts.is_held_out, range(len(samples.rollouts)))) > 1
    assert sum(samples.is_measuring) == 1, "labelled episodes only teach"
    second = int(np.flatnonzero(demos.episode == 0)[1])  # the second step of the first episode
    assert np.array_equal(samples.past_bins[1, 0].numpy(), policy.codec.encode_bins(executed[second - 1]))
    assert not torch.equal(samples.bins[0], samples.past_bins[1, 0]), "what was said is not what was done"


@pytest.mark.usefixtures("policy")
def test_labelling_goes_on_where_it_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demos = fake_demos()
    paths = labelled(home, home / "again", demos, monkeypatch)
    whole = [{name: value.clone() for name, value in load_file(path).items()} for path in paths]
    paths[1].unlink()
    paths[3].write_bytes(paths[3].read_bytes()[:50])
    made: list[int] = []
    tensors = relabel.Labeller.tensors

    def counted(self: relabel.Labeller, demos: Demos, number: int) -> dict[str, torch.Tensor]:
        made.append(number)
        return tensors(self, demos, number)

    monkeypatch.setattr(relabel.Labeller, "tensors", counted)
    assert labelled(home, home / "again", demos, monkeypatch) == paths
    assert made == [1, 3]
    for path, before in zip(paths, whole, strict=True):
        after = load_file(path)
        assert after.keys() == before.keys()
        for name in before:  # a convolution may differ in the last bit from run to run
            torch.testing.assert_close(after[name], before[name], atol=2e-3, rtol=2e-3)


@pytest.mark.usefixtures("policy")
def test_evaluation_starts_and_other_policies_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demos = fake_demos()
    bad = replace(demos.provenance[3], start=EpisodeStart("libero_object", 0, None, 3_000_000))
    leak = replace(demos, provenance=(*demos.provenance[:3], bad, *demos.provenance[4:]))
    with pytest.raises(LeakError, match="seed3000000"):
        labelled(home, home / "leak", leak, monkeypatch)
    assert not list((home / "leak").glob("*.safetensors"))
    rollouts.claim(home / "other", {"name": "other", "sha256": "f" * 64})
    with pytest.raises(BadInput, match="learns from its own target"):
        labelled(home, home / "other", demos, monkeypatch)
