"""What the report says about speculation: every figure from the results, nothing where nothing was measured."""

import json
import re
import xml.dom.minidom
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from report_fakes import METHODS, play
from toy_world import config, setting

from heisd.bench import report_calibration, report_speculation
from heisd.bench.charts import positions_svg
from heisd.bench.charts_timeline import timeline_svg
from heisd.bench.charts_xy import Axes, PlanePoint, Span, calibration_svg, cdf_svg, plane_svg, ticks
from heisd.bench.evaluate import evaluate
from heisd.bench.motion import route_letter
from heisd.bench.report import write_report
from heisd.bench.report_films import most_telling
from heisd.bench.report_run import load_run, percent_text, table_html
from heisd.bench.report_speed import comparable, plane
from heisd.bench.results import EpisodeTimeline, RunDirectory
from heisd.bench.speculation import SpeculationCounts
from heisd.kinematics.defaults import LIBERO as ONLOOKER
from heisd.presets.assets import deciding_hash
from heisd.presets.calibration import Calibration, SkipSetting
from heisd.route.calibrated import SkipScore
from heisd.types import StepRecord

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        play(folder / "run", patch)
    return folder / "run"


@pytest.fixture(scope="module")
def html(run):
    return write_report([run], run.parent / "report.html").read_text()


def drawings(html):
    return [xml.dom.minidom.parseString(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_every_drawing_is_well_formed_and_finite(html):
    assert len(drawings(html)) > 20
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert "nan" not in re.sub(r"<title>.*?</title>", "", drawing).lower()


def test_the_plane_shows_each_timed_method_beside_the_baseline(html):
    drawn = html[html.index('class="xy plane"') :].split("</svg>")[0]
    titles = re.findall(r"<title>(.*?)</title>", drawn)
    assert [title.split(":")[0] for title in titles] == list(METHODS)
    assert "exact: 1.60x (1.60 to 1.60), 75.0 %" in drawn  # 16 ms over 10 ms
    assert drawn.count('class="base"') == 1


def test_untimed_runs_have_no_plane_and_no_distribution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    play(tmp_path / "run", monkeypatch, timing=False, videos=0)
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert "Speed and success" not in page
    assert 'class="xy cdf"' not in page
    assert "Which guesses are kept" in page  # counts need no clock
    assert "One episode, step by step" not in page
    assert "not timed" in page


def test_speed_of_one_run_stands_beside_success_of_another_only_under_equal_conditions(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    play(tmp_path / "more", monkeypatch, timing=False, episodes=16, videos=0)
    play(tmp_path / "other", monkeypatch, timing=False, episodes=16, videos=0, condition="jitter")
    timed, more, other = (load_run(path) for path in (run, tmp_path / "more", tmp_path / "other"))
    assert [len(group) for group in comparable([timed, more, other])] == [2, 1]
    drawn = plane([timed, more, other])
    assert drawn.count("<h3>") == 1
    assert "success over 16 episodes, speed over" in drawn


def test_acceptance_by_token_is_what_was_counted(html):
    section = html[html.index("Which guesses are kept") :]
    assert "x: " in section
    kept = re.findall(r"<title>(\w+): (\d+) of (\d+) judged", section.split("</svg>")[0])
    assert [name for name, *_ in kept] == ["x", "y", "z", "rx", "ry"]  # four kept, the fifth judged and refused
    assert all(k == n for _, k, n in kept[:4])
    assert kept[4][1] == "0"


def test_routes_origins_and_motion_are_tabled(html):
    section = html[html.index("Where actions come from") :]
    assert '<td class="">skip</td><td class="">tolerant motion</td>' in section
    assert section.index("<h3>Routes</h3>") < section.index("tolerant motion")
    assert "validation · ar</td><td" not in section.split("By kind of motion")[0].split("<h3>Routes</h3>")[1]
    motion = section[section.index("By kind of motion") :]
    assert "approach" in motion
    assert "grasp" in motion


def test_sums_by_motion_add_up_to_the_whole(run):
    result = json.loads((run / "eval_info.json").read_text())
    for name in METHODS:
        block = result["methods"][name]
        parts = block["speculation"]["by_motion"].values()
        n_steps = block["ms_per_action"]["n"]
        assert sum(part["n"] for part in parts) == n_steps
        assert sum(part["share"] for part in parts) == pytest.approx(1)
        time_ms = sum(part["n"] * part["ms_per_action"] for part in parts)
        assert time_ms == pytest.approx(n_steps * block["ms_per_action"]["mean"], rel=1e-4)
        forwards = sum(part["n"] * part["lm_forwards_per_action"] for part in parts)
        assert forwards == pytest.approx(n_steps * block["speculation"]["lm_forwards_per_action"])
    assert result["methods"]["ar"]["speculation"]["by_motion"]["approach"]["speedup_vs_baseline"] is None
    assert result["methods"]["exact"]["speculation"]["by_motion"]["grasp"]["speedup_vs_baseline"] == pytest.approx(1.6)


def test_times_by_motion_exist_only_in_timed_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = play(tmp_path / "run", monkeypatch, timing=False, videos=0)
    for part in result["methods"]["hybrid"]["speculation"]["by_motion"].values():
        assert part["ms_per_action"] is None
        assert part["skipped_share"] > 0


def test_timelines_are_kept_for_films_alone_and_read_back(run):
    records = RunDirectory(run).records()
    assert all((record.timeline is not None) == (record.video is not None) for record in records)
    filmed = next(r for r in records if r.method == "hybrid" and r.video)
    line = filmed.timeline
    assert isinstance(line, EpisodeTimeline)
    columns = (
        line.route,
        line.reason,
        line.score,
        line.speed_mm,
        line.fused,
        line.gripper,
        line.phase,
        line.n_accepted,
        line.fineness,
        line.angular_jerk,
        line.complexity,
    )
    assert {len(column) for column in columns} == {filmed.n_steps}
    assert line.route[:2] == ["S", "V"]
    assert line.reason[:2] == ["tolerant motion", "score below threshold"]
    assert line.n_accepted[:2] == [0, 4]
    assert line.speed_mm[0] is None  # one pose has no speed
    assert line.fused[1] is None
    assert line.gripper[:5] == [-1.0, -1.0, -1.0, -1.0, 1.0]
    assert line.phase[4] == "approach"  # the command given at this step shows at the next one
    assert line.phase[5] == "grasp"


def test_a_speculation_without_guesses_is_plain_decoding():
    assert route_letter(StepRecord(0, 1.0, {}, 7, {"decoded": 7})) == "F"
    assert route_letter(StepRecord(0, 1.0, {}, 7, {"decoded": 7}, verifications=((0, 0),))) == "V"
    assert route_letter(StepRecord(0, 1.0, {}, 0, {"skipped": 7})) == "S"


def test_the_timeline_of_the_method_that_skips_is_shown_with_its_film(run, html):
    chosen = most_telling(load_run(run))
    assert chosen is not None
    assert chosen.method == "hybrid"
    section = html[html.index("One episode, step by step") : html.index("<h2>Films</h2>")]
    assert section.count("<video") == 1
    assert f"step {chosen.n_steps - 1}: " in section
    assert "skipped (tolerant motion); score 0.93; 0 guesses kept; grasp" in section


def test_a_timeline_without_any_reading_is_drawn():
    line = EpisodeTimeline(["F"], ["<always>"], [None], [None], [None], [None], ["approach"], [0])
    xml.dom.minidom.parseString(timeline_svg(line))
    assert "unknown mm per step, F unknown" in timeline_svg(line)
    assert "&lt;always&gt;" in timeline_svg(line)


def test_further_readings_are_drawn_only_where_there_are_any():
    bare = EpisodeTimeline(
        ["F"] * 2, ["always"] * 2, [None] * 2, [1.0] * 2, [0.5] * 2, [1.0] * 2, ["approach"] * 2, [0] * 2
    )
    rich = replace(bare, score=[None, 12.0], fineness=[0.4, None], angular_jerk=[None, 2.0], complexity=[0.8, 0.9])
    plain, drawn = timeline_svg(bare), timeline_svg(rich)
    xml.dom.minidom.parseString(drawn)
    for label in ("fineness", "jerk", "picture", "score"):
        assert f">{label}</text>" in drawn
        assert f">{label}</text>" not in plain
    assert ">12</text>" in drawn  # the largest value, beside its curve
    assert drawn.count("<polyline") == plain.count("<polyline") + 4


def test_results_of_older_versions_still_make_a_page(tmp_path):
    committed = sorted(RESULTS.glob("*/eval_info.json"))
    runs = [path.parent for path in committed if '"by_motion"' not in path.read_text()]  # newer ones have it
    assert len(runs) >= 4
    page = write_report(runs, tmp_path / "r.html").read_text()
    for absent in ("Speed and success", "One episode, step by step", "Which guesses are kept", "By kind of motion"):
        assert absent not in page
    assert "Where actions come from" in page


def test_older_episode_lines_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(config(), tmp_path / "run", setting())
    path = tmp_path / "run" / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["timeline"], line["speculation"]["motion"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = RunDirectory(tmp_path / "run").records()
    assert all(record.timeline is None for record in records)
    counts = SpeculationCounts.total([record.speculation for record in records])
    assert counts.block({}, 0)["by_motion"] == {}


@pytest.mark.parametrize("route", ["speculate/always", "full/always"])  # of older results and of newer ones
def test_a_method_that_decides_nothing_has_no_table_of_routes(route):
    alone = {"routes": {route: {"n": 9, "share": 1.0}}}
    assert report_speculation._route_rows(alone) == []
    paused = {"routes": {route: {"n": 9, "share": 0.9}, "full/does not pay": {"n": 1, "share": 0.1}}}
    assert [row[:3] for row in report_speculation._route_rows(paused)] == [
        [*route.split("/"), "9"],
        ["full", "does not pay", "1"],
    ]


def calibration(tmp_path, preset="hybrid", **changes):
    score = SkipScore(names=("similarity",), mean=(0.0,), scale=(1.0,), weight=(1.0,), bias=0.0)
    curve = [
        {"score": 0.05, "good": 0.0, "n": 12},
        {"score": 0.95, "good": 0.9, "n": 100},
        {"score": 1, "good": 0, "n": 0},
    ]
    rungs = [{"n_skips": 1, "threshold": 0.9, "passes": True, "ci95": [-1.0, 2.5]}]
    skip = SkipSetting(score=score, threshold=0.8, n_skips=2, evidence={"curve": curve, "rungs": rungs} | changes)
    ranges = ONLOOKER.as_dict()
    file = Calibration(
        suite="toy", policy_hash="0" * 64, motion_paper=ranges, motion_code=ranges, kalman_process=(1.0,) * 7,
        kalman_measurement=(1.0,) * 7, adaptive_similarity=0.9, skips={preset: skip},
    )  # fmt: skip
    file.save(tmp_path / report_calibration.BESIDE_RUN)
    return tmp_path


def test_a_calibration_beside_the_run_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    play(tmp_path / "run", monkeypatch, videos=0)
    calibration(tmp_path / "run")
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    section = page[page.index("Calibration of skips") :]
    assert "score 0.95: 90 % good of 100" in section
    assert "skips from 0.8 on" in section
    assert section.split("</svg>")[0].count("<circle") == 2  # the tenth without a step has no dot
    assert "-1 to 2.5" in section
    assert "yes" in section


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"curve": []}, "no held-out curve"),
        ({"curve": None, "score": {"curve": [{"mean_score": 0.5, "share_good": 0.5, "n": 10}]}}, "50 % good of 10"),
    ],
)
def test_evidence_may_lack_a_curve_or_hold_it_one_level_below(tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    play(tmp_path / "run", monkeypatch, videos=0)
    calibration(tmp_path / "run", **changes)
    assert said in write_report([tmp_path / "run"], tmp_path / "r.html").read_text()


def test_a_calibration_of_another_policy_or_another_day_is_not_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    play(tmp_path / "run", monkeypatch, videos=0)
    calibration(tmp_path / "run")
    path = tmp_path / "run" / "eval_info.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "policy": {"sha256": "1" * 64}}))
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert "no calibration to show" in page
    assert 'class="xy reliability"' not in page
    path.write_text(json.dumps({**result, "calibration": {"sha256": "2" * 64}}))
    assert "was made anew after this run" in write_report([tmp_path / "run"], tmp_path / "r.html").read_text()


def test_a_late_chunks_calibration_is_that_of_the_preset_that_waits(tmp_path, monkeypatch):
    """Its result names no file, but what the file said to it."""
    monkeypatch.chdir(tmp_path)
    play(tmp_path / "run", monkeypatch, videos=0, methods=("full", "flow_hybrid_rtc"))
    file = calibration(tmp_path / "run", "flow_hybrid") / report_calibration.BESIDE_RUN
    path = tmp_path / "run" / "eval_info.json"
    result = json.loads(path.read_text())

    def page(sha256):
        path.write_text(json.dumps({**result, "assets": {"calibration": {"flow_hybrid_rtc": sha256}}}))
        return write_report([tmp_path / "run"], tmp_path / "r.html").read_text()

    assert "score 0.95: 90 % good of 100" in page(deciding_hash(file, "flow_hybrid_rtc"))
    assert "was made anew after this run" in page("2" * 64)


def test_runs_without_a_calibration_say_nothing_about_it(html, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(config(), tmp_path / "run", setting())
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert "Calibration of skips" not in page + html


def test_many_methods_are_folded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("ar", "exact", "hybrid", "rt_cache")
    play(tmp_path / "run", monkeypatch, methods=names, videos=0)
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert page.count("each of 4 methods</summary>") == 2


POINT = PlanePoint("a <b>", Span(1.5, 1.4, 1.6), Span(90, 80, 95), "n")


@pytest.mark.parametrize(
    "svg",
    [
        plane_svg([POINT]),
        plane_svg([PlanePoint("ar", Span(1, 1, 1), Span(100, 100, 100), "", is_baseline=True)]),
        cdf_svg({"a <b>": [0.0], "b": [1.0, 2.0, 500.0]}),
        cdf_svg({"a": [0.0]}),
        calibration_svg([(0.5, Span(50, 40, 60), 10)], threshold=0.5),
        calibration_svg([], threshold=2.0),
        positions_svg([{"judged": 0, "kept": 0}] * 7),
        positions_svg([]),
    ],
)
def test_charts_are_well_formed_at_the_edges(svg):
    xml.dom.minidom.parseString(svg)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.8, 4.1), (0, 2.5e-3), (13, 9_000), (-5, 5)])
