"""``heisd bench --check-exact`` and ``--costs``: what is checked, what is counted, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import drafter_fakes
import fake_target as fake
import numpy as np
import pytest
import toy_world
from click.testing import Result
from fake_target import CODEC, FakePolicy
from typer.testing import CliRunner

import tiny_policies as tiny
from heisd import cli
from heisd.bench.check_exact import (
    NEEDS,
    Subject,
    available,
    check_exact,
    combinations,
    compare,
    is_first_of_episode,
    once,
    report,
)
from heisd.bench.latency import BenchConfig
from heisd.bench.observations import save_observations
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.presets import ABLATIONS, PRESETS
from heisd.presets.assets import place_of
from heisd.propose import registry
from heisd.telemetry import MemorySink
from heisd.types import Action, Observation

FREE = sorted(set(registry.PROPOSERS) - set(NEEDS))  # need nothing beside the policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("weights") / "tiny"
    drafter_fakes.stored_policy(directory)
    return directory


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of two episodes each; half of the steps look like the one before."""
    rng, files = np.random.default_rng(0), []
    for number in range(2):
        seen: list[Observation] = []
        for step in range(12):
            fresh = tiny.observation(rng)
            seen.append(replace(seen[-1] if step % 2 else fresh, time_s=step % 6 / 20))
        files.append(tmp_path_factory.mktemp("observations") / f"{number}.npz")
        save_observations(files[-1], seen)
    return files


def config(policy: Path, *methods: str, **changes: Any) -> BenchConfig:
    return replace(BenchConfig(methods, weights=str(policy), steps=24), **changes)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])


