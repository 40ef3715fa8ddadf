"""From demonstrations to a checked action: a policy's own store, how it is found, and what damage does to it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_index_build import INSTRUCTIONS, fake_demos, seen

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.errors import BadArtifact, UnknownName
from heisd.index.bundled import find_store, open_store_for, store_path
from heisd.index.store import Experience, Store
from heisd.policies import bundle as bundles
from heisd.policies.bundle import list_bundled, load_policy, save_policy
from heisd.policies.identity import describe_weights
from heisd.policies.proprio import flatten
from heisd.policies.target import OpenVLAPolicy
from heisd.propose.base import History
from heisd.propose.retrieval import Retrieval
from heisd.telemetry import MemorySink
from heisd.train.experience import Demonstrations
from heisd.train.store import build_store
from heisd.types import TokenOrigin

DEMOS = fake_demos()
BOUND = 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a policy ``tiny`` and its store beside it."""
    root = tmp_path_factory.mktemp("weights")
    model = tiny.network()
    save_policy(root / "tiny", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    policy_hash = describe_weights(root / "tiny")["sha256"]
    policy = load_policy(root / "tiny")
    build_store(Demonstrations(DEMOS, policy), policy, root / "tiny-store", policy_hash=policy_hash)
    return root


@pytest.fixture
def weights(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage; the policy's directory."""
    shutil.copytree(prepared, tmp_path / "weights")
    return tmp_path / "weights" / "tiny"


@pytest.fixture(scope="module")
def target(prepared: Path) -> OpenVLAPolicy:
    return load_policy(prepared / "tiny")


def test_an_action_that_closes_gives_the_token_whose_decoding_closes(prepared: Path, target: OpenVLAPolicy) -> None:
    """The sign trap from end to end: demonstration, bins on disk, look-up, draft, decoding, environment."""
    proposer = Retrieval(target.codec, store=open_store_for(prepared / "tiny", target.codec), k=1)
    commands = set()
    for i in range(len(DEMOS)):
        observation = seen(DEMOS, i)
        draft = proposer.propose(target.encode(observation), History.empty(7).observed(observation.proprio))
        assert draft is not None
        action = target.codec.decode(np.asarray(draft.chains[0]))
        assert action[6] == DEMOS.actions[i, 6]
        np.testing.assert_allclose(
            action[:6], np.clip(DEMOS.actions[i, :6], *_limits(target)), atol=2 * _half_bin(target)
        )
        commands.add(float(action[6]))
    assert commands == {-1.0, 1.0}


def _limits(target: OpenVLAPolicy) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(target.codec.q01)[:6], np.asarray(target.codec.q99)[:6]


def _half_bin(target: OpenVLAPolicy) -> float:
    low, high = _limits(target)
    return float((high - low).max() / 255)


def test_exact_verification_of_retrieved_chains_changes_no_action(weights: Path, target: OpenVLAPolicy) -> None:
    """Experience that is mostly the policy's own, so that chains are kept, and noise, so that others are refused."""
    with open_store_for(weights, target.codec, max_appended_rows=100) as store:
        observations = [seen(DEMOS, i) for i in range(0, len(DEMOS), 2)]
        plain = [Engine(target).act(observation).tokens.tolist() for observation in observations]
        for observation, tokens in list(zip(observations, plain, strict=True))[::2]:
            contexts = target.encode(observation)
            store.append(
                observation.instruction,
                Experience(contexts.vision_key[None], flatten(observation.proprio)[None], np.zeros(1, np.int64),
                           np.zeros(1, np.int64), np.asarray([tokens]), [[TokenOrigin.DECODED] * 7]),
                "run",
            )  # fmt: skip
        sink = MemorySink()
        engine = Engine(target, proposers={"retrieval": Retrieval(target.codec, store=store)}, sink=sink)
        assert [engine.act(observation).tokens.tolist() for observation in observations] == plain
    assert engine.faults == {}
    assert {record.lm_forwards for record in sink.records} > {1}, "some accepted whole, some not"


def test_a_bundled_policys_store_lies_beside_it_and_is_no_policy(
    prepared: Path, target: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "WEIGHTS_ROOT", prepared)
    assert list_bundled() == ["tiny"]
    assert find_store("tiny") == find_store(prepared / "tiny") == prepared / "tiny-store"
    with open_store_for("tiny", target.codec) as store:
        assert store.index.n_rows == len(DEMOS)
    elsewhere = open_store_for("tiny", target.codec, prepared / "tiny-store")
    assert elsewhere.manifest == store.manifest
    with pytest.raises(UnknownName, match="known: tiny"):
        find_store("tinny")


def test_a_missing_store_says_what_builds_it(weights: Path, target: OpenVLAPolicy) -> None:
    shutil.rmtree(store_path(weights))
    command = f"heisd index build --data DIR --weights {weights} --out {weights}-store"
    for ask in (lambda: find_store(weights), lambda: open_store_for(weights, target.codec)):
        with pytest.raises(BadArtifact, match="has no experience store at") as caught:
            ask()
        assert command in str(caught.value)


def test_the_store_of_another_policy_is_refused(weights: Path, target: OpenVLAPolicy) -> None:
    model = tiny.network(seed=1)
    other = save_policy(weights.with_name("other"), model, tiny.tokenizer(), target.codec)
    shutil.copytree(store_path(weights), store_path(other))
    with pytest.raises(BadArtifact, match=r"policy_hash is .* this policy's is"):
        open_store_for(other, target.codec)


def _truncate(store: Path) -> None:
    file = store / "shards/task-000.rows"
    file.write_bytes(file.read_bytes()[:-1])


def _swap(store: Path) -> None:
    first, second = store / "shards/task-000.rows", store / "shards/task-001.rows"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_truncate, r"task-000\.rows.*truncated"), (_swap, r"task-000\.rows has sha256")],
    ids=["truncated", "swapped"],
)
def test_a_damaged_store_is_refused_before_it_proposes(
    weights: Path, target: OpenVLAPolicy, damage: Callable[[Path], None], message: str
) -> None:
    damage(store_path(weights))
    with pytest.raises(BadArtifact, match=message):
        open_store_for(weights, target.codec)


