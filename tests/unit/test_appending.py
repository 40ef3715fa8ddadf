"""``heisd eval --append-to``: what is remembered of an evaluation, what is refused, and what a kill leaves."""

import shutil
from pathlib import Path
from typing import Any

import index_fakes as fakes
import numpy as np
import pytest
import toy_world as toy
from kills import killed_before_call

from heisd.bench.appending import AppendingAgent
from heisd.bench.evaluate import evaluate
from heisd.bench.results import RunDirectory
from heisd.config import EvalConfig
from heisd.errors import BadArtifact, BadInput, LeakError
from heisd.files import TEMP_SUFFIX
from heisd.index import bundled
from heisd.index.bundled import own_copy
from heisd.index.inspection import check, info
from heisd.index.store import Store
from heisd.sim.splits import EpisodeStart, Split, episode_starts
from heisd.train.store import check_store
from heisd.types import Action, FloatArray, Observation, StepRecord, TokenOrigin

BOUND = 60  # rows a task
SKIPPED_STEP = 3


class SeeingToy(toy.ToyAgent):
    """Chooses tokens by its step, sees keys by its position, and skips a token of step 3."""

    def act(self, observation: Observation) -> tuple[Action, StepRecord]:
        moved, record = super().act(observation)
        self.vision_key = key_at(observation)
        last = TokenOrigin.SKIPPED if record.step == SKIPPED_STEP else TokenOrigin.ACCEPTED
        tokens = fakes.CODEC.first_token + np.arange(7) + record.step
        return Action(moved.values, tokens, (TokenOrigin.DECODED,) * 6 + (last,)), record


def key_at(observation: Observation) -> FloatArray:
    seed = int(1e6 * observation.proprio.eef_pos_m[0])
    return (20 * np.random.default_rng(seed).normal(size=fakes.FULL_DIMS)).astype(np.float32)


class AppendingWorld(toy.ToyWorld):
    def __init__(self, root: Path) -> None:
        self._store = fakes.opened(root, BOUND)

    def env(self, task_index: int) -> toy.ToyEnv:
        env = super().env(task_index)
        env.instruction = (fakes.MILK, fakes.BOWL)[task_index]
        return env

    def agent(self, method: str) -> Any:  # noqa: ARG002 (the protocol's)
        return AppendingAgent(SeeingToy(1.0), self._store)

    def close(self) -> None:
        self._store.close()


def appending_world(config: EvalConfig, *, n_threads: int | None) -> AppendingWorld:  # noqa: ARG001
    assert config.append_to is not None
    return AppendingWorld(Path(config.append_to))


def config(root: Path, **changes: Any) -> EvalConfig:
    return toy.config(**{"split": "train", "append_to": str(root), **changes})