def test_everything_that_can_be_had_is_checked_over_all_files(policy: Path, recorded: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    result = check_exact(config(policy), recorded, progress=lambda done, total: seen.append((done, total)))
    assert list(result["exact"]) == combinations(FREE)
    for row in result["exact"].values():
        assert (row["n_steps"], row["n_tokens"], row["differing_tokens"], row["faults"]) == (24, 168, 0, 0)
    assert result["exact"]["persistence"]["kept_tokens"] > 0
    assert [file["n"] for file in result["observations"]] == [12, 12]
    assert (seen[0], seen[-1]) == ((1, 24), (24, 24))
    assert {"policy", "versions", "machine", "threads", "commit", "dtype", "suite"} <= set(result)


def test_drafters_and_stores_join_when_they_lie_beside_the_policy(tmp_path: Path) -> None:
    weights = tmp_path / "mine"
    weights.mkdir()
    assert available(weights, "toy") == FREE
    for name, what in NEEDS.items():
        place = place_of(weights, "toy", what)
        place.parent.mkdir()
        place.touch()
        assert name in available(weights, "toy")
    assert available(weights, "toy") == sorted(registry.PROPOSERS)
    n = len(registry.PROPOSERS)
    assert len(combinations(sorted(registry.PROPOSERS))) == n + n * (n - 1) // 2 + 1


def test_combinations_of_few() -> None:
    assert combinations(["a", "b", "c"]) == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    assert combinations(["a", "b"]) == ["a", "b", "a+b"]
    assert combinations(["a"]) == ["a"]
    assert combinations([]) == []


def test_an_episode_begins_where_its_clock_does_or_with_another_task() -> None:
    first = tiny.observation(np.random.default_rng(0))
    later = replace(first, time_s=0.05)
    assert is_first_of_episode(None, later)
    assert not is_first_of_episode(first, later)
    assert is_first_of_episode(later, first)
    assert is_first_of_episode(first, first)
    assert is_first_of_episode(first, replace(later, instruction="open the drawer"))


class Lying(Engine[Any, Any]):
    """Changes one token of every third action."""

    n = 0

    def act(self, observation: Observation) -> Action:
        action, self.n = super().act(observation), self.n + 1
        if self.n % 3 == 0:
            action.tokens[2] += 1 if action.tokens[2] < CODEC.vocab_size - 1 else -1
        return action


def subject(kind: type[Engine[Any, Any]]) -> Subject:
    sink = MemorySink()
    return Subject(
        kind(FakePolicy(), proposers={"persistence": registry.create("persistence", CODEC)}, sink=sink), sink
    )


def test_every_differing_token_is_counted() -> None:
    subjects = {"honest": subject(Engine), "lying": subject(Lying)}
    episodes = [(seen, i == 0) for i, seen in enumerate(fake.observations(9))]
    compare(Engine(FakePolicy()), subjects, episodes, n_steps=9)
    found = report(subjects, with_rates=True)
    assert (found["honest"]["differing_tokens"], found["honest"]["token_rate"]) == (0, 0.0)
    assert (found["lying"]["differing_tokens"], found["lying"]["differing_steps"]) == (3, 3)
    assert (found["lying"]["token_rate"], found["lying"]["step_rate"]) == (3 / 63, 3 / 9)


def test_one_observation_is_encoded_once_for_all_engines() -> None:
    asked: list[Observation] = []
    first, second = fake.observations(2)
    encode = once(lambda seen: asked.append(seen) or len(asked))
    assert [encode(seen) for seen in (first, first, second, second, first)] == [1, 1, 2, 2, 3]


def test_too_few_observations_are_said_and_not_repeated(
    policy: Path, recorded: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    result = check_exact(config(policy, "persistence", steps=100), recorded)
    assert result["exact"]["persistence"]["n_steps"] == 24
    assert "100 steps were asked for, 24 observations were given" in caplog.text


def test_histories_follow_within_an_episode_and_end_with_it(policy: Path, recorded: list[Path]) -> None:
    result = check_exact(config(policy, "persistence"), recorded)["exact"]["persistence"]
    # Four episodes of six steps; the second, fourth and sixth look like the step before: accepted whole, 7 tokens each.
    assert result["kept_tokens"] >= 4 * 3 * 6


@pytest.mark.parametrize("name", ["warp", "hybrid", "kalman+warp", "ar"])
def test_what_promises_nothing_is_refused(policy: Path, recorded: list[Path], name: str) -> None:
    with pytest.raises(UnknownName, match="proposer or exact method"):
        check_exact(config(policy, name), recorded)


def test_a_method_whose_assets_are_missing_says_what_makes_them(policy: Path, recorded: list[Path]) -> None:
    with pytest.raises(BadArtifact, match=r"'exact' needs a parallel .* heisd train drafter"):
        check_exact(config(policy, "exact"), recorded)


def test_bfloat16_is_refused_and_its_flips_are_counted(policy: Path, recorded: list[Path]) -> None:
    half = config(policy, "persistence", dtype="bfloat16")
    with pytest.raises(BadInput, match="promised in float32 only"):
        check_exact(half, recorded)
    result = check_exact(half, recorded, report_flips=True)
    assert "exact" not in result
    row = result["flips"]["persistence"]
    assert row["token_rate"] == row["differing_tokens"] / row["n_tokens"]


@pytest.mark.parametrize("method", [name for name, preset in PRESETS.items() if preset.is_exact])
def test_a_method_that_promises_equality_is_refused_in_bfloat16(method: str) -> None:
    assert toy_world.config(methods=("ar", method)).dtype == "float32"
    with pytest.raises(BadInput, match=rf"{method}: plain decoding's tokens are promised in float32 only"):
        toy_world.config(methods=("ar", method), dtype="bfloat16")


def test_methods_that_promise_nothing_run_in_bfloat16() -> None:
    promised = {name for name, preset in PRESETS.items() if preset.is_exact and name not in ABLATIONS}
    assert promised == {"exact", "retrieval_sd", "spec_vla_strict"}
    toy_world.config(methods=("ar", "hybrid", "heisd_code"), dtype="bfloat16")


def test_the_command_prints_one_object_and_fails_when_a_token_differs(
    policy: Path, recorded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [argument for path in recorded for argument in ("--observations", path)]
    arguments = ["--check-exact", "--weights", policy, "--steps", 24, "--method", "kalman,persistence", *files]
    done = run(*arguments, "--json")
    assert done.exit_code == 0
    assert set(json.loads(done.stdout)["exact"]) == {"kalman", "persistence"}
    assert "persistence" in run(*arguments).stdout

    def spoilt(engine: Engine[Any, Any], seen: Observation) -> Action:
        action = original(engine, seen)
        if engine._panel._proposers:
            action.tokens[0] ^= 1
        return action

    original = Engine.act
    monkeypatch.setattr(Engine, "act", spoilt)
    wrong = run(*arguments, "--json")
    assert wrong.exit_code == 1
    assert json.loads(wrong.stdout)["exact"]["kalman"]["differing_tokens"] > 0
    assert "2 of 2 do not give plain decoding's tokens: kalman, persistence" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check-exact", "--costs"], "--costs and --check-exact are different measurements"),
        (["--index", "--check-exact"], "--index and --check-exact are different"),
        (["--report-flips"], "--report-flips belongs to --check-exact"),
        (["--observations", "a.npz", "--observations", "b.npz"], "several --observations are read by --check-exact"),
        (["--costs", "--method", "ar"], "measure parts, not methods"),
        (["--check-exact", "--dtype", "bfloat16"], "promised in float32 only"),
        (["--method", "ar,exact", "--dtype", "bfloat16"], "exact: plain decoding's tokens are promised in float32"),
        (["--costs", "--dtype", "int8"], "unknown dtype 'int8'"),
    ],
)
def test_contradictions_are_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_table_of_costs_of_a_policy(policy: Path, recorded: list[Path]) -> None:
    done = run("--costs", "--weights", policy, "--observations", recorded[0], "--steps", 3, "--warmup", 1, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["costs"]) == {
        "vision_ms", "prefill_ms", "decode_ms", "row_ms", "tree_ms", "lookup_ms", "drafter_ms", "redraft_ms",
        "eagle_ms", "overhead_ms", "check_ms", "judge_ms",
    }  # fmt: skip
    assert result["costs"]["prefill_ms"] > 0
    assert result["parts_ms"]["plain/decode"]["n"] == 3
    assert result["observations"]["n"] == 12
