"""Rollout films: two cameras side by side, enlarged, with task, step and action written above them.

Above, because browsers lay a player's controls over the lower edge.
"""

import logging
import textwrap
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from heisd.sim.splits import EpisodeStart
from heisd.types import FloatArray, ImageArray, Observation

log = logging.getLogger(__name__)

FPS = 20  # the control rate: films run in real time
_VIEW_PX, _BAND_PX, _HOLD_FRAMES = 256, 96, 16
_STATUS_TOP_PX = 46  # of the line with method, step and verdict
_INK, _PAPER, _QUIET = (240, 240, 236), (24, 26, 30), (150, 156, 164)
_SUCCESS, _FAILURE = (94, 201, 130), (240, 110, 96)


class Film:
    """Frames of one episode, kept small in memory until it is known whether they are wanted."""

    def __init__(self, rolling: bool) -> None:
        self._rolling = rolling
        self._frames: list[tuple[Observation, FloatArray | None, int]] = []

    def add(self, observation: Observation, action: FloatArray | None, step: int) -> None:
        """Remember one control step (``action`` None for the picture after the last one)."""
        if self._rolling:
            self._frames.append((observation, action, step))

    def save(self, run_dir: Path, method: str, start: EpisodeStart, success: bool) -> str | None:
        """Encode to ``videos/`` unless that task already has a film of this outcome; relative path or None."""
        outcome = "success" if success else "failure"
        relative = Path("videos") / f"{method}_task{start.task_index:02d}_{outcome}.mp4"
        target = run_dir / relative
        if not self._rolling or target.exists():
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{start.init_state or start.seed}.{target.name}")
        last = len(self._frames) - 1
        frames = [render_frame(*f, method, success if i == last else None) for i, f in enumerate(self._frames)]
        try:
            _encode(partial, frames)
            Image.fromarray(frames[-1]).save(poster_path(target), quality=80)
            partial.replace(target)
        except OSError as error:  # a film is a by-product: the episode counts without it
            log.warning("no film of %s: %s", start.key, error)
            return None
        finally:
            partial.unlink(missing_ok=True)
        return str(relative)


def render_frame(
    observation: Observation, action: FloatArray | None, step: int, method: str, success: bool | None
) -> ImageArray:
    """(352, 512, 3) u8: cameras in their order side by side, caption band above."""
    views = [Image.fromarray(image).resize((_VIEW_PX, _VIEW_PX), Image.Resampling.BICUBIC)
             for image in observation.images.values()]  # fmt: skip
    canvas = Image.new("RGB", (_VIEW_PX * max(len(views), 2), _VIEW_PX + _BAND_PX), _PAPER)
    for i, view in enumerate(views):
        canvas.paste(view, (i * _VIEW_PX, _BAND_PX))
    draw = ImageDraw.Draw(canvas)
    lines = textwrap.wrap(observation.instruction, 62)[:2]
    for i, line in enumerate(lines):
        draw.text((10, 6 + 17 * i), line, font=_font(14), fill=_INK)
    draw.text((10, _STATUS_TOP_PX), f"{method} · step {step} · {observation.time_s:.1f} s", font=_font(13), fill=_QUIET)
    if action is not None:
        _draw_action(draw, action, top=68)
    if success is not None:
        _draw_verdict(draw, success, canvas.size)
    return np.asarray(canvas)


def _draw_action(draw: ImageDraw.ImageDraw, action: FloatArray, top: int) -> None:
    """Seven small gauges: a bar to the right is positive, to the left negative; full width is 1."""
    for i, name in enumerate(("x", "y", "z", "rx", "ry", "rz", "grip")):
        left, width = 10 + i * 71, 64
        middle = left + width // 2
        end = middle + float(np.clip(action[i], -1, 1)) * width / 2
        draw.rectangle((left, top, left + width, top + 5), fill=(48, 52, 58))
        draw.rectangle((min(middle, end), top, max(middle, end), top + 5), fill=(108, 172, 255))
        draw.text((left, top + 7), name, font=_font(11), fill=_QUIET)


def _draw_verdict(draw: ImageDraw.ImageDraw, success: bool, size: tuple[int, int]) -> None:
    text, colour = ("success", _SUCCESS) if success else ("not solved", _FAILURE)
    right, bottom = size[0] - 1, size[1] - 1
    draw.text((right - 9, _STATUS_TOP_PX), text, font=_font(14), fill=colour, anchor="ra")
    draw.rectangle((0, _BAND_PX, right, bottom), outline=colour, width=3)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _encode(path: Path, frames: list[ImageArray]) -> None:
    """H.264, even sides, widely playable pixel format; the last frame is held for a moment."""
    writer: Any = imageio.get_writer(
        path,
        format="FFMPEG",
        fps=FPS,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=2,
        output_params=["-crf", "27", "-preset", "veryfast", "-movflags", "+faststart"],
        ffmpeg_log_level="error",
    )
    with writer:
        for frame in [*frames, *frames[-1:] * _HOLD_FRAMES]:
            writer.append_data(frame)


def poster_path(film: Path) -> Path:
    """Where the still picture of a film lies: its last frame, how things ended and the verdict."""
    return film.with_suffix(".jpg")
