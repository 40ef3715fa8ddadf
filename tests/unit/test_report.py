"""The page: complete, self-contained, escaped; refused for anything but finished runs. Seen in a real browser."""

import re
import shutil
import subprocess
import xml.dom.minidom

import numpy as np
import pytest
from PIL import Image
from toy_world import config, observation, setting

from heisd.bench.charts import histogram_svg, interval_svg, stacked_svg
from heisd.bench.evaluate import evaluate
from heisd.bench.report import write_report
from heisd.bench.videos import render_frame
from heisd.errors import BadArtifact, BadInput

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


CONTROLS_PX = 150  # of a film's 352 rows, at its lower edge, that a browser's player may cover


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    evaluate(config(timing=True, videos=1), folder / "timed", setting())
    evaluate(config(condition="jitter"), folder / "plain", setting())
    return write_report([folder / "timed", folder / "plain"], folder / "page" / "report.html")


def test_the_page_is_self_contained(page):
    html = page.read_text()
    outside = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]{1,80})', html)
    assert outside
    assert all(url.startswith("data:") for url in outside)
    assert html.count("<video") == 3  # both films, and one of them again beside its timeline
    assert list(page.parent.iterdir()) == [page]


def test_it_shows_rates_failures_and_escapes_text(page):
    html = page.read_text()
    assert "75<small> %" in html
    assert "not solved" in html
    assert "reach &lt;the&gt; end" in html
    assert "<the>" not in html
    assert "full clock" in html
    assert "3 / 4" in html


def test_the_latency_section_says_when_nothing_was_timed(tmp_path):
    evaluate(config(), tmp_path / "run", setting())
    assert "Not measured in these runs" in write_report([tmp_path / "run"], tmp_path / "r.html").read_text()


def test_unfinished_and_foreign_directories_are_refused(tmp_path):
    with pytest.raises(BadInput, match="at least one"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(BadArtifact, match=r"holds no eval_info\.json"):
        write_report([tmp_path], tmp_path / "r.html")
    (tmp_path / "eval_info.json").write_text('{"other": 1}')
    with pytest.raises(BadArtifact, match="lacks"):
        write_report([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    "svg",
    [
        interval_svg(100.0, 72.2, 100.0),
        stacked_svg({"encode": 1.0, "decode <b>": 3.0}, scale_ms=4.0),
        histogram_svg([1.0, 2.0, 2.5, 90.0] * 100, unit="ms"),
        histogram_svg([0.0], unit="ms"),
    ],
)
def test_charts_are_well_formed(svg):
    xml.dom.minidom.parseString(svg)


@pytest.mark.parametrize("success", [None, True, False])
def test_nothing_is_written_where_a_players_controls_lie(success):
    seen = observation(0.5, 3)
    frame = render_frame(seen, np.ones(7), 3, "ar", success)
    assert frame.shape == (352, 512, 3)
    lower = frame[-CONTROLS_PX:-3, 3:-3]  # without the verdict's frame
    assert np.unique(lower.reshape(-1, 3), axis=0).tolist() == [[115, 115, 115]]  # the cameras' grey alone
    band = frame[:96].reshape(-1, 3)
    assert len(np.unique(band, axis=0)) > 20
    changed = [render_frame(seen, None, 3, "ar", success), render_frame(seen, np.ones(7), 4, "ar", success)]
    for other in changed:  # the action and the step are in the band and nowhere else
        rows = np.flatnonzero((other != frame).any(axis=(1, 2)))
        assert 0 < rows.min() <= rows.max() < 96


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install -y chromium)")
def test_a_browser_draws_it(page, tmp_path):
    shot = tmp_path / "shot.png"
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1100,1400", f"--screenshot={shot}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("RGB"), dtype=float)
    assert pixels.shape[1] == 1100
    # Paper in the margin, ink in the heading, colour in the intervals and films: not a blank or broken page.
    assert pixels[:20, :20].std() < 5
    assert pixels[40:160, 60:700].std() > 20
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
