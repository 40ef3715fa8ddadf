"""Shards and their merging: the same run, record for record; whatever does not fit together is refused in one line."""

import json
import shutil
from dataclasses import asdict

import pytest
import toy_world
from hypothesis import given
from hypothesis import strategies as st
from toy_world import config, setting
from typer.testing import CliRunner

from heisd import cli
from heisd.bench.evaluate import evaluate, starts_of_shard
from heisd.bench.merge import interleaved, merge
from heisd.bench.results import CONFIG_NAME, EPISODES_NAME, RESULT_NAME, RunDirectory
from heisd.config import EvalConfig, parse_shard
from heisd.errors import BadArtifact, BadInput
from heisd.sim.splits import Split, episode_starts

METHODS = ("ar", "slow")
OF_THE_MACHINE = {"wall_s", "peak_rss_mb"}


@pytest.fixture(autouse=True)
def _toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heisd.bench.methods.PRESETS", dict.fromkeys(METHODS, ""))


def play(tmp_path, n, **changes):
    """The shards of an evaluation, played one by one."""
    paths = []
    for i in range(1, n + 1):
        paths.append(tmp_path / f"shard{i}")
        evaluate(config(methods=METHODS, episodes=10, shard=f"{i}/{n}", **changes), paths[-1], setting())
    return paths


def outcome(record):
    return {name: value for name, value in asdict(record).items() if name not in OF_THE_MACHINE}


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_merged_run_is_the_unsharded_one_record_for_record(tmp_path, n):
    whole = evaluate(config(methods=METHODS, episodes=10), tmp_path / "whole", setting())
    merged = merge(play(tmp_path, n)[::-1], tmp_path / "merged")
    mine, theirs = (RunDirectory(tmp_path / name).records() for name in ("merged", "whole"))
    assert [outcome(record) for record in mine] == [outcome(record) for record in theirs]
    assert (tmp_path / "merged" / CONFIG_NAME).read_text() == (tmp_path / "whole" / CONFIG_NAME).read_text()
    assert (merged["config_hash"], merged["seeds"]) == (whole["config_hash"], whole["seeds"])
    for name in ("status", "per_task", "invalid", "config", "shift"):
        assert merged[name] == whole[name]
    for method in METHODS:
        blocks = [{**result["methods"][method], "peak_rss_mb": 0} for result in (merged, whole)]
        assert blocks[0] == blocks[1]
    assert json.loads((tmp_path / "merged" / RESULT_NAME).read_text()) == json.loads(json.dumps(merged))
    assert [part["shard"] for part in merged["merged_from"]] == [f"{i}/{n}" for i in range(1, n + 1)]
    assert all(part["throughput"]["episodes_per_minute"] > 0 for part in merged["merged_from"])


def test_the_command_that_would_have_played_everything_finds_everything_played(tmp_path):
    merge(play(tmp_path, 3), tmp_path / "merged")
    played = []
    again = evaluate(
        config(methods=METHODS, episodes=10), tmp_path / "merged", setting(), progress=lambda *a: played.append(a)
    )
    assert played == []
    assert again["throughput"] == {"n_episodes": 0, "wall_s": again["throughput"]["wall_s"],
                                   "episodes_per_minute": None, "workers": 1}  # fmt: skip


def test_episodes_that_crashed_at_first_stay_on_record(tmp_path, monkeypatch):
    trips = tmp_path / "trips"
    monkeypatch.setenv("TOY_TRIPS", str(trips))
    paths = []
    for i in (1, 2):
        trips.write_text("1")
        paths.append(tmp_path / f"shard{i}")
        evaluate(config(shard=f"{i}/2"), paths[-1], setting(toy_world.fragile_world))
    result = merge(paths, tmp_path / "merged")
    records = RunDirectory(tmp_path / "merged").records()
    assert [record.attempt for record in records] == [0, 0, 0, 0, 1, 1]
    assert sum(not record.valid for record in records) == 2
    assert (result["status"], result["overall"]["n_episodes"]) == ("complete", 4)


def test_films_come_along_once_per_task_and_outcome(tmp_path):
    merge(play(tmp_path, 3, videos=2), tmp_path / "merged")
    records = RunDirectory(tmp_path / "merged").records()
    films = [record.video for record in records if record.video]
    assert len(films) == len(set(films)) == 6  # task 0 solved, task 1 solved and not, by two methods
    assert all(
        (tmp_path / "merged" / film).with_suffix(suffix).stat().st_size for film in films for suffix in (".mp4", ".jpg")
    )
    assert all((record.timeline is None) == (record.video is None) for record in records)
    first = {(r.method, r.task_index, r.success): r.key for r in reversed(records)}
    assert all(first[r.method, r.task_index, r.success] == r.key for r in records if r.video)


