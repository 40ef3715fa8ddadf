"""Demonstrations -> store: the policy's own keys and tokens, train episodes only."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_policies
from heisd.errors import BadInput, LeakError
from heisd.index.manifest import StoreManifest, read_manifest
from heisd.index.store import Store
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.dataset import Provenance, unflatten_proprio
from heisd.sim.demos import Demos
from heisd.sim.splits import Condition, EpisodeStart, parse_start
from heisd.train.experience import Demonstrations, OwnEpisodes, vision_keys
from heisd.train.rollouts import Rollout
from heisd.train.store import StoreConfig, build_store, check_store, encoder_hash, run
from heisd.types import Observation
from tiny_policies import INSTRUCTIONS, SIZE_PX

POLICY_HASH = "c" * 64
N_EPISODES, LENGTH = 6, 7


def fake_demos(seeds: range = range(1_000_000, 1_000_000 + N_EPISODES)) -> Demos:
    """Episodes of two instructions in turn, as pictures of noise."""
    rng = np.random.default_rng(0)
    n = N_EPISODES * LENGTH
    actions = rng.uniform(-1, 1, (n, 7)).astype(np.float32)
    actions[:, 6] = np.where(np.arange(n) % LENGTH < 4, -1, 1)
    instructions = tuple(INSTRUCTIONS[i % 2] for i in range(N_EPISODES))
    provenance = tuple(
        Provenance(EpisodeStart("libero_object", i % 2, None, seed), instructions[i], i, 0.0, {}, 0, 0.0)
        for i, seed in enumerate(seeds)
    )
    return Demos(
        images=rng.integers(0, 256, (n, 2, SIZE_PX, SIZE_PX, 3), dtype=np.uint8),
        cameras=("agentview", "wrist"),
        proprio=rng.normal(size=(n, 25)).astype(np.float32),
        actions=actions,
        executed=actions,
        phase=np.arange(n) % 5,
        episode=np.repeat(np.arange(N_EPISODES), LENGTH),
        task=np.repeat(np.arange(N_EPISODES) % 2, LENGTH),
        instructions=instructions,
        provenance=provenance,
        fingerprint="fake",
    )


def build(demos: Demos, policy: OpenVLAPolicy, out: Path, config: StoreConfig | None = None) -> StoreManifest:
    return build_store(Demonstrations(demos, policy), policy, out, config, policy_hash=POLICY_HASH, command="test")


def seen(demos: Demos, i: int) -> Observation:
    images = dict(zip(demos.cameras, demos.images[i], strict=True))
    return Observation(images, unflatten_proprio(demos.proprio[i]), demos.instructions[demos.episode[i]], 0.0)


@pytest.fixture(scope="module")
def policy() -> OpenVLAPolicy:
    return tiny_policies.policy()


def test_keys_in_batches_are_those_of_encode(policy: OpenVLAPolicy) -> None:
    demos = fake_demos()
    frames = np.array([0, 3, 8, 9, 20])
    calls: list[tuple[int, int]] = []
    keys = vision_keys(policy, demos, frames, 2, lambda done, total: calls.append((done, total)))
    expected = np.stack([policy.encode(seen(demos, int(i))).vision_key for i in frames])
    np.testing.assert_allclose(keys, expected, rtol=1e-4, atol=1e-5)
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_every_frame_finds_itself_with_the_tokens_the_policy_was_trained_on(
    tmp_path: Path, policy: OpenVLAPolicy
) -> None:
    demos = fake_demos()
    build(demos, policy, tmp_path)
    store = Store.open(tmp_path, policy_hash=POLICY_HASH, codec=policy.codec, encoder_hash=encoder_hash(policy.model))
    for i in range(len(demos)):
        observation = seen(demos, i)
        found = store.lookup(observation.instruction, policy.encode(observation).vision_key, demos.proprio[i], 1)
        assert found is not None
        tokens = policy.codec.tokens_of_bins(found.bins)[0]
        assert np.array_equal(tokens, policy.codec.encode(demos.actions[i]))
        assert policy.codec.decode(tokens)[6] == demos.actions[i, 6], "the gripper's sign"
        episode = demos.episode[i]
        assert found.episodes[0] == demos.provenance[episode].start.key
        assert int(found.frame[0]) == i % LENGTH
        assert int(found.phase[0]) == demos.phase[i]
        following = policy.codec.encode_bins(demos.actions[i : (episode + 1) * LENGTH])
        assert np.array_equal(found.chain(0, 99), following)


def test_the_manifest_says_where_everything_came_from(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    build(fake_demos(), policy, tmp_path, StoreConfig(n_dims=16))
    manifest, _ = read_manifest(tmp_path)
    assert (manifest.policy_hash, manifest.split, manifest.command, manifest.seed) == (POLICY_HASH, "train", "test", 0)
    assert (manifest.key.full_dims, manifest.key.n_dims) == (32, 16)
    assert manifest.key.recall is not None
    assert manifest.key.recall["n_queries"] == len(fake_demos())
    assert {task.instruction for task in manifest.tasks} == set(INSTRUCTIONS)
    assert manifest.n_rows == N_EPISODES * LENGTH
    assert manifest.data["fingerprint"] == "fake"
    assert check_store(tmp_path).is_ok


def test_the_same_recipe_gives_the_same_store(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    first, second = (build(fake_demos(), policy, tmp_path / name, StoreConfig(share=0.5)) for name in ("one", "two"))
    assert first == second
    other = build(fake_demos(), policy, tmp_path / "three", StoreConfig(share=0.5, seed=1))
    assert other.files != first.files


def test_smaller_shares_are_subsets_with_something_of_every_task(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    starts: list[set[str]] = []
    for share in (0.1, 0.6, 1.0):
        build(fake_demos(), policy, tmp_path / str(share), StoreConfig(share=share))
        table = json.loads((tmp_path / str(share) / "episodes.json").read_text())["shards"]
        assert len(table) == 2
        starts.append({row["start"] for shard in table for row in shard})
    assert [len(s) for s in starts] == [2, 4, 6]
    assert starts[0] < starts[1] < starts[2]


@pytest.mark.parametrize("seed", [2_000_000, 3_000_000, 4_000_000])
def test_evaluation_episodes_never_enter(tmp_path: Path, policy: OpenVLAPolicy, seed: int) -> None:
    demos = fake_demos()
    bad = replace(demos.provenance[3], start=EpisodeStart("libero_object", 0, None, seed))
    demos = replace(demos, provenance=(*demos.provenance[:3], bad, *demos.provenance[4:]))
    with pytest.raises(LeakError, match=f"seed{seed}"):
        build(demos, policy, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(BadInput, match="unknown origin"):
        build(replace(demos, provenance=()), policy, tmp_path / "store")


def test_check_asks_the_splits_whatever_the_files_claim(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    """A forged table: every hash is right, every episode says train, one start belongs to test."""
    build(fake_demos(), policy, tmp_path)
    manifest, _ = read_manifest(tmp_path)
    table = tmp_path / "episodes.json"
    table.write_text(table.read_text().replace("seed1000002", "seed3000002"))
    from heisd.policies.manifest import sha256_of

    files = manifest.files | {"episodes.json": sha256_of(table)}
    (tmp_path / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).dumps())
    report = check_store(tmp_path)
    assert not report.is_ok
    assert "seed3000002" in report.problems[0]


def test_what_cannot_become_a_store_is_refused_before_the_work(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    demos = fake_demos()
    with pytest.raises(BadInput, match="blind"):
        build(demos, tiny_policies.policy(is_blind=True), tmp_path / "a")
    with pytest.raises(BadInput, match="MB, more than"):
        build(demos, policy, tmp_path / "b", StoreConfig(max_mb=0.001))
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"batch_size": 0}, {"n_dims": 0}):
        with pytest.raises(BadInput):
            StoreConfig(**wrong)  # type: ignore[arg-type]
    build(demos, policy, tmp_path / "c")
    with pytest.raises(BadInput, match="already holds a store"):
        build(demos, policy, tmp_path / "c")


def test_the_encoder_hash_follows_the_encoder_only() -> None:
    model = tiny_policies.network()
    before = encoder_hash(model)
    model.language_model.lm_head.weight.data += 1
    assert encoder_hash(model) == before
    model.projector.fc1.weight.data[0, 0] += 1
    assert encoder_hash(model) != before


def test_start_keys_are_read_back() -> None:
    for start in (
        EpisodeStart("libero_goal", 3, 7, None, Condition.JITTER),
        EpisodeStart("libero_object", 12, None, 1_000_005),
    ):
        assert parse_start(start.key) == start
    for text in ("", "run1", "libero_goal/task03/init07", "libero_goal/taskX/init07/shipped"):
        with pytest.raises(BadInput, match=r"episode start|condition"):
            parse_start(text)


def own_episodes(policy: OpenVLAPolicy, n_episodes: int = 4) -> list[Rollout]:
    """Recorded episodes of noise, in turn solved and not."""
    rng = np.random.default_rng(1)
    rollouts = []
    for i in range(n_episodes):
        contexts = [policy.encode(seen(fake_demos(), LENGTH * i + t)) for t in range(LENGTH)]
        rollouts.append(
            Rollout(
                EpisodeStart("libero_object", i % 2, None, 1_500_000 + i),
                contexts[0].instruction,
                i % 2 == 0,
                torch.stack([context.prefix for context in contexts]).half(),
                torch.from_numpy(rng.normal(size=(LENGTH, 25)).astype(np.float32)),
                torch.from_numpy(policy.codec.vocab_size - 1 - rng.integers(0, 256, (LENGTH, 7))).int(),
                torch.zeros(LENGTH, 7, policy.config.decoder.hidden_size).half(),
            )
        )
    return rollouts


def test_the_policys_own_solved_episodes_are_remembered_with_its_own_tokens(
    tmp_path: Path, policy: OpenVLAPolicy
) -> None:
    rollouts = own_episodes(policy)
    source = OwnEpisodes(rollouts, policy)
    manifest = build_store(source, policy, tmp_path, policy_hash=POLICY_HASH)
    assert manifest.n_rows == 2 * LENGTH
    assert (manifest.data["source"], manifest.data["n_played"], manifest.data["n_episodes"]) == ("rollouts", 4, 2)
    store = Store.open(tmp_path, policy_hash=POLICY_HASH, codec=policy.codec, encoder_hash=encoder_hash(policy.model))
    for i, rollout in enumerate(rollouts):
        for t in range(LENGTH):
            key = policy.encode(seen(fake_demos(), LENGTH * i + t)).vision_key
            found = store.lookup(rollout.instruction, key, rollout.proprio[t].numpy(), 1)
            if not rollout.is_solved:
                assert found is None or rollout.start.key not in found.episodes
                continue
            assert found is not None
            assert np.array_equal(policy.codec.tokens_of_bins(found.bins)[0], rollout.tokens[t].numpy())
            assert (found.episodes[0], int(found.frame[0])) == (rollout.start.key, t)
            assert found.similarity[0] > 0.999, "a recorded prompt is rounded to float16, no more"


def test_own_episodes_that_cannot_become_a_store_are_refused(tmp_path: Path, policy: OpenVLAPolicy) -> None:
    rollouts = own_episodes(policy)
    with pytest.raises(BadInput, match="none of 1 rollouts was solved"):
        OwnEpisodes(rollouts[1:2], policy)
    with pytest.raises(BadInput, match="blind"):
        OwnEpisodes(rollouts, tiny_policies.policy(is_blind=True))
    leak = replace(rollouts[0], start=EpisodeStart("libero_object", 0, None, 3_000_000))
    with pytest.raises(LeakError, match="seed3000000"):
        build_store(OwnEpisodes([leak], policy), policy, tmp_path / "store", policy_hash=POLICY_HASH)
    for data, own in (([], None), ([tmp_path], tmp_path)):
        with pytest.raises(BadInput, match="give one"):
            run(data, own, tmp_path / "store", "default", StoreConfig())