def played(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return evaluate(config(root, **changes), out, toy.setting(appending_world))


def remembered(root: Path) -> list[tuple[tuple[str, ...], bytes]]:
    """Of every task: the episodes and the rows that were appended."""
    with fakes.opened(root, BOUND) as store:
        tails = [shard.tail for shard in store.index.shards if shard.tail is not None]
        return [(tail.episodes, tail.rows.tobytes()) for tail in tails]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fakes.make_store(tmp_path / "store")
    return tmp_path / "store"


def test_verified_steps_of_solved_train_episodes_are_remembered_with_where_they_come_from(
    root: Path, tmp_path: Path
) -> None:
    before = info(root)
    result = played(root, tmp_path / "run")
    starts = episode_starts("toy", 2, Split.TRAIN, 4)
    solved = [record for record in RunDirectory(tmp_path / "run").records() if record.success]
    assert len(solved) == 3  # odd starts of task 1 cannot be solved
    lengths = [record.n_steps for record in solved if record.task_index == 0]
    store = fakes.opened(root, BOUND)
    milk = store.index.shards[0].tail
    assert milk is not None
    assert milk.episodes == tuple(start.key for start in starts if start.task_index == 0)
    steps = [t for n in lengths for t in range(n) if t != SKIPPED_STEP]
    assert milk.rows["frame"].tolist() == steps
    runs = [n for length in lengths for n in (SKIPPED_STEP, length - SKIPPED_STEP - 1)]  # without a gap
    assert milk.rows["n_following"].tolist() == [t for n in runs for t in reversed(range(n))]
    tokens = fakes.CODEC.tokens_of_bins(milk.rows["bins"])
    assert tokens.tolist() == [(fakes.CODEC.first_token + np.arange(7) + t).tolist() for t in steps]
    seen = toy.observation(0.001 * (starts[0].init_state or 0), 0)
    assert fakes.nearest_tokens(store, key_at(seen)) == tokens[0].tolist()
    store.close()
    after = info(root)
    assert (before.store_sha256, before.appended_sha256) == (after.store_sha256, None)
    assert result["appended_to"] == {
        "path": str(root), "store_sha256": after.store_sha256, "appended_sha256": after.appended_sha256,
        "n_appended_rows": sum(record.n_steps - 1 for record in solved), "n_appended_episodes": 3,
    }  # fmt: skip
    assert check_store(root).is_ok


def test_a_start_is_remembered_once_and_later_runs_go_on(root: Path, tmp_path: Path) -> None:
    played(root, tmp_path / "run")
    once, hash_once = remembered(root), info(root).appended_sha256
    played(root, tmp_path / "again")
    assert (remembered(root), info(root).appended_sha256) == (once, hash_once)
    played(root, tmp_path / "more", episodes=6)
    assert [len(episodes) for episodes, _ in remembered(root)] == [3, 2]
    assert info(root).appended_sha256 != hash_once


def test_a_run_killed_between_any_two_system_calls_resumes_to_the_same_store(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill before the n-th fsync, rename or unlink, for every n, then repeat the command."""
    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    result = played(whole, tmp_path / "uninterrupted")
    expected, n_twice = remembered(whole), 0
    for n in range(1000):
        mine, out = tmp_path / f"store{n}", tmp_path / f"run{n}"
        shutil.copytree(root, mine)
        with killed_before_call(n, monkeypatch) as kill:
            played(mine, out)
        assert check(mine).is_ok
        n_solved = sum(record.success for record in RunDirectory(out).records()) if out.is_dir() else 0
        n_stored = sum(len(episodes) for episodes, _ in remembered(mine))
        assert n_solved <= n_stored <= n_solved + 1, f"killed at call {n}: an episode is lost"
        n_twice += n_stored > n_solved  # stored, not counted yet: it is played again
        assert played(mine, out)["methods"]["ar"]["pc_success"] == result["methods"]["ar"]["pc_success"]
        assert remembered(mine) == expected, f"killed at call {n}"
        if not kill.has_happened:
            break
    assert n > 20
    assert n_twice >= 3


def test_an_episode_that_was_interrupted_leaves_nothing(root: Path) -> None:
    start = EpisodeStart("toy", 0, 0, None)
    with fakes.opened(root, BOUND) as store:
        agent = AppendingAgent(SeeingToy(1.0), store)
        agent.act(toy.observation(0.0, 0))
        agent.reset()
        agent.finish(start, fakes.MILK, is_solved=True)
        assert store.n_appended_rows == 0
        agent.act(toy.observation(0.0, 0))
        agent.finish(start, fakes.MILK, is_solved=False)
        assert store.n_appended_rows == 0
        agent.act(toy.observation(0.0, 0))
        with pytest.raises(LeakError, match="validation split"):
            agent.finish(EpisodeStart("toy", 0, 30, None), fakes.MILK, is_solved=True)
        assert store.n_appended_rows == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"split": "test"}, LeakError, "train split alone.*--split test"),
        ({"split": "validation"}, LeakError, "--split validation"),
        ({"split": "calibration", "fresh": True}, LeakError, "--split calibration"),
        ({"methods": ("ar", "exact")}, BadInput, "name one method, not ar, exact"),
        ({"workers": 2}, BadInput, "one writer: use --workers 1 instead of 2"),
        ({"ray": "local"}, BadInput, "one writer"),
        ({"timing": True}, BadInput, "none of --timing"),
        ({"shift": "black:wrist"}, BadInput, "none of --timing, --realtime and --shift"),
        ({"realtime": {"latency_profile": "here"}}, BadInput, "none of --timing, --realtime"),
    ],
)
def test_what_may_not_be_remembered_is_refused_before_anything_is_played(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        config(Path("store"), **changes)


def test_what_a_run_appends_to_does_not_decide_its_outcome() -> None:
    assert config(Path("store")).outcome_fields() == toy.config(split="train").outcome_fields()


def test_a_copy_is_made_once_whole_and_never_of_what_was_appended(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "find_store", lambda _: root)
    with fakes.opened(root, BOUND) as store:
        store.append(fakes.MILK, fakes.lived(1), "run1")
    copy = tmp_path / "deep" / "copy"
    (tmp_path / "deep" / f"copy{TEMP_SUFFIX}").mkdir(parents=True)  # of a kill
    assert own_copy("libero", copy) == copy
    assert check(copy).is_ok
    assert info(copy).store_sha256 == info(root).store_sha256
    assert info(copy).n_appended_rows == 0
    with fakes.opened(copy, BOUND) as store:
        store.append(fakes.MILK, fakes.lived(2), "run2")
    assert info(own_copy("libero", copy)).n_appended_rows == 4
    assert info(root).n_appended_rows == 4
    link = tmp_path / "link"
    link.symlink_to(root)
    for place in (root, root / "appended", link):
        with pytest.raises(BadInput, match="the policy's own store, from which results are made"):
            own_copy("libero", place)
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(BadArtifact, match="no finished store"):
        Store.open(own_copy("libero", tmp_path / "mine"), policy_hash=fakes.POLICY, codec=fakes.CODEC)


def test_a_store_to_which_an_evaluation_episode_was_appended_does_not_pass(root: Path) -> None:
    with fakes.opened(root, BOUND) as store:
        store.append(fakes.MILK, fakes.lived(1), "Tuesday's shift")
    assert check_store(root).is_ok
    with fakes.opened(root, BOUND) as store:
        store.append(fakes.MILK, fakes.lived(2), "libero_object/task00/init41/shipped")
    assert "belongs to the test split" in check_store(root).problems[0]