def test_ticks_are_round_few_and_inside(low, high):
    marks = ticks(low, high, count=5)
    assert 2 <= len(marks) <= 6
    assert low - 1e-9 <= marks[0] < marks[-1] <= high + 1e-9
    steps = [b - a for a, b in pairwise(marks)]
    assert all(step == pytest.approx(steps[0]) for step in steps)


def test_axes_clip_and_point_upwards():
    axes = Axes((0, 10), (0, 100))
    assert axes.left(-5) == axes.left(0) < axes.left(5) < axes.left(10) == axes.left(11)
    assert axes.top(100) < axes.top(50) < axes.top(0)


def test_a_cdf_ends_where_its_frame_ends():
    drawn = cdf_svg({"quick": [1.0] * 99 + [2.0], "slow": [100.0] * 2000})
    points = [tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]*)"', drawn)[0].split()]
    assert all(b[0] >= a[0] and b[1] <= a[1] for a, b in pairwise(points))


def test_labels_of_methods_at_one_place_do_not_cover_each_other():
    drawn = plane_svg([PlanePoint(str(i), Span(1.5, 1.4, 1.6), Span(90, 80, 95), "") for i in range(5)])
    tops = sorted(float(y) for y in re.findall(r'class="name" x="[^"]*" y="([^"]*)"', drawn))
    assert all(b - a >= 14.9 for a, b in pairwise(tops))


def test_small_shares_never_read_as_nothing():
    assert [percent_text(v) for v in (0.0, 0.001, 0.006, 1.0)] == ["0 %", "<1 %", "1 %", "100 %"]
    assert "&lt;b&gt;" in table_html(["h"], [["<b>"]])
