"""Rounds in results: an evaluation of a chunk policy, its accounting per executed action, its page."""

import re
from pathlib import Path
from typing import Any

import pytest
import toy_world
from chunk_fakes import play, setting

from heisd.bench.charts_timeline import timeline_svg
from heisd.bench.evaluate import evaluate
from heisd.bench.merge import merge
from heisd.bench.report import write_report
from heisd.bench.results import EpisodeTimeline, RunDirectory
from heisd.config import RealtimeConfig


@pytest.fixture(name="result")
def _result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return play(tmp_path / "run", monkeypatch, methods=("full", "flash"), videos=1, tasks=(0,), episodes=2)


def test_every_executed_action_counts_and_a_rejection_is_inside(result: dict[str, Any]) -> None:
    full, flash = (result["methods"][name] for name in ("full", "flash"))
    n = full["ms_per_action"]["n"]
    assert n == flash["ms_per_action"]["n"] == 2 * 10  # ten steps of 0.1 reach the end
    assert full["ms_per_action"]["mean"] == pytest.approx((3 * 16 + 7 * 0.25) / 10)
    assert flash["ms_per_action"]["mean"] == pytest.approx((16 + 8 + 19.75 + 7 * 0.25) / 10)
    assert flash["speedup_vs_baseline"]["ratio"] == pytest.approx((3 * 16 + 7 * 0.25) / (16 + 8 + 19.75 + 7 * 0.25))
    rounds = flash["speculation"]["rounds"]
    assert {kind: (row["n"], row["ms"]) for kind, row in rounds["kinds"].items()} == {
        "full": (2, 16.0), "speculate": (2, 8.0), "rejected": (2, 19.75), "in hand": (14, 0.25),
    }  # fmt: skip
    assert rounds["acceptance"]["histogram"] == {"0": 2, "4": 2}
    assert rounds["accepted_by_source"] == {"draft_head": 8}
    assert flash["speculation"]["lm_forwards_per_action"] == pytest.approx(2 / 10)
    assert full["speculation"]["rounds"]["actions_per_round"] == pytest.approx(10 / 3)
    tokens = flash["speculation"]
    assert (tokens["relaxed"], tokens["decoded"], tokens["skipped"]) == (2 * 4 * 7, 2 * 6 * 7, 0)


def test_steps_with_an_action_in_hand_are_not_called_skipped(result: dict[str, Any]) -> None:
    for block in result["methods"]["flash"]["speculation"]["by_motion"].values():
        assert block["skipped_share"] == 0.0


@pytest.mark.usefixtures("result")
def test_a_film_shows_where_each_action_came_from(tmp_path: Path) -> None:
    filmed = [r for r in RunDirectory(tmp_path / "run").records() if r.timeline and r.method == "flash"]
    assert "".join(filmed[0].timeline.route) == "FFFFVVVVFF"


def test_in_real_time_a_round_is_charged_and_an_action_in_hand_is_not(tmp_path: Path) -> None:
    pace = RealtimeConfig(latency_profile="pi0-rtx4090d-triton")
    config = toy_world.config(methods=("full",), tasks=(0,), episodes=1, realtime=pace)
    result = evaluate(config, tmp_path / "run", setting())
    round_ms = 39.7
    (played,) = RunDirectory(tmp_path / "run").records()
    assert played.realtime is not None
    assert played.realtime.charged_ms[:9] == pytest.approx([round_ms, 0, 0, 0, round_ms, 0, 0, 0, round_ms])
    block = result["methods"]["full"]["realtime"]
    # The robot waits for the first answer alone: a later round's last step is still under way while it is denoised.
    assert block["n_control_steps"] - block["n_new_actions"] == 1
    assert "When the world does not wait" in write_report([tmp_path / "run"], tmp_path / "report.html").read_text()


def test_merged_shards_have_the_rounds_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def shard_of(name: str, shard: str | None) -> dict[str, Any]:
        config = toy_world.config(methods=("full", "flash"), shard=shard)
        return evaluate(config, tmp_path / name, setting())

    whole = shard_of("whole", None)
    parts = [shard_of(f"shard{i}", f"{i}/2") for i in (1, 2)]
    merged = merge([tmp_path / "shard1", tmp_path / "shard2"], tmp_path / "merged")
    for method in ("full", "flash"):
        rounds = [result["methods"][method]["speculation"]["rounds"] for result in (merged, whole, *parts)]
        assert rounds[0] == rounds[1]
        assert rounds[0]["n"] == rounds[2]["n"] + rounds[3]["n"]


def test_a_long_accepted_draft_stays_within_its_row_of_the_timeline() -> None:
    timeline = EpisodeTimeline(
        route=["V"], reason=["always"], score=[None], speed_mm=[1.0], fused=[None], gripper=[-1.0], phase=["approach"],
        n_accepted=[12],
    )  # fmt: skip
    (height,) = re.findall(r'class="bar"[^>]*height="([\d.]+)"', timeline_svg(timeline))
    assert float(height) <= 34


@pytest.mark.usefixtures("result")
def test_the_page_has_the_rounds(tmp_path: Path) -> None:
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert "Rounds of chunks" in page
    assert "rejected" in page


def test_token_policies_have_no_rounds(tmp_path: Path) -> None:
    config = toy_world.config(episodes=1)
    result = evaluate(config, tmp_path / "run", toy_world.setting())
    assert "rounds" not in result["methods"]["ar"]["speculation"]
    assert "Rounds of chunks" not in write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
