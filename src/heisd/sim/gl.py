"""Choose an OpenGL backend that really renders, before mujoco is imported.

A backend that looks installed can still abort the process at the first ``read_pixels``, so every candidate
is tried in a child process that draws a few pixels. The verdict is cached on disk, keyed by what could
change it. Order: EGL on a GPU, EGL in software, OSMesa. ``HEISD_GL`` (egl or osmesa) overrides the order;
a ``MUJOCO_GL`` set by the user is respected, but still verified.
"""

import hashlib
import importlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from heisd.errors import MissingExtra, UnknownName
from heisd.extras import install_command
from heisd.sim.cache import cache_dir, write_atomically

log = logging.getLogger(__name__)

BACKENDS = ("egl", "osmesa")
INSTALL_COMMAND = "apt-get install -y libosmesa6 libegl1 libgl1"
_PROBE_TIMEOUT_S = 60
_SOFTWARE_RENDERERS = ("llvmpipe", "softpipe", "swrast", "swiftshader")

_PROBE = """
import mujoco, numpy as np
from OpenGL import GL
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='1' rgba='1 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
with mujoco.Renderer(model, 32, 32) as renderer:
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    assert np.ptp(renderer.render()) > 0, "the picture is uniform"
    print((GL.glGetString(GL.GL_RENDERER) or b"unknown").decode())
"""


@dataclass(frozen=True, slots=True)
class GlBackend:
    """A backend that was seen to render."""

    name: str  # "egl" or "osmesa"
    device: str  # the driver's own name, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)"

    def context(self, width_px: int, height_px: int) -> Any:
        """A current-able off-screen context, whatever mujoco was told at its import."""
        module: Any = importlib.import_module(f"mujoco.{self.name}")
        return module.GLContext(width_px, height_px)

    @property
    def is_software(self) -> bool:
        """Whether the CPU does the drawing."""
        return self.name == "osmesa" or any(word in self.device.lower() for word in _SOFTWARE_RENDERERS)


def choose_backend() -> GlBackend:
    """Select a working backend and set MUJOCO_GL and PYOPENGL_PLATFORM accordingly.

    Call it before mujoco is imported. Raises MissingExtra when nothing renders, UnknownName for an
    ``HEISD_GL`` that is not a backend.
    """
    candidates = _candidates()
    failures: list[str] = []
    for name in candidates:
        backend, reason = _verified(name)
        if backend is not None:
            os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = name
            return backend
        failures.append(f"{name}: {reason}")
    raise MissingExtra(
        f"no OpenGL backend can render ({'; '.join(failures)}); install one: {INSTALL_COMMAND}, "
        "then unset HEISD_GL and MUJOCO_GL"
    )


def choose_backend_if_any() -> GlBackend | None:
    """Like :func:`choose_backend`, but None (and mujoco told to do without OpenGL) when nothing renders."""
    try:
        return choose_backend()
    except MissingExtra as error:
        log.info("physics only: %s", error)
        os.environ["MUJOCO_GL"] = "disabled"
        return None


def _candidates() -> tuple[str, ...]:
    for variable in ("HEISD_GL", "MUJOCO_GL"):
        wanted = os.environ.get(variable, "").strip().lower()
        if wanted in BACKENDS:
            return (wanted,)
        if wanted and variable == "HEISD_GL":
            raise UnknownName("OpenGL backend in HEISD_GL", wanted, BACKENDS)
        if wanted:  # glfw and the like need a display: heisd renders off screen only
            log.warning("%s=%s cannot render off screen here; trying %s", variable, wanted, ", ".join(BACKENDS))
    return BACKENDS


def _verified(name: str) -> tuple[GlBackend | None, str]:
    """The backend if it renders, else None and why; successes are remembered on disk."""
    remembered = cache_dir() / f"gl-{name}-{_fingerprint()}.json"
    try:
        return GlBackend(**json.loads(remembered.read_text(encoding="utf-8"))), ""
    except (OSError, ValueError, TypeError):
        log.debug("no remembered verdict for OpenGL backend %s", name)
    backend, reason = probe(name)
    if backend is not None:
        _remember(remembered, backend)
    return backend, reason


def _fingerprint() -> str:
    """Changes when the interpreter, mujoco, or the visible GPUs do."""
    try:
        version = metadata.version("mujoco")
    except metadata.PackageNotFoundError:
        raise MissingExtra(f"mujoco is not installed: {install_command('libero')}") from None
    devices = sorted(path.name for path in Path("/dev").glob("nvidia*")) + sorted(
        path.name for path in Path("/dev/dri").glob("*")
    )
    visible = [os.environ.get(v, "") for v in ("CUDA_VISIBLE_DEVICES", "MUJOCO_EGL_DEVICE_ID", "LD_LIBRARY_PATH")]
    return hashlib.sha256(repr((sys.executable, version, devices, visible)).encode()).hexdigest()[:16]


def _remember(path: Path, backend: GlBackend) -> None:
    try:
        write_atomically(path, lambda partial: _write_json(partial, backend))
    except OSError as error:  # a read-only home only costs the probe again
        log.debug("cannot remember the OpenGL verdict: %s", error)


def _write_json(path: Path, backend: GlBackend) -> None:
    path.write_text(json.dumps(asdict(backend)), encoding="utf-8")


def probe(name: str) -> tuple[GlBackend | None, str]:
    """Draw a sphere with backend ``name`` in a child process: the backend, or None and the reason."""
    env = {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no picture within {_PROBE_TIMEOUT_S} s"
    # The EGL destructor may complain after a good picture; the printed renderer name proves the picture.
    lines = done.stdout.strip().splitlines()
    if not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return None, last
    return GlBackend(name, lines[-1]), ""
