"""`make figures`: tables between markers and pictures, from result files; nothing where there is nothing to show."""

import importlib.util
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from report_fakes import play
from tables import cells, marked

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
BLOCKS = (
    "headline", "targets", "ladder", "results", "comparison", "plane", "decoding", "recorded", "rendering", "demo",
)  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project of its own with both documents, and results to come."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"# x\n{marked(*BLOCKS)}")
    (tmp_path / "docs" / "comparison.md").write_text(marked("comparison-details"))
    return tmp_path


@pytest.fixture
def figures(home, monkeypatch):
    """benchmarks/figures.py over that project."""
    spec = importlib.util.spec_from_file_location("figures", BENCHMARKS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", home)
    return module


def results(home: Path) -> Path:
    return home / "benchmarks" / "results"


def groups_of(home: Path):
    from rows import read_groups

    return read_groups(results(home))


def test_without_results_nothing_of_a_comparison_is_written_or_needed(figures, home):
    (home / "docs" / "comparison.md").unlink()
    before = (home / "README.md").read_text()
    figures.main()
    after = (home / "README.md").read_text()
    assert after.count("old") == before.count("old") - 1  # the table of plain runs has a head all the same
    assert not (home / "docs" / "figures").exists()


def test_everything_goes_between_its_markers_and_stays_there(figures, home, monkeypatch):
    play(results(home) / "compare-toy", monkeypatch, split="test")
    readme = home / "README.md"
    readme.write_text(readme.read_text().replace("<!-- comparison -->", ""))
    with pytest.raises(SystemExit, match=r"<!-- comparison -->.*add the two markers"):
        figures.main()
    readme.write_text(readme.read_text().replace("<!-- /comparison -->", "<!-- comparison -->\n<!-- /comparison -->"))
    figures.main()
    text, details = readme.read_text(), (home / "docs" / "comparison.md").read_text()
    plain, comparison = text.split("<!-- comparison -->")
    assert "compare-toy" not in plain
    assert comparison.count("`hybrid`") == 2  # gains, successes
    assert details.count("| toy | `hybrid` |") == 1 + 2  # doings, and two kinds of motion
    assert text.endswith("\nend\n")
    assert "speed_success-toy.svg" in text.split("<!-- plane -->")[1].split("<!-- /plane -->")[0]
    figures.main()
    assert (readme.read_text(), (home / "docs" / "comparison.md").read_text()) == (text, details)


def copied(to: Path) -> None:
    """The committed documents, over the committed files."""
    for files in ("benchmarks/results", "src/heisd/weights"):
        (to / files).parent.mkdir(parents=True)
        (to / files).symlink_to(ROOT / files)
    (to / "docs").mkdir()
    shutil.copy(ROOT / "README.md", to)
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, to / "docs")


