"""``heisd index`` and ``heisd bench --index``: results, refusals in one line, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from demo_fakes import SPEC, make_dataset
from index_fakes import BOWL, MILK, N_ROWS, make_store
from typer.testing import CliRunner, Result

import tiny_policies as tiny
from heisd import cli
from heisd.errors import BadInput
from heisd.index import timing
from heisd.index.manifest import read_manifest
from heisd.index.timing import LookupBench, available_memory_mb, measure_cases
from heisd.policies.bundle import save_policy
from heisd.policies.identity import describe_weights

runner = CliRunner()
SMALL = {
    "first": LookupBench(n_rows=200, full_dims=12, n_dims=8, n_queries=20, n_recall_queries=5, warmup=1),
    "wider": LookupBench(n_rows=200, full_dims=40, n_dims=8, n_queries=20, n_recall_queries=5, warmup=1),
}


def run(*arguments: object) -> Result:
    return runner.invoke(cli.app, [str(a) for a in arguments])


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``policy`` and two data sets of demonstrations."""
    root = tmp_path_factory.mktemp("made")
    model = tiny.network()
    save_policy(root / "policy", model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))
    make_dataset(root / "data", 4)
    return root


def build(made: Path, out: Path, *more: object) -> Result:
    return run("index", "build", "--data", made / "data", "--weights", made / "policy", "--out", out, *more)


def test_build_writes_a_store_and_prints_what_info_prints(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    done = build(made, out, "--dims", 8, "--seed", 3, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    manifest, _ = read_manifest(out)
    assert result["policy_hash"] == manifest.policy_hash == describe_weights(made / "policy")["sha256"]
    assert (result["n_rows"], result["n_dims"], result["seed"], result["split"]) == (46, 8, 3, "train")
    assert set(result["rows_by_task"]) == set(SPEC.instructions)
    assert result["data"]["share"] == 1.0
    assert "encoding: 46/46 frames" in done.stderr
    assert json.loads(run("index", "info", out, "--json").stdout) == result
    assert run("index", "check", out).exit_code == 0


def test_a_share_is_kept_of_every_task(made: Path, tmp_path: Path) -> None:
    result = json.loads(build(made, tmp_path / "s", "--share", 0.5, "--json").stdout)
    assert result["data"]["n_episodes"] == 2
    assert set(result["rows_by_task"]) == set(SPEC.instructions)


def test_several_data_sets_make_one_store(made: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "more", 2)
    done = build(made, tmp_path / "s", "--data", tmp_path / "more", "--json")
    assert json.loads(done.stdout)["data"]["n_episodes"] == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share", "0"), "share is the kept part of the episodes"),
        (("--dims", "200"), "1 to 128 dimensions; got 200"),
        (("--weights", "nobody"), "unknown policy (neither bundled nor a directory) 'nobody'"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_built_is_one_line(made: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    refused(build(made, tmp_path / "store", *more), message)
    assert not (tmp_path / "store").exists()


def test_a_finished_store_is_not_overwritten(made: Path, tmp_path: Path) -> None:
    make_store(tmp_path)
    refused(build(made, tmp_path), "already holds a store")


def test_ctrl_c_says_that_nothing_was_written(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("heisd.train.store.fit_projection", interrupted)
    done = build(made, tmp_path / "store")
    assert done.exit_code == 130
    assert "no store was written" in done.stderr
    assert not (tmp_path / "store").exists()


def test_info_describes_for_people(tmp_path: Path) -> None:
    make_store(tmp_path)
    done = run("index", "info", tmp_path)
    assert done.exit_code == 0
    for text in (MILK, BOWL, str(N_ROWS), "aaaaaaaaaaaa…", "size_mb"):
        assert text in done.stdout


@pytest.mark.parametrize("verb", ["info", "check"])
def test_a_directory_without_a_store_is_one_line(tmp_path: Path, verb: str) -> None:
    refused(run("index", verb, tmp_path), "no finished store; build one for this policy: heisd index build")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_check_lists_what_is_wrong_and_ends_with_1(tmp_path: Path, form: tuple[str, ...]) -> None:
    make_store(tmp_path)
    file = tmp_path / "shards/task-001.rows"
    file.write_bytes(file.read_bytes()[:-1])
    done = run("index", "check", tmp_path, *form)
    assert done.exit_code == 1
    assert "1 problems; first: " in done.stderr
    if form:
        report = json.loads(done.stdout)
        assert report["is_ok"] is False
        assert "task-001.rows" in report["problems"][0]
    else:
        assert "truncated" in done.stdout


def test_check_asks_where_the_episodes_come_from(tmp_path: Path) -> None:
    make_store(tmp_path, episode_split="calibration")
    done = run("index", "check", tmp_path)
    assert done.exit_code == 1
    assert "'calibration' split" in done.stderr


def test_bench_reports_every_case_and_judges_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CASES", SMALL)
    done = run("bench", "--index", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["index"]) == ["first", "wider"]
    for name, row in result["index"].items():
        assert row["recall_at_1"] == 1.0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["config"]["full_dims"] == SMALL[name].full_dims
    assert result["bar"]["case"] == "first"
    assert result["bar"]["is_met"] is (result["index"]["first"]["p99_ms"] < 1.0)
    assert result["machine"]["cores"] >= 1
    table = run("bench", "--index").stdout
    assert "wider" in table
    assert "bar of first: p99 < 1.0 ms" in table


def test_the_cases_are_those_that_are_promised() -> None:
    first, rows, key, unreduced = timing.CASES.values()
    assert (first.n_rows, first.full_dims, first.n_dims) == (10_147, 256, 128)
    assert (rows.n_rows, rows.full_dims, rows.n_dims) == (273_465, 256, 128)
    assert (key.n_rows, key.full_dims, key.n_dims) == (10_147, 4352, 128)
    assert (unreduced.n_rows, unreduced.full_dims, unreduced.n_dims) == (10_147, 4352, 4352)


def test_too_little_memory_is_refused_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "available_memory_mb", lambda: 500.0)
    refused(run("bench", "--index"), "timing all_tasks_in_one (273,465 rows of 128 dimensions) takes about")
    with pytest.raises(BadInput, match="only 0 MB are available"):
        measure_cases(SMALL, available_mb=lambda: 0.01)
    assert set(measure_cases(SMALL, available_mb=lambda: None)) == set(SMALL)


def test_available_memory_is_read_where_the_system_tells(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       24000000 kB\nMemAvailable:    2000000 kB\n")
    assert available_memory_mb(file) == pytest.approx(2048.0)
    file.write_text("MemTotal:       24000000 kB\n")
    assert available_memory_mb(file) is None
    assert available_memory_mb(tmp_path / "nothing") is None


@pytest.mark.parametrize("command", ["check", "info"])
@pytest.mark.parametrize("content", [{"format": "heisd-policy-1", "name": "toy"}, {}, []])
def test_a_directory_that_is_no_store_is_one_line(tmp_path: Path, command: str, content: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    done = run("index", command, tmp_path)
    refused(done, "manifest.json is not the manifest of a heisd-store-1 store: ")
    assert "heisd index build" in done.stderr
    assert "http" not in done.stderr


def test_a_journal_that_is_none_is_one_line(tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "appended").mkdir()
    (tmp_path / "appended" / "journal.json").write_text('{"shop": 1}')
    done = run("index", "info", tmp_path)
    refused(done, "journal.json is not a journal of appended rows: store: Field required; delete the folder")
    assert "http" not in done.stderr
