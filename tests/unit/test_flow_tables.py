"""The comparison of flow presets: rows, refusals, the cost model beside measurement, bars, and where it is written."""

import importlib.util
import json
import math
from collections import Counter
from pathlib import Path

import chunk_fakes
import pytest
from rows_fakes import group, run
from tables import between, cells, marked

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BLOCKS = ("flow-targets", "flow-comparison", "flow-plane", "flow-rounds", "flow-model")
POLICY = "0" * 64


@pytest.fixture(autouse=True)
def _path(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Timed on shipped starts, played on moved ones, benched on another suite's observations."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "benchmarks" / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        chunk_fakes.play(folder / "flow-compare-toy", patch, split="test")
        chunk_fakes.play(folder / "flow-success-toy-jitter", patch, split="test", condition="jitter", timing=False,
                         methods=("full", "flow_hybrid"), episodes=8)  # fmt: skip
    (folder / "rounds-other.json").write_text(json.dumps(chunk_fakes.bench("other")))
    return folder


def groups_of(folder: Path):
    from rows import CHUNKS, read_groups

    return read_groups(folder, CHUNKS)


def played(folder: Path, method: str) -> tuple[list[int], Counter]:
    """Steps of every episode, and how often each kind of round began one of them."""
    lines = (folder / "flow-compare-toy" / "episodes.jsonl").read_text().splitlines()
    steps = [record["n_steps"] for record in map(json.loads, lines) if record["method"] == method]
    kinds = chunk_fakes.ROUNDS[method]
    return steps, Counter(kinds[i % len(kinds)] for n in steps for i in range(math.ceil(n / 4)))


def ms_of(came) -> float:
    return sum(chunk_fakes.STAGES[came].values()) + chunk_fakes.ACT_MS


def test_every_cell_is_that_of_the_result(results):
    import flow

    gains = flow.gains(groups_of(results), Path("nowhere"))
    assert len(gains) == 2 + len(chunk_fakes.METHODS)
    block = json.loads((results / "flow-compare-toy" / "eval_info.json").read_text())["methods"]["flash"]
    steps, rounds = played(results, "flash")
    row, n_rounds = cells(gains, "`flash`"), rounds.total()
    assert (row["suite"], row["n"], row["pairs"]) == ("toy", "4", "4")
    assert row["success (95 %)"].startswith("75.0 % (")
    low, high = block["speedup_vs_baseline"]["ci95"]
    ratio = block["speedup_vs_baseline"]["ratio"]
    assert row["speed-up per executed action (95 %)"] == f"**{ratio:.2f}× ({low:.2f}× to {high:.2f}×)**".replace(  # noqa: RUF001
        "× to ", " to ").replace("×)", ")")  # noqa: RUF001  # fmt: skip
    taken_ms = sum(ms_of(came) * n for came, n in rounds.items())
    in_hand_ms = chunk_fakes.ACT_MS * (sum(steps) - n_rounds)
    assert row["ms / action"] == f"{(taken_ms + in_hand_ms) / sum(steps):.2f}"
    assert row["ms / round"] == f"{taken_ms / n_rounds:.2f}"
    assert row["actions / round"] == f"{sum(steps) / n_rounds:.2f}"
    shares = {"full": chunk_fakes.FULL, "speculate": chunk_fakes.KEPT, "rejected": chunk_fakes.IN_VAIN}
    for kind, came in shares.items():
        assert row[f"{kind} rounds"] == f"{100 * rounds[came] / n_rounds:.0f} %"
    assert row["skip rounds"] == "0 %"
    n_kept, n_vain = rounds[chunk_fakes.KEPT], rounds[chunk_fakes.IN_VAIN]
    assert row["prefix age, steps"] == f"{(4 * n_kept + 8 * n_vain) / (n_kept + n_vain):.1f}"
    plain = cells(gains, "`full`")
    assert plain["speed-up per executed action (95 %)"] == plain["to `full`, points (95 %)"] == flow.NONE
    assert cells(gains, "`flow_hybrid`")["skip rounds"] != "0 %"


def test_successes_of_all_conditions_are_one_rate_and_one_difference(results):
    import flow
    from comparison import successes

    groups = groups_of(results)
    assert [each.title for each in groups] == ["toy", "toy, jitter"]
    row = cells(flow.gains(groups, Path("nowhere")), "`flow_hybrid`")
    assert (row["n"], row["pairs"]) == ("12", "12")
    assert row["to `full`, points (95 %)"].startswith("+0.0 (")
    by_condition = cells(successes(groups), "`flow_hybrid`")
    assert by_condition["pairs"] == "12"
    assert by_condition["to `full`, all conditions, points (95 %)"] == row["to `full`, points (95 %)"]
    assert (by_condition["shipped"], by_condition["jitter"][-5:]) == ("75.0 % of 4", " of 8")


def test_what_lies_beyond_training_is_in_neither_the_rate_nor_the_difference():
    import flow
    from rows import pooled

    even = {"full": "+" * 4, "flash": "+" * 4}
    groups = [group(run(even)), group(run({"full": "-" * 4, "flash": "-" * 4}, condition="jitter4"))]
    rate, n = flow.success(groups, "flash")
    assert (rate.value, n, pooled(groups, "flash")[1]) == (1.0, 4, 4)


def test_rounds_are_shown_by_kind_and_by_what_was_accepted(results):
    import flow

    groups = groups_of(results)
    _, rounds = played(results, "flash")
    row = cells(flow.costs(groups), "`flash`", "rejected")
    assert (row["rounds"], row["actions / round"], row["ms / round"]) == (
        str(rounds[chunk_fakes.IN_VAIN]), "4.00", "19.75",
    )  # fmt: skip
    kept, vain = rounds[chunk_fakes.KEPT], rounds[chunk_fakes.IN_VAIN]
    table = flow.acceptances(groups)
    assert len(table) == 2 + 3  # full rounds alone have none
    row = cells(table, "`flash`")
    assert row["verified rounds"] == str(kept + vain)
    assert row["0 accepted"] == f"{100 * vain / (kept + vain):.0f} %"
    assert row["4 accepted"] == f"{100 * kept / (kept + vain):.0f} %"
    assert row["1 accepted"] == "0 %"
    assert row["stopped by"] == f"complete {row['4 accepted']}, over tolerance {row['0 accepted']}"
    assert row["whose actions"] == "draft_head 100 %"
    assert flow.details(groups)[-1] == "No proposer failed in any of these runs."


def test_what_a_calibration_has_found_is_shown_for_its_own_policy(results, tmp_path):
    import flow

    errors = {"false_accept_share": 0.0312, "false_reject_share": 0.4}
    found = dict.fromkeys(("flash", "full"), errors)  # full has verified nothing
    calibration = {"policy_hash": POLICY, "evidence": {"verification": found}}
    (tmp_path / "toy.json").write_text(json.dumps(calibration))
    gains = flow.gains(groups_of(results), tmp_path)
    row = cells(gains, "`flash`")
    assert (row["false accepts"], row["false rejects"]) == ("3.1 %", "40.0 %")
    assert cells(gains, "`full`")["false accepts"] == flow.NONE
    (tmp_path / "toy.json").write_text(json.dumps({**calibration, "policy_hash": "1" * 64}))
    assert cells(flow.gains(groups_of(results), tmp_path), "`flash`")["false accepts"] == flow.NONE


def test_shares_times_costs_are_what_the_same_stages_took(results, tmp_path):
    import flow

    groups = groups_of(results)
    table = flow.model(groups, results)
    assert len(table) == 2 + len(chunk_fakes.METHODS)
    for name in chunk_fakes.METHODS:
        row = cells(table, f"`{name}`")
        assert row["costs measured on"] == "other"
        assert row["error"] in ("+0 %", "-0 %")
    row = cells(table, "`flash`")
    assert (row["full round, ms"], row["rejected round, ms"], row["skip round, ms"]) == ("16.00", "19.75", flow.NONE)
    assert cells(table, "`flow_hybrid`")["skip round, ms"] == "1.25"  # without a look
    assert flow.model([each for each in groups if not each.is_timed], results) == []
    measured = chunk_fakes.bench("toy", slower=1.25)
    (tmp_path / "rounds-toy.json").write_text(json.dumps(measured))
    row = cells(flow.model(groups, tmp_path), "`full`")
    assert (row["error"], row["costs measured on"]) == ("+25 %", "toy")
    (tmp_path / "rounds-other.json").write_text(json.dumps({**measured, "suite": "other"}))
    assert cells(flow.model(groups, tmp_path), "`full`")["costs measured on"] == "other"
    for foreign in ({"policy": {"name": "toy", "sha256": "1" * 64}}, {"dtype": "bfloat16"}):
        for suite in ("toy", "other"):
            (tmp_path / f"rounds-{suite}.json").write_text(json.dumps({**measured, "suite": suite, **foreign}))
        assert flow.model(groups, tmp_path) == []


def test_nothing_is_shown_without_runs(tmp_path):
    import flow
    from targets import flow_targets

    assert groups_of(tmp_path) == []
    assert flow.comparison([], tmp_path) == flow.details([]) == flow.model([], tmp_path) == []
    assert flow_targets([], tmp_path) == []


def test_families_are_never_one_table(tmp_path, monkeypatch):
    from rows import read_groups

    settings = {"timing": False, "split": "test", "episodes": 2}
    chunk_fakes.play(tmp_path / "a" / "compare-toy", monkeypatch, methods=("full",), **settings)
    with pytest.raises(SystemExit, match=r"compare-toy has full, which runs a flow.*flow-compare-… or flow-success-"):
        read_groups(tmp_path / "a")
    assert groups_of(tmp_path / "a") == []
    monkeypatch.setitem(chunk_fakes.ROUNDS, "ar", (chunk_fakes.FULL,))
    chunk_fakes.play(tmp_path / "b" / "flow-compare-toy", monkeypatch, methods=("ar",), **settings)
    with pytest.raises(SystemExit, match=r"flow-compare-toy has ar, which runs a policy that decodes.*named compare-…"):
        groups_of(tmp_path / "b")


def test_everything_is_compared_with_full(tmp_path, monkeypatch):
    settings = {"split": "test", "episodes": 2}
    chunk_fakes.play(tmp_path / "flow-success-toy-alone", monkeypatch, methods=("flash",), timing=False, **settings)
    chunk_fakes.play(tmp_path / "flow-success-toy", monkeypatch, methods=("full", "full_naive"), timing=False,
                     **settings)  # fmt: skip
    (mine,) = groups_of(tmp_path)  # what was played alone joins
    assert (mine.baseline, [row.name for row in mine.rows]) == ("full", ["full", "full_naive", "flash"])
    for i, (methods, timing) in enumerate(((("full_naive", "full"), False), (("full_naive", "flash"), True))):
        out = tmp_path / str(i)
        chunk_fakes.play(out / "flow-success-toy", monkeypatch, methods=methods, timing=timing, **settings)
        with pytest.raises(SystemExit, match=r"with 'full_naive', which it names first.*--method full,"):
            groups_of(out)


def test_another_sampling_is_a_row_of_its_own(results, tmp_path, monkeypatch):
    import flow
    from comparison import successes

    for path in results.iterdir():
        (tmp_path / path.name).symlink_to(path)
    chunk_fakes.play(tmp_path / "flow-success-toy-10", monkeypatch, split="test", timing=False, methods=("full",),
                     euler_steps=10)  # fmt: skip
    groups = groups_of(tmp_path)
    assert [each.title for each in groups] == ["toy", "toy, jitter", "toy, 10 Euler steps"]
    rows = [line.split("|")[1].strip() for line in flow.gains(groups, tmp_path) if "| `full` |" in line]
    assert rows == ["toy", "toy, 10 Euler steps"]
    assert [line for line in successes(groups) if "toy, 10 Euler steps" in line]
    assert len(flow.model(groups, tmp_path)) == 2 + len(chunk_fakes.METHODS)  # untimed, and sampled otherwise


MS = {"full": 12.0, "flash": 6.0, "flow_hybrid": 5.0}


def timed(outcomes: dict[str, str], suite: str, **ms: float):
    """All episodes played, the first two of them timed."""
    few = {name: letters[:2] for name, letters in outcomes.items()}
    return group(run(few, suite=suite, timing=True, ms={**MS, **ms}), run(outcomes, suite=suite))


def bars(groups, tmp_path) -> dict[str, tuple[str, str]]:
    from targets import flow_targets

    lines = flow_targets(groups, tmp_path)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in lines
        if "`flow_hybrid`" in line or "shares" in line
    ]
    return {row[0]: (row[3], row[4]) for row in rows if len(row) == 5}


