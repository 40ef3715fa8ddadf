"""Success against the speed of the belt: every point from a result, nothing beside what cannot be compared."""

import re
import xml.dom.minidom
from pathlib import Path

import pytest
from toy_world import SETTING_PROVENANCE, config, setting, toy_world

from heisd.bench.evaluate import Setting, evaluate
from heisd.bench.report import write_report
from heisd.bench.report_belt import on_the_belt
from heisd.bench.report_run import Run, load_run


@pytest.fixture(autouse=True)
def _outside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def played(name: str, condition: str, **changes: object) -> Run:
    evaluate(config(condition=condition, **changes), Path(name), setting())
    return load_run(Path(name))


def test_a_line_per_method_and_profile_from_standing_to_fast() -> None:
    instant = {"latency_profile": "zero"}
    runs = [
        played("fast", "moving12", episodes=8),
        played("still", "shipped"),
        played("slow", "moving2"),
        played("charged", "moving2", realtime=instant),
        played("slower", "moving2", realtime={**instant, "control_hz": 10, "meanwhile": "stop"}),
    ]
    section = on_the_belt(runs)
    assert re.findall(r"<th class=\"\w*\">(.*?)</th>", section) == ["method and profile", "0 cm/s", "2 cm/s", "12 cm/s"]
    lines = re.findall(r'<tr><td class="">(.*?)</td>', section)
    assert lines == ["ar · the world waits", "ar · zero, 10 Hz, stop", "ar · zero, 20 Hz, hold"]
    drawing = section[section.index("<svg") :].split("</svg>")[0] + "</svg>"
    xml.dom.minidom.parseString(drawing)
    assert drawing.count("<polyline") == 3
    rate = runs[0].methods["ar"]["pc_success"]
    assert f"ar · the world waits, 12 cm/s: {rate:.0f} % of 8" in drawing
    # one line's points stand one below the other where success is lower, and from left to right as they were played
    xs = [float(pair.split(",")[0]) for pair in re.findall(r'points="(.*?)"', drawing)[0].split()]
    assert xs == sorted(xs)
    assert len(xs) == 3
    assert section in write_report([run.path for run in runs], Path("r.html")).read_text()


def test_of_equal_runs_the_longer_one_counts() -> None:
    runs = [played("short", "moving4", episodes=4), played("long", "moving4", episodes=8)]
    for order in (runs, runs[::-1]):
        assert "% of 8" in on_the_belt(order)
        assert "% of 4" not in on_the_belt(order)


def test_other_tasks_and_other_scenes_are_no_point_of_the_line() -> None:
    still = played("still", "shipped", tasks=(0,), episodes=2)
    moved = [played("moved", "moving4"), played("jitter", "jitter")]
    assert "0 cm/s (" not in on_the_belt([still, *moved])
    assert re.findall(r"(\d+) cm/s</th>", on_the_belt([still, *moved])) == ["4"]


def test_another_drafter_is_a_line_of_its_own() -> None:
    def exact(name: str, condition: str, drafter: str) -> Run:
        calibration = {"exact": "c" * 64, "hybrid": drafter * 64}  # what it says to others makes no line
        provenance = {**SETTING_PROVENANCE, "assets": {"parallel": drafter * 64, "calibration": calibration}}
        evaluate(config(methods=("ar", "exact"), condition=condition), Path(name), Setting(2, toy_world, provenance))
        return load_run(Path(name))

    runs = [exact("still", "shipped", "a"), exact("slow", "moving2", "a"), exact("fast", "moving8", "a")]
    named = r'<tr><td class="">(.*?)</td>'
    assert re.findall(named, on_the_belt(runs)) == ["ar · the world waits", "exact · the world waits"]
    section = on_the_belt([*runs, exact("retrained", "moving8", "b")])
    assert re.findall(named, section) == ["ar · the world waits", *(
        f"exact · the world waits, parallel {drafter * 8}, calibration cccccccc" for drafter in "ab"
    )]  # fmt: skip
    assert section.count("<polyline") == 3  # plain decoding reads no drafter


def test_standing_targets_have_no_section() -> None:
    assert on_the_belt([played("still", "shipped"), played("jitter", "jitter")]) == ""
