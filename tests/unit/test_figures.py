"""`make figures`: tables between markers, from result files; nothing where there is nothing to show."""

import importlib.util
import json
from pathlib import Path

import pytest
from report_fakes import play

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """benchmarks/figures.py over results and a README of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("figures", BENCHMARKS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("# x\n<!-- results -->\nold\n<!-- /results -->\nend\n")
    return module


def cells(table, preset):
    head, row = (next(line for line in table if text in line) for text in ("| preset |", f"| `{preset}` |"))
    return dict(zip(*([part.strip() for part in line.split("|")[1:-1]] for line in (head, row)), strict=True))


def test_without_a_comparison_nothing_is_written_or_needed(figures, capsys):
    figures.main()
    assert "comparison" not in figures.README.read_text() + capsys.readouterr().out
    assert "old" not in figures.README.read_text()


def test_the_comparison_goes_between_its_markers_and_into_no_other_table(figures, tmp_path, monkeypatch):
    play(tmp_path / "results" / "compare-toy", monkeypatch, split="test")
    with pytest.raises(SystemExit, match="add the two markers"):
        figures.main()
    before = figures.README.read_text() + "<!-- comparison --><!-- /comparison -->\nlast\n"
    figures.README.write_text(before)
    figures.main()
    text = figures.README.read_text()
    results, comparison = text.split("<!-- comparison -->")
    assert "compare-toy" not in results
    assert comparison.count("| toy | `hybrid` |") == 2 + 2  # gains, doings, and two kinds of motion
    assert text.endswith("<!-- /comparison -->\nlast\n")
    figures.main()
    assert figures.README.read_text() == text


@pytest.mark.usefixtures("figures")
def test_every_figure_is_that_of_the_result(tmp_path, monkeypatch):
    import comparison

    result = play(tmp_path / "results" / "compare-toy", monkeypatch)
    runs = comparison.read_comparisons(tmp_path / "results")
    assert [name for name, _ in runs] == ["compare-toy"]
    gains, doings = comparison.gains(runs), comparison.doings(runs)
    exact, plain, hybrid = (cells(gains, name) for name in ("exact", "ar", "hybrid"))
    assert exact["success (95 %)"].startswith("75.0 % (")
    assert exact["speed-up, full clock (95 %)"] == "**1.60× (1.60 to 1.60)**"  # noqa: RUF001
    assert exact["papers' clock, ms"] == "7.00"  # 5 prefill + 2 accept, of 10
    assert plain["papers' clock, ms"] == "13.00"  # without 3 of vision
    assert exact["papers' clock, ratio"] == "1.86×"  # noqa: RUF001
    assert plain["papers' clock, ratio"] == plain["speed-up, full clock (95 %)"] == comparison.NONE
    skipped = result["methods"]["hybrid"]["speculation"]["routes"]["skip/tolerant motion"]["share"]
    assert hybrid["papers' clock, ms"] == f"{7 * (1 - skipped):.2f}"  # a skipped step has none of its stages
    done = cells(doings, "hybrid")
    assert done["skipped"] == f"{100 * skipped:.0f} %"
    assert done["acceptance length"] == "4.00"
    shares = {f"skip {100 * skipped:.0f} %", f"speculate {100 * (1 - skipped):.0f} %"}
    assert set(done["routes"].split(", ")) == shares


@pytest.mark.usefixtures("figures")
def test_an_untimed_comparison_shows_dashes_for_every_time(tmp_path, monkeypatch):
    import comparison

    play(tmp_path / "results" / "compare-toy", monkeypatch, timing=False, videos=0)
    row = cells(comparison.gains(comparison.read_comparisons(tmp_path / "results")), "exact")
    for column in ("speed-up, full clock (95 %)", "ms / action", "papers' clock, ms", "CPU s / action", "ms / episode"):
        assert row[column] == comparison.NONE


@pytest.mark.usefixtures("figures")
def test_unfinished_comparisons_are_left_out(tmp_path, monkeypatch):
    import comparison

    play(tmp_path / "results" / "compare-toy", monkeypatch, videos=0)
    path = tmp_path / "results" / "compare-toy" / "eval_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "invalid_episodes"}))
    assert comparison.read_comparisons(tmp_path / "results") == []
    assert comparison.comparison([]) == []


@pytest.mark.usefixtures("figures")
def test_a_stage_entered_in_some_episodes_only_counts_over_all_steps():
    import comparison

    block = {"ms_per_action": {"n": 200}, "stages": {"prefill": {"n": 50, "mean": 8.0}, "act": {"n": 200, "mean": 1.0}}}
    assert comparison.papers_ms(block) == 2.0
    assert comparison.papers_ratio(block, block) is None
