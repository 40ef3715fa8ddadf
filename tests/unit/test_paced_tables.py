"""Tables and pictures of runs in which the world does not wait, from result files."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import chunk_fakes
import pytest
import toy_world
from tables import between, cells, marked

from heisd.bench.charts_xy import Span, lines_svg
from heisd.bench.evaluate import evaluate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
A100, RTX4090, TORCH, TRITON = "openvla-7b-a100", "openvla-7b-rtx4090", "pi0-rtx4090d-torch", "pi0-rtx4090d-triton"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _path(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)


def play(out: Path, profile: str, *, chunks: bool = False, pace: dict | None = None, **changes) -> dict:
    methods, setting = (("full", "flow_hybrid"), chunk_fakes.setting()) if chunks else (("ar",), toy_world.setting())
    charged = {"latency_profile": profile, **(pace or {})}
    settings = {"methods": methods, "split": "test", "realtime": charged, **changes}
    return evaluate(toy_world.config(**settings), out, setting)


def read(results: Path):
    from paced import read_paced

    return read_paced(results)


def points(svg: Path) -> list[int]:
    """How many points each line of a picture has."""
    return [len(line.get("points").split()) for line in ET.parse(svg).getroot().iter(f"{SVG}polyline")]


def test_every_run_and_method_is_a_row(tmp_path):
    import paced

    result = play(tmp_path / "realtime-toy-torch", TORCH, chunks=True)
    play(tmp_path / "realtime-toy-a100", A100)
    play(tmp_path / "realtime-toy-moving4-a100", A100, condition="moving4", fresh=False, pace={"control_hz": 10})
    table = paced.paced(read(tmp_path))
    order = [[cell.strip() for cell in line.split("|")[2:5]] for line in table[2:6]]
    assert order == [
        ["shipped", A100, "`ar`"], ["moving4", f"{A100}, 10 Hz", "`ar`"], ["shipped", TORCH, "`full`"],
        ["shipped", TORCH, "`flow_hybrid`"],
    ]  # fmt: skip
    row, block = cells(table[:6], "`flow_hybrid`"), result["methods"]["flow_hybrid"]
    pace = block["realtime"]
    assert row["plain, ms"] == "58.0"
    assert row["success (95 %)"].startswith(f"{block['pc_success']:.1f} % (")
    assert row["n"] == "4"
    assert row["to the first method, points (95 %)"].startswith(f"{block['paired']['difference_points']:+.1f} (")
    assert row["stale actions"] == f"{100 * pace['stale_action_ratio']:.0f} %"
    assert row["action age, steps"] == f"{pace['mean_action_age_steps']:.1f}"
    assert row["new actions / s"] == f"{pace['effective_control_hz']:.1f}"
    assert row["deadlines missed"] == f"{100 * pace['deadline_misses']['share']:.0f} %"
    assert row["charged, ms"] == f"{pace['charged_ms']['mean']:.1f}"
    assert pace["stale_action_ratio"] > 0
    assert cells(table[:6], "`full`")["to the first method, points (95 %)"] == paced.interval(None, None, "")
    assert "pi0" in table[-1]


def test_a_picture_has_a_point_per_profile_and_a_line_per_method(tmp_path):
    import paced

    for profile in (TORCH, TRITON, "zero"):
        play(tmp_path / f"realtime-toy-{profile}", profile, chunks=True, episodes=2)
    for profile in (A100, RTX4090):
        play(tmp_path / f"realtime-toy-{profile}", profile, episodes=2)
    play(tmp_path / "realtime-toy-a100-more", A100, episodes=4)  # the longer of two equal runs counts
    play(tmp_path / "realtime-toy-a100-slow", A100, episodes=2, pace={"control_hz": 10})  # one profile is no line
    lines = paced.over_profiles(read(tmp_path), tmp_path / "figures")
    assert [re.findall(r"\((.*)\)$", line)[0] for line in lines] == [
        "figures/realtime-toy.svg", "figures/realtime-flow-toy.svg",
    ]  # fmt: skip
    tokens, chunks = tmp_path / "figures" / "realtime-toy.svg", tmp_path / "figures" / "realtime-flow-toy.svg"
    assert (points(tokens), points(chunks)) == ([2], [3, 3])
    told = [title.text for title in ET.parse(tokens).getroot().iter(f"{SVG}title")]
    assert [text.partition(" (")[0] for text in told] == ["ar, 179 ms: 0 % of 4", "ar, 300.1 ms: 0 % of 2"]
    assert "milliseconds of a full round" in chunks.read_text()
    names = {text.text for text in ET.parse(chunks).getroot().iter(f"{SVG}text")}
    assert {"full", "flow_hybrid"} <= names


def test_success_over_the_belts_speed_has_a_picture_and_a_table(tmp_path):
    import paced

    for name, condition in {"": "shipped", "-moving4": "moving4", "-moving8": "moving8", "-jitter": "jitter"}.items():
        play(tmp_path / f"realtime-toy{name}-a100", A100, condition=condition, episodes=2)
    play(tmp_path / "realtime-toy-moving8-zero", "zero", condition="moving8", episodes=4)
    lines = paced.on_the_belt(read(tmp_path), tmp_path / "figures")
    assert lines[0].endswith("(figures/belt-toy.svg)")
    assert points(tmp_path / "figures" / "belt-toy.svg") == [3, 1]
    assert lines[2].startswith("| toy | 0 cm/s | 4 cm/s | 8 cm/s |")
    row = cells(lines[2:], "ar · zero, 20 Hz, hold")
    assert (row["0 cm/s"], row["8 cm/s"].partition(" (")[0]) == ("–", "75 % of 4")  # noqa: RUF001
    standing = [run for run in read(tmp_path) if "moving" not in run.path.name]
    assert paced.on_the_belt(standing, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_pictures_of_one_title_are_two_files(tmp_path):
    import paced

    for tasks in ((0,), (1,)):
        for profile in (A100, RTX4090):
            play(tmp_path / f"realtime-toy-{tasks[0]}-{profile}", profile, tasks=tasks, episodes=2)
    shown = paced.over_profiles(read(tmp_path), tmp_path / "figures")
    assert [re.findall(r"\((.*)\)$", line)[0] for line in shown] == [
        "figures/realtime-toy.svg", "figures/realtime-toy-2.svg",
    ]  # fmt: skip


def test_what_did_wait_or_did_not_finish_is_no_row(tmp_path):
    import paced

    play(tmp_path / "realtime-toy", A100, episodes=2)
    path = tmp_path / "realtime-toy" / "eval_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "invalid_episodes"}))
    assert read(tmp_path) == []
    assert paced.paced([]) == paced.over_profiles([], tmp_path) == paced.on_the_belt([], tmp_path) == []
    evaluate(toy_world.config(episodes=2), tmp_path / "realtime-toy-waits", toy_world.setting())
    with pytest.raises(SystemExit, match="realtime-toy-waits is a run without --realtime"):
        read(tmp_path)


def test_every_block_goes_between_its_markers_and_the_table_of_plain_runs_has_none(tmp_path, monkeypatch):
    import figures

    for profile in (A100, RTX4090):
        play(tmp_path / "benchmarks" / "results" / f"realtime-toy-{profile}", profile, condition="moving2", episodes=2)
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "realtime.md"
    readme.write_text(marked("results"))
    page.write_text(marked("realtime", "belt"))
    with pytest.raises(SystemExit, match="no <!-- realtime-figures -->"):
        figures.main()
    page.write_text(marked("realtime", "realtime-figures", "belt"))
    figures.main()
    text = page.read_text()
    assert "\nold\n" not in text
    assert between(text, "realtime").count("| `ar` |") == 2
    assert between(text, "realtime-figures") == between(text, "realtime-figures").splitlines()[0]
    assert sorted(path.name for path in (tmp_path / "docs" / "figures").iterdir()) == [
        "belt-toy.svg", "realtime-toy-moving2.svg",
    ]  # fmt: skip
    assert "realtime" not in between(readme.read_text(), "results")


def test_a_legend_lies_under_the_axes_and_within_the_picture():
    line = [(0.0, Span(50.0, 40.0, 60.0), "a point")]
    names = [f"method {i} · a profile with a long name, 20 Hz, hold" for i in range(5)]
    plain, drawn = (
        lines_svg(dict.fromkeys(names, line), x_label="x", y_label="y", x_unit="", kind="k", has_legend=has_legend)
        for has_legend in (False, True)
    )
    heights = [float(re.findall(r'viewBox="0 0 960 ([\d.]+)"', svg)[0]) for svg in (plain, drawn)]
    assert heights[0] == 380
    keys = re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)">(method \d)', drawn)
    assert [name for *_, name in keys] == [f"method {i}" for i in range(5)]
    assert len({y for _, y, _ in keys}) > 1  # they do not fit in one row
    assert all(380 < float(y) < heights[1] and float(x) < 900 for x, y, _ in keys)
    assert "method 0" not in re.sub(r"<title>.*?</title>", "", plain)
