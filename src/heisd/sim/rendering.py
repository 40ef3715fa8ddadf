"""Pictures of a robosuite simulation: as published, or several times faster from the same poses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from heisd.errors import BadInput, UnknownName
from heisd.sim.gl import GlBackend
from heisd.sim.light_model import light_copy
from heisd.types import ImageArray

CAMERAS: dict[str, str] = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # ours -> MuJoCo's


_SUPERSAMPLING = 2  # smooth edges for less than multisampling costs in software OpenGL
# All that a picture depends on and that moves: what MuJoCo's mjv_updateScene reads of mjData here.
_MOVING = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")


class Rendering(StrEnum):
    """How observations are drawn."""

    FAST = "fast"
    STOCK = "stock"
    NONE = "none"  # physics only: observations carry no images


FAST, STOCK, NONE = Rendering.FAST, Rendering.STOCK, Rendering.NONE


def parse_rendering(name: str) -> Rendering:
    """``"fast"`` -> FAST, or UnknownName."""
    try:
        return Rendering(name)
    except ValueError:
        raise UnknownName("rendering", name, [r.value for r in Rendering]) from None


class LatePictures(Mapping[str, ImageArray]):
    """Pictures of one instant that are drawn when they are first read; sent to another process they are drawn ones."""

    def __init__(self, cameras: Sequence[str], draw: Callable[[str], ImageArray]) -> None:
        self._cameras, self._draw = tuple(cameras), draw
        self._drawn: dict[str, ImageArray] = {}

    def __getitem__(self, camera: str) -> ImageArray:
        if camera not in self._drawn:
            if camera not in self._cameras:
                raise KeyError(camera)
            self._drawn[camera] = self._draw(camera)
        return self._drawn[camera]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def draw(images: Mapping[str, ImageArray]) -> None:
    """Draw what has not been drawn yet: before a clock starts that is not the renderer's."""
    if isinstance(images, LatePictures):
        dict(images)


class Renderer(Protocol):
    """Draws the current state of one simulation."""

    def render(self) -> Mapping[str, ImageArray]:
        """Camera name -> (size, size, 3) u8 RGB, rotated by 180 degrees as OpenVLA feeds them."""

    def late(self) -> Mapping[str, ImageArray]:
        """The same pictures, drawn when they are read."""

    def close(self) -> None:
        """Free the OpenGL resources."""


class StockRenderer:
    """robosuite's own off-screen context, exactly as ``OffScreenRenderEnv`` uses it."""

    def __init__(self, sim: Any, cameras: Sequence[str], size: int) -> None:
        self._sim, self._cameras, self._size = sim, cameras, size

    def render(self) -> dict[str, ImageArray]:
        """See :class:`Renderer`."""
        self._sim._render_context_offscreen.gl_ctx.make_current()  # robosuite leaves another environment's current
        return {
            name: _upright(self._sim.render(self._size, self._size, camera_name=CAMERAS[name]))
            for name in self._cameras
        }

    def late(self) -> dict[str, ImageArray]:
        """Drawn at once: robosuite draws what its simulation is in."""
        return self.render()

    def close(self) -> None:
        """Nothing to free: the context belongs to the simulation."""


class FastRenderer:
    """Own small context without shadows, reflections and multisampling, on a copy of the model."""

    def __init__(self, backend: GlBackend, sim: Any, cameras: Sequence[str], size: int) -> None:
        import mujoco

        drawn = size * _SUPERSAMPLING
        self._mujoco = mujoco
        self._data = sim.data._data
        self._live_model = sim.model._model
        self._model = light_copy(self._live_model, drawn)
        self._gl = backend.context(drawn, drawn)
        self._gl.make_current()
        self._scene = mujoco.MjvScene(self._model, maxgeom=1000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # group 0 holds the collision geometry
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, drawn, drawn)
        self._camera_ids = {name: self._model.camera(CAMERAS[name]).id for name in cameras}
        self._pixels = np.empty((drawn, drawn, 3), dtype=np.uint8)
        self._posed = mujoco.MjData(self._live_model)  # an earlier instant, to be drawn late
        self._is_open = True

    def render(self) -> dict[str, ImageArray]:
        """See :class:`Renderer`."""
        return {name: self._draw(name, self._data) for name in self._camera_ids}

    def late(self) -> LatePictures:
        """See :class:`Renderer`; the instant is kept (some tens of kilobytes), whatever the simulation does next."""
        instant = [getattr(self._data, name).copy() for name in _MOVING]
        return LatePictures(tuple(self._camera_ids), lambda camera: self._draw_of(instant, camera))

    def _draw_of(self, instant: Sequence[np.ndarray[Any, Any]], camera: str) -> ImageArray:
        if not self._is_open:
            raise BadInput("a picture was to be drawn after its environment was closed: read observation.images before")
        for name, values in zip(_MOVING, instant, strict=True):
            getattr(self._posed, name)[:] = values
        return self._draw(camera, self._posed)

    def _draw(self, camera: str, data: Any) -> ImageArray:
        mujoco = self._mujoco
        self._gl.make_current()
        self._camera.fixedcamid = self._camera_ids[camera]
        mujoco.mjv_updateScene(
            self._live_model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return _upright(_shrink(self._pixels))

    def close(self) -> None:
        """Free the context; the renderer cannot be used afterwards."""
        self._is_open = False
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _upright(pixels: ImageArray) -> ImageArray:
    """OpenGL's bottom-up rows rotated by 180 degrees, the convention of the released policies."""
    return np.ascontiguousarray(pixels[::-1, ::-1])


def _shrink(pixels: ImageArray) -> ImageArray:
    """Mean over 2 x 2 blocks, rounded."""
    wide = pixels.astype(np.uint16)
    rows = wide[0::2] + wide[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)


def make_renderer(
    rendering: Rendering, backend: GlBackend | None, sim: Any, cameras: Sequence[str], size: int
) -> Renderer | None:
    """The renderer for a mode; None for NONE."""
    unknown = [name for name in cameras if name not in CAMERAS]
    if unknown:
        raise UnknownName("camera", unknown[0], CAMERAS)
    if rendering is Rendering.NONE or not cameras or backend is None:
        return None
    return (
        StockRenderer(sim, cameras, size) if rendering is Rendering.STOCK else FastRenderer(backend, sim, cameras, size)
    )