def test_bars_are_met_or_missed_by_their_own_numbers(tmp_path):
    even = {"full": "+" * 600, "flash": "+" * 600, "flow_hybrid": "+" * 600}
    met = bars([timed(even, "a"), timed(even, "b")], tmp_path)
    assert {outcome for _, outcome in met.values()} == {"met"}
    speed = met["`flow_hybrid`, speed-up per executed action"][0]
    assert speed.startswith("**2.40×")  # noqa: RUF001
    assert "a 2.40, b 2.40" in speed
    assert met["`flow_hybrid`, success to `full`"][0].endswith("1,200 pairs")
    slow = bars([timed(even, "a", flow_hybrid=7.0), timed(even, "b", flow_hybrid=7.0)], tmp_path)
    assert {outcome for _, outcome in slow.values()} == {"**missed**", "met"}
    assert slow["`flow_hybrid`, success to `full`"][1] == "met"
    few = bars([timed(dict.fromkeys(even, "+" * 100), "a")], tmp_path)
    assert few["`flow_hybrid`, success to `full`"][1] == "**missed**"
    worse = {**even, "flow_hybrid": "+" * 580 + "-" * 20}
    assert bars([timed(worse, "a"), timed(worse, "b")], tmp_path)["`flow_hybrid`, success to `full`"][1] == "**missed**"


