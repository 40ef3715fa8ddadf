"""The report's films: all of them side by side, and one episode of every run step by step."""

import base64
from collections.abc import Sequence
from html import escape

from heisd.bench.charts_timeline import LEFT_PX, RIGHT_PX, WIDTH_PX, timeline_legend, timeline_svg
from heisd.bench.motion import SKIPPED
from heisd.bench.report_run import Run
from heisd.bench.results import EpisodeRecord
from heisd.bench.videos import FPS, poster_path

# Keeps the line in the picture on the frame that is shown; a click goes to that step.
_SCRIPT = f"""<script>
for (const box of document.querySelectorAll(".timeline")) {{
  const film = box.querySelector("video"), svg = box.querySelector("svg.steps"), n = Number(box.dataset.steps);
  const line = svg.querySelector(".playhead");
  const follow = () => {{  // after every frame that is shown, where the browser tells; else a few times a second
    const step = Math.min(film.currentTime * {FPS}, n);
    const x = {LEFT_PX} + ({WIDTH_PX} - {LEFT_PX} - {RIGHT_PX}) * step / n;
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    film.requestVideoFrameCallback?.(follow);
  }};
  if (film) {{
    const once = "requestVideoFrameCallback" in film;
    film.addEventListener("timeupdate", follow, {{ once }});
  }}
  svg.addEventListener("click", (event) => {{
    const frame = svg.getBoundingClientRect(), x = (event.clientX - frame.left) / frame.width * {WIDTH_PX};
    const share = (x - {LEFT_PX}) / ({WIDTH_PX} - {LEFT_PX} - {RIGHT_PX});
    if (film && share >= 0) film.currentTime = Math.min(share, 1) * n / {FPS};
  }});
}}
</script>"""


def films(runs: Sequence[Run]) -> str:
    """Section: every film, failures first; empty when nothing was filmed."""
    filmed = [(run, record) for run in runs for record in run.records if record.video]
    filmed.sort(key=lambda pair: (pair[1].success, pair[1].suite, pair[1].task_index))  # failures first
    if not filmed:
        return ""
    figures = "".join(f"<figure>{_video(run, record)}{_caption(record)}</figure>" for run, record in filmed)
    return (
        "<h2>Films</h2><p class='lead'>In real time: both cameras as the policy sees them, enlarged, with the step and "
        "the action it chose. The first failure of every task is shown as well, if there was one.</p>"
        f'<div class="films">{figures}</div>'
    )


def timelines(runs: Sequence[Run]) -> str:
    """Section: of every run the filmed episode with the most varied routes; empty for runs without timelines."""
    chosen = [(run, record) for run in runs if (record := most_telling(run)) is not None]
    if not chosen:
        return ""
    figures = "".join(
        f'<figure class="timeline" data-steps="{record.n_steps}"><div>{_video(run, record)}{_caption(record)}</div>'
        f"<div>{timeline_svg(record.timeline)}{timeline_legend(record.timeline)}</div></figure>"
        for run, record in chosen
        if record.timeline is not None
    )
    return (
        "<h2>One episode, step by step</h2><p class='lead'>How each action came about, over what the hand was doing. "
        "Hover over a step for the reason; click to go there in the film. F is HeiSD's measure of large, smooth "
        f"motion, here with one set of ranges for all methods.</p>{figures}{_SCRIPT}"
    )


def most_telling(run: Run) -> EpisodeRecord | None:
    """The filmed episode with the most to see: skips, then other routes, an earlier method, a success. Or None."""
    order = list(run.methods)
    filmed = [record for record in run.records if record.video and record.timeline and record.timeline.route]

    def variety(record: EpisodeRecord) -> tuple[bool, int, int, bool]:
        assert record.timeline is not None
        routes = set(record.timeline.route)
        return SKIPPED in routes, len(routes), -order.index(record.method), record.success

    return max(filmed, key=variety, default=None)


def _video(run: Run, record: EpisodeRecord) -> str:
    assert record.video is not None
    path = run.path / record.video
    if not (path.is_file() and poster_path(path).is_file()):
        return f'<p class="quiet gone">{escape(record.video)} is no longer there</p>'
    film, poster = (base64.b64encode(data).decode() for data in (path.read_bytes(), poster_path(path).read_bytes()))
    return (
        "<video controls autoplay muted loop playsinline "
        f'poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{film}"></video>'
    )


def _caption(record: EpisodeRecord) -> str:
    verdict = (
        '<span class="verdict good">solved</span>' if record.success else '<span class="verdict bad">not solved</span>'
    )
    return (
        f'<figcaption><span class="what">{escape(record.instruction)}</span>{verdict}'
        f'<span class="quiet"> after {record.n_steps} steps · {escape(record.suite)} task {record.task_index} · '
        f"{escape(record.method)}</span></figcaption>"
    )