@pytest.mark.parametrize(
    ("given_shards", "message"),
    [
        ([1, 3], "gap: shard 2/3 is not among the runs to merge"),
        ([1], "gap: shard 2/3, 3/3 is not among"),
        ([1, 2, 3, 2], "overlap: .*shard2 and .*shard2 are both shard 2/3"),
        ([], "nothing to merge"),
    ],
)
def test_gaps_and_overlaps_are_refused(tmp_path, given_shards, message):
    paths = play(tmp_path, 3)
    with pytest.raises(BadInput, match=message):
        merge([paths[i - 1] for i in given_shards], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_copy_under_another_name_is_an_overlap(tmp_path):
    paths = play(tmp_path, 2)
    shutil.copytree(paths[0], tmp_path / "copy")
    with pytest.raises(BadInput, match=r"overlap: .*shard1 and .*copy are both shard 1/2"):
        merge([*paths, tmp_path / "copy"], tmp_path / "merged")


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (CONFIG_NAME, lambda c: c.update(condition="jitter"), r"different runs \(condition: shipped -> jitter\)"),
        (CONFIG_NAME, lambda c: c.update(shift="black"), "shift: None -> black"),
        (
            CONFIG_NAME,
            lambda c: c["provenance"]["policy"].update(sha256="1" * 64),
            r"provenance\.policy\.sha256: 0000.* -> 1111",
        ),
        (CONFIG_NAME, lambda c: c.update(shard="2/4"), "n_shards: 3 -> 4"),
        (CONFIG_NAME, lambda c: c.pop("shard"), "is no shard: it was played whole"),
        (RESULT_NAME, lambda r: r["versions"].update(mujoco="9.9"), r"versions\.mujoco: .* -> 9\.9"),
        (RESULT_NAME, lambda r: r.update(status="invalid_episodes"), "gap: .* could not be played"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, name, change, message):
    paths = play(tmp_path, 3)
    edit(paths[1] / name, change)
    with pytest.raises(BadInput, match=message) as caught:
        merge(paths, tmp_path / "merged")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_an_unfinished_or_damaged_shard_is_refused(tmp_path):
    paths = play(tmp_path, 2)
    (paths[1] / RESULT_NAME).unlink()
    with pytest.raises(BadInput, match=r"gap: .*shard2 \(shard 2/2\) is not finished; repeat its command"):
        merge(paths, tmp_path / "merged")
    with pytest.raises(BadArtifact, match="cannot be read: No such file"):
        merge([paths[0], tmp_path / "nowhere"], tmp_path / "merged")
    lines = (paths[0] / EPISODES_NAME).read_text().splitlines(keepends=True)
    (paths[0] / EPISODES_NAME).write_text("".join(lines[:-1]))
    alone = paths[0]
    edit(alone / CONFIG_NAME, lambda c: c.update(shard="1/1"))
    with pytest.raises(BadArtifact, match="holds 9 outcomes where its result speaks of 10"):
        merge([alone], tmp_path / "merged")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CONFIG_NAME, lambda c: c.update(speed="warp")),
        (CONFIG_NAME, lambda c: c.pop("provenance")),
        (RESULT_NAME, lambda r: r.pop("seeds")),
    ],
)
def test_a_run_of_another_version_is_refused_by_name(tmp_path, name, change):
    paths = play(tmp_path, 2)
    edit(paths[0] / name, change)
    with pytest.raises(BadArtifact, match=r"shard1 is not a run of this version of heisd"):
        merge(paths, tmp_path / "merged")


def test_a_run_is_not_written_over(tmp_path):
    paths = play(tmp_path, 2)
    merge(paths, tmp_path / "merged")
    before = (tmp_path / "merged" / EPISODES_NAME).read_bytes()
    with pytest.raises(BadInput, match="holds a run already"):
        merge(paths, tmp_path / "merged")
    assert (tmp_path / "merged" / EPISODES_NAME).read_bytes() == before


def test_a_shard_s_directory_is_of_that_shard_only(tmp_path):
    evaluate(config(shard="1/2"), tmp_path / "run", setting())
    with pytest.raises(BadInput, match="shard: 1/2 -> 2/2"):
        evaluate(config(shard="2/2"), tmp_path / "run", setting())
    with pytest.raises(BadInput, match="shard: 1/2 -> None"):
        evaluate(config(), tmp_path / "run", setting())


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "", "01/2", "1/2 "])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(BadInput, match="is not i/n with i from 1 to n"):
        parse_shard(text)


def test_shards_are_of_untimed_runs_and_not_empty():
    with pytest.raises(BadInput, match="--timing is of one machine"):
        EvalConfig(suite="s", methods=("ar",), shard="1/2", timing=True)
    with pytest.raises(BadInput, match="only 4 episodes to share out"):
        EvalConfig(suite="s", methods=("ar",), shard="1/5", episodes=4)


@given(st.integers(1, 60), st.integers(1, 12))
def test_shards_share_out_every_start_once_and_interleave_to_their_order(n_starts, n):
    starts = episode_starts("s", 10, Split.VALIDATION, n_starts)
    parts = [starts_of_shard(starts, f"{i}/{n}") for i in range(1, n + 1)]
    assert interleaved([[start.key for start in part] for part in parts]) == [start.key for start in starts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert starts_of_shard(starts, None) == starts


def test_the_command_line_merges_and_refuses_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("heisd.bench.libero_world.libero_setting", lambda _: setting())
    paths = play(tmp_path, 2)

    def run(*arguments):
        return CliRunner().invoke(cli.app, [str(a) for a in arguments])

    refused = run("merge", paths[0], "--out", tmp_path / "merged")
    assert (refused.exit_code, refused.stderr.count("\n"), refused.stdout) == (2, 1, "")
    assert refused.stderr.startswith("error: gap: shard 2/2")
    done = run("merge", *paths, "--out", tmp_path / "merged", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["overall"]["n_episodes"] == 10