def test_a_rival_that_solves_more_is_no_bar_and_one_that_solves_as_much_is(tmp_path):
    solves_more = {"full": "+" * 8 + "--", "flash": "+" * 10, "flow_hybrid": "+" * 9 + "-"}
    what = "`flow_hybrid` beside `flash`"
    told, outcome = bars([timed(solves_more, "a", flash=4.0)], tmp_path)[what]
    assert told.startswith("a: 2.40× to 3.00×, success -10.0 (")  # noqa: RUF001
    assert told.endswith(", not judged")
    assert outcome == "–"  # noqa: RUF001
    assert bars([timed({**solves_more, "flow_hybrid": "+" * 10}, "a", flash=4.0)], tmp_path)[what][1] == "**missed**"
    both = [timed(solves_more, "a", flash=4.0), timed(dict.fromkeys(MS, "+" * 10), "b")]
    told, outcome = bars(both, tmp_path)[what]
    assert [part.split(":")[0] for part in told.split("; ")] == ["a", "b", "**all 2 suites**"]
    assert outcome == "met"  # where it is judged: on b


def test_there_are_no_bars_before_every_suite_is_timed(tmp_path):
    even = dict.fromkeys(MS, "+" * 4)
    assert bars([timed(even, "a"), group(run(even, suite="b"))], tmp_path) == {}
    assert bars([group(run(even, suite="a"))], tmp_path) == {}