def test_the_committed_documents_are_what_the_results_say(monkeypatch, tmp_path):
    """`make figures` changes nothing: every number between markers is that of a committed file."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import figures

    copied(tmp_path)
    for path, text in figures.written(tmp_path).items():
        assert text == path.read_text(encoding="utf-8"), f"{path.name}: run make figures"
    for picture in (tmp_path / "docs" / "figures").glob("*.svg"):
        assert picture.read_text() == (ROOT / "docs" / "figures" / picture.name).read_text(), "run make figures"


def test_a_stale_number_in_running_text_is_written_anew_wherever_it_stands(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import figures

    copied(tmp_path)
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "routes.md"
    said = {path: path.read_text() for path in (readme, page)}
    marker = "<!-- guess-parallel-libero_object -->"
    readme.write_text(said[readme].replace("<!-- row-ms -->0.", "<!-- row-ms -->9."))
    page.write_text(f"{said[page].replace(f'{marker}9', f'{marker}1')}and {marker}<!-- /{marker[5:]} again\n")
    written = figures.written(tmp_path)
    assert written[readme] == said[readme] != readme.read_text()
    (number,) = set(re.findall(f"{marker}(.*?)<", written[page]))
    assert written[page] == f"{said[page]}and {marker}{number}<!-- /{marker[5:]} again\n"
    page.write_text("about <!-- rwo-ms -->0.07<!-- /rwo-ms --> ms")
    with pytest.raises(SystemExit, match=r"routes\.md: nobody knows the number <!-- rwo-ms -->"):
        figures.written(tmp_path)


def test_every_number_that_can_be_written_stands_somewhere_and_every_marker_is_closed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import figures
    import prose

    texts = [path.read_text() for path in figures.documents(ROOT)]
    assert set().union(*map(prose.names_in, texts)) == set(prose.VALUES)
    for text in texts:
        assert sorted(re.findall(r"<!-- (\w\S*) -->", text)) == sorted(re.findall(r"<!-- /(\S+) -->", text))


def test_every_figure_is_that_of_the_result(home, monkeypatch):
    import comparison

    result = play(results(home) / "compare-toy", monkeypatch)
    groups = groups_of(home)
    gains, doings = comparison.gains(groups, {"exact": 900.4}), comparison.doings(groups)
    exact, plain, hybrid = (cells(gains, f"`{name}`") for name in ("exact", "ar", "hybrid"))
    assert exact["suite"] == "toy, validation"
    assert exact["success (95 %)"].startswith("75.0 % (")
    assert exact["speed-up, full clock (95 %)"] == "**1.60× (1.60 to 1.60)**"  # noqa: RUF001
    assert exact["papers' clock (95 %)"] == "1.60× (1.60 to 1.60)"  # noqa: RUF001 (no stage of it is left out)
    assert exact["CPU ms / action"] == "20.0"
    assert (exact["peak MB"], plain["peak MB"]) == ("900", comparison.NONE)
    assert plain["papers' clock (95 %)"] == plain["speed-up, full clock (95 %)"] == comparison.NONE
    skipped = result["methods"]["hybrid"]["speculation"]["routes"]["skip/tolerant motion"]["share"]
    ratio = 16 / (10 - 9 * skipped)  # a skipped step costs its look-up alone, 1 of 4 ms
    assert hybrid["papers' clock (95 %)"].startswith(f"{ratio:.2f}×")  # noqa: RUF001
    done = cells(doings, "`hybrid`")
    assert done["skipped"] == f"{100 * skipped:.0f} %"
    assert done["acceptance length"] == "4.00"
    shares = {f"skip {100 * skipped:.0f} %", f"speculate {100 * (1 - skipped):.0f} %"}
    assert set(done["routes"].split(", ")) == shares


def test_an_untimed_comparison_has_successes_and_no_times(home, monkeypatch):
    import comparison

    play(results(home) / "success-toy-shipped", monkeypatch, timing=False, videos=0)
    groups = groups_of(home)
    assert len(comparison.gains(groups, {})) == 2  # a head without rows
    assert cells(comparison.successes(groups), "`hybrid`")["shipped"] == "75.0 % of 4"


def test_timed_and_played_runs_are_one_row_and_no_start_counts_twice(home, monkeypatch):
    import comparison

    play(results(home) / "compare-toy", monkeypatch, split="test", methods=("ar", "exact", "hybrid"))
    play(results(home) / "success-toy", monkeypatch, split="test", methods=("ar", "hybrid"), timing=False, episodes=12)
    play(results(home) / "success-toy-2", monkeypatch, split="test", methods=("ar", "hybrid"), timing=False,
         episodes=4, offset=12)  # fmt: skip
    groups = groups_of(home)
    assert len(groups) == 1
    hybrid, exact = (cells(comparison.gains(groups, {}), f"`{name}`") for name in ("hybrid", "exact"))
    assert hybrid["n"] == "16"
    assert hybrid["speed-up, full clock (95 %)"] != comparison.NONE
    assert exact["n"] == "16"
    assert exact["success (95 %)"] == f"{hybrid['success (95 %)']}{comparison.SHARED}"  # token for token plain decoding
    assert exact["to plain, points (95 %)"] == comparison.NONE
    assert "shared from the baseline" in comparison.footnotes(groups)[0]


def test_a_preset_played_alone_is_paired_with_plain_decoding_s_other_runs(home, monkeypatch):
    import comparison

    play(results(home) / "compare-toy", monkeypatch, split="test", methods=("ar", "exact"))
    play(results(home) / "success-toy", monkeypatch, split="test", methods=("ar", "exact"), timing=False, episodes=8)
    play(results(home) / "success-toy-alone", monkeypatch, split="test", methods=("hybrid",), timing=False, episodes=12)
    play(results(home) / "success-toy-other", monkeypatch, split="test", methods=("hybrid",), timing=False,
         condition="jitter")  # fmt: skip
    groups = groups_of(home)
    assert [(group.starts, group.baseline, len(group.runs)) for group in groups] == [
        ("shipped", "ar", 3), ("jitter", "hybrid", 1),
    ]  # fmt: skip
    hybrid = cells(comparison.gains(groups, {}), "`hybrid`")
    assert hybrid["n"] == "12"
    assert hybrid["to plain, points (95 %)"] != comparison.NONE
    assert len(groups[0].pairs(groups[0].row("hybrid"))) == 8  # the starts that both have played


def test_the_whole_comparison_of_any_directory_is_printed(home, monkeypatch, capsys):
    import compare

    play(results(home) / "compare-toy", monkeypatch, split="test", methods=("ar", "exact", "hybrid"))
    monkeypatch.setattr("sys.argv", ["compare.py", str(results(home))])
    compare.main()
    said = capsys.readouterr().out
    assert said.count("| `exact` |") > 2  # headline, speed, what was done
    assert "No proposer failed" in said
    for given, message in ((str(home / "docs"), "holds no finished"), ("nowhere", "usage: .* nowhere")):
        monkeypatch.setattr("sys.argv", ["compare.py", given])
        with pytest.raises(SystemExit, match=message):
            compare.main()


def test_what_must_not_be_mixed_has_rows_of_its_own(home, monkeypatch):
    import comparison

    for name, changes in {"": {}, "-jitter": {"condition": "jitter"}, "-validation": {"split": "validation"}}.items():
        play(results(home) / f"compare-toy{name}", monkeypatch, **{"split": "test", "videos": 0, **changes})
    play(results(home) / "compare-toy-bf16", monkeypatch, split="test", videos=0, methods=("ar", "hybrid"),
         dtype="bfloat16")  # fmt: skip
    groups = groups_of(home)
    assert [group.title for group in groups] == ["toy", "toy, validation", "toy, jitter", "toy, bfloat16"]
    rows = comparison.successes(groups)[2:]
    scopes = [line.split("|")[2].strip() for line in rows if "`hybrid`" in line]
    assert sorted(scopes) == ["toy", "toy, bfloat16", "toy, validation"]  # and none over all of them
    assert cells(comparison.successes(groups), "`hybrid`", "toy")["pairs"] == "8"  # shipped and jittered


def test_unfinished_comparisons_are_left_out_and_cut_ones_refused(home, monkeypatch):
    import comparison

    folder = results(home) / "compare-toy"
    play(folder, monkeypatch, videos=0)
    episodes = (folder / "episodes.jsonl").read_text().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_text("".join(episodes[:-1]))
    with pytest.raises(SystemExit, match=r"commit episodes\.jsonl"):
        groups_of(home)
    path = folder / "eval_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "invalid_episodes"}))
    assert groups_of(home) == []
    assert comparison.comparison([], {}) == comparison.details([]) == []


def with_assets(folder, monkeypatch, **assets):
    play(folder, monkeypatch, videos=0)
    path = folder / "eval_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "assets": {"parallel": "x", **assets}}))


@pytest.mark.parametrize("changes", [{"condition": "moving4"}, {"shift": "lamps"}, {"realtime": {"control_hz": 20}}])
def test_what_is_no_plain_world_has_no_place_in_the_tables(figures, home, monkeypatch, changes):
    for name in ("test-toy", "other-toy", "compare-toy"):
        play(results(home) / name, monkeypatch, split="test", videos=0)
    for name in ("other-toy", "compare-toy"):
        path = results(home) / name / "eval_info.json"
        run = json.loads(path.read_text())
        run["config"].update(changes)
        path.write_text(json.dumps({**run, "condition": run["config"]["condition"]}))
    assert [name for name, _ in figures.read_runs(results(home))] == ["test-toy"]
    with pytest.raises(SystemExit, match=r"compare-toy is a run with --shift, --realtime or moving targets"):
        groups_of(home)


def test_a_preset_played_with_two_stores_is_refused(home, monkeypatch):
    for name, store in {"compare-toy": "a", "success-toy": "b"}.items():
        with_assets(results(home) / name, monkeypatch, store=store * 64)
    with pytest.raises(SystemExit, match="'hybrid' was played with another store"):
        groups_of(home)


def test_a_calibration_is_compared_by_what_it_says_to_a_preset(home, monkeypatch):
    for name, others in {"compare-toy": {}, "success-toy": {"hold_calibrated": "b"}}.items():
        with_assets(results(home) / name, monkeypatch, calibration={"exact": "a", "hybrid": "c", **others})
    assert len(groups_of(home)) == 1
    with_assets(results(home) / "success-toy-again", monkeypatch, calibration={"exact": "a", "hybrid": "d"})
    with pytest.raises(SystemExit, match="'hybrid' was played with another calibration"):
        groups_of(home)


def test_a_picture_is_a_file_of_its_own(home, monkeypatch):
    import pictures

    play(results(home) / "compare-toy", monkeypatch, split="test")
    lines = pictures.planes(groups_of(home), home / "figures")
    assert lines == ["![toy: success over speed-up, every preset](docs/figures/speed_success-toy.svg)"]
    picture = home / "figures" / "speed_success-toy.svg"
    root = ET.parse(picture).getroot()
    names = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"ar", "exact", "hybrid"} <= names
    assert picture.stat().st_size < 30_000
    play(results(home) / "success-toy", monkeypatch, condition="jitter", timing=False, videos=0)
    assert len(pictures.planes(groups_of(home), home / "figures")) == 1  # nothing was timed there


def test_each_family_s_ablations_have_a_table_of_their_own(home, monkeypatch):
    import ablations
    from cells import NONE
    from chunk_fakes import chunk_world

    play(results(home) / "ablations-toy", monkeypatch, timing=False, videos=0, methods=("ar", "heisd_code"))
    assert ablations.flow_ablations(results(home)) == []
    names = ("full", "flash", "flash_delta_05")
    play(results(home) / "ablations-flow-toy", monkeypatch, world=chunk_world, methods=names, videos=0)
    play(results(home) / "ablations-flow-two", monkeypatch, world=chunk_world, methods=names, videos=0, suite="two",
         timing=False)  # fmt: skip
    assert ablations.ablations(results(home)) == []  # nothing of token policies has times
    head, _, *rows = ablations.flow_ablations(results(home))
    mine = cells([head, "", *rows], "δ", "`flash_delta_05`")
    assert mine["speed-up (95 %), toy"].startswith("1.12")
    assert (mine["speed-up (95 %), two"], mine["skipped, two"]) == (NONE, "0 %")
    assert mine["prefills, toy"] == mine["prefills, two"] != NONE
    assert mine["solved, toy"] == "3 of 4"
    unplayed = cells([head, "", *rows], "`flash_delta_30`")
    assert set(list(unplayed.values())[2:]) == {NONE}
    path = results(home) / "ablations-flow-two" / "eval_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "invalid_episodes"}))
    assert "two" not in ablations.flow_ablations(results(home))[0]


@pytest.mark.usefixtures("home")
def test_every_ablation_is_in_a_question_and_played_once_where_it_is_its_own():
    import ablations

    from heisd.presets import ABLATIONS

    asked = {name for questions in (ablations.QUESTIONS, ablations.FLOW_QUESTIONS) for names in questions.values()
             for name in names}  # fmt: skip
    assert asked >= set(ABLATIONS)
    played = {suite: ablations.flow_methods(suite) for suite in ("libero_object", "libero_spatial", "libero_goal")}
    for names in played.values():
        assert names[0] == "full"
        assert len(names) == len(set(names))
        assert {"full_longer", "tail_2to1", "flash", "flow_hybrid", "flash_retrieval"} < set(names)
    own = {suite: {*ablations.PARENT_WHERE} & {*names} for suite, names in played.items()}
    assert own == {
        "libero_object": {"flash_guarded", "flash_period_4"},
        "libero_spatial": {"flash_no_verify_stop", "flash_no_post_cut", "flash_period_4"},
        "libero_goal": {"flash_no_verify_stop", "flash_no_post_cut", "flash_no_period"},
    }
    assert not {*ablations.methods(is_exact=True), *ablations.methods(is_exact=False)} & {*played["libero_goal"]}


def test_small_tables_say_what_their_files_say(home, monkeypatch):
    import measured

    folder = results(home)
    (folder / "demo").mkdir(parents=True)
    play(home / "demo-run", monkeypatch)
    shutil.copy(home / "demo-run" / "eval_info.json", folder / "demo" / "toy.json")
    assert cells(measured.demo(folder), "`exact`")["solved"] == "3/4"
    assert cells(measured.demo(folder), "`ar`")["LM forwards / action"] == "7.00"
    bench = {"methods": {
        "ar": {"speedup_vs_baseline": None},
        "exact": {"speedup_vs_baseline": {"ratio": 1.25, "ci95": [1.2, 1.3]}, "ms_per_action": {"mean": 8.0}},
    }}  # fmt: skip
    check = {"suite": "toy", "exact": {"exact": {"lm_forwards": 30, "n_steps": 10, "differing_tokens": 2,
                                                 "n_tokens": 70}}}  # fmt: skip
    (folder / "bench_exact-toy.json").write_text(json.dumps(bench))
    (folder / "check_exact-toy.json").write_text(json.dumps(check))
    row = cells(measured.recorded(folder), "toy")
    assert (row["LM forwards / action"], row["differing tokens"]) == ("3.00", "2 of 70")
    assert measured.decoding(folder) == measured.rendering(folder) == []
    assert measured.memory(folder) == {}
    (folder / "memory.json").write_text(json.dumps({"methods": {"ar": {"peak_rss_mb": 812.5}}}))
    assert measured.memory(folder) == {"ar": 812.5}