def test_an_append_killed_half_way_leaves_the_same_proposals(weights: Path, target: OpenVLAPolicy) -> None:
    """Rows written but not counted, and a journal cut short: what is proposed is what was proposed before."""
    rng = np.random.default_rng(5)
    live = [tiny.observation(rng, INSTRUCTIONS[0]) for _ in range(4)]

    def proposals(store: Store) -> list[object]:
        proposer = Retrieval(target.codec, store=store)
        return [proposer.propose(target.encode(o), History.empty(7).observed(o.proprio)) for o in live]

    def append(store: Store, observation_number: int) -> None:
        observation = live[observation_number]
        tokens = target.codec.tokens_of_bins(rng.integers(0, 255, (1, 7)))
        key, proprio = target.encode(observation).vision_key[None], flatten(observation.proprio)[None]
        zero = np.zeros(1, np.int64)
        steps = Experience(key, proprio, zero, zero, tokens, [[TokenOrigin.DECODED] * 7])
        store.append(observation.instruction, steps, f"run{observation_number}")

    with open_store_for(weights, target.codec, max_appended_rows=BOUND) as store:
        append(store, 0)
        before = proposals(store)
    journal = store_path(weights) / "appended/journal.json"
    committed = journal.read_bytes()
    with open_store_for(weights, target.codec, max_appended_rows=BOUND) as store:
        append(store, 1)
        after = proposals(store)
    assert after != before
    counted = journal.read_bytes()
    journal.write_bytes(committed)  # the kill came between the rows and the commit …
    (store_path(weights) / "appended/journal.json.unfinished").write_bytes(counted[: len(counted) // 2])  # … of these
    with open_store_for(weights, target.codec, max_appended_rows=BOUND) as store:
        assert proposals(store) == before
        assert store.n_appended_rows == 1


def test_the_identity_of_weights_is_that_of_results(weights: Path, tmp_path: Path) -> None:
    assert describe_weights(weights)["sha256"] == bundles.manifests.read_manifest(weights).policy_hash
    published = tmp_path / "published"
    published.mkdir()
    with pytest.raises(BadArtifact, match="not a policy"):
        describe_weights(published)
    (published / "model-00001-of-00002.safetensors").write_bytes(b"a")
    one = describe_weights(published)["sha256"]
    (published / "model-00002-of-00002.safetensors").write_bytes(b"b")
    assert describe_weights(published)["sha256"] != one