def test_the_cost_model_has_a_bar(results, tmp_path):
    from targets import flow_targets

    lines = flow_targets(groups_of(results), results)
    assert any("| 5 of 5 times | met |" in line for line in lines)
    (tmp_path / "rounds-other.json").write_text(json.dumps(chunk_fakes.bench("other", slower=1.25)))
    assert any("| 0 of 5 times | **missed** |" in line for line in flow_targets(groups_of(results), tmp_path))


def test_every_block_goes_between_its_markers_and_tokens_have_none(results, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("figures", BENCHMARKS / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results").symlink_to(results)
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "flow.md"
    tokens = ("results", "headline", "comparison", "targets", "plane", "comparison-details")
    readme.write_text(marked(*tokens))
    page.write_text(marked(*BLOCKS[1:]))
    with pytest.raises(SystemExit, match="no <!-- flow-targets -->"):
        figures.main()
    page.write_text(marked(*BLOCKS))
    figures.main()
    text = page.read_text()
    assert "\nold\n" not in text
    assert between(text, "flow-plane") == (
        "![toy: success over speed-up, every preset](figures/flow-speed_success-toy.svg)"
    )
    assert [path.name for path in (tmp_path / "docs" / "figures").iterdir()] == ["flow-speed_success-toy.svg"]
    assert between(text, "flow-comparison").count("| `flow_hybrid` |") == 1 + 1  # gains, successes
    assert [between(readme.read_text(), name) for name in tokens[1:]] == ["old"] * 5
    assert "flow-" not in between(readme.read_text(), "results")
