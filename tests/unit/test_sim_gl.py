"""Choosing an OpenGL backend: order, overrides, memory, and a clear message when nothing renders."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from heisd.errors import MissingExtra, UnknownName
from heisd.sim import gl
from heisd.sim.gl import GlBackend

pytest.importorskip("mujoco", reason='needs pip install "heisd[libero]"')

Probe = Callable[[str], tuple[GlBackend | None, str]]


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in ("HEISD_GL", "MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.delenv(variable, raising=False)


def _only(*working: str) -> tuple[Probe, list[str]]:
    tried: list[str] = []

    def probe(name: str) -> tuple[GlBackend | None, str]:
        tried.append(name)
        return (GlBackend(name, "llvmpipe"), "") if name in working else (None, "no library")

    return probe, tried


def test_the_first_backend_that_renders_is_chosen_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, tried = _only("osmesa")
    monkeypatch.setattr(gl, "probe", probe)
    assert gl.choose_backend().name == "osmesa"
    assert tried == ["egl", "osmesa"]
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "osmesa"
    tried.clear()
    assert gl.choose_backend().name == "osmesa"
    assert tried == []


def test_the_users_choice_is_respected_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, tried = _only("egl", "osmesa")
    monkeypatch.setattr(gl, "probe", probe)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert gl.choose_backend().name == "osmesa"
    monkeypatch.setenv("HEISD_GL", "egl")  # stronger than MUJOCO_GL
    assert gl.choose_backend().name == "egl"
    assert tried == ["osmesa", "egl"]


def test_a_display_backend_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "probe", _only("egl")[0])
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert gl.choose_backend().name == "egl"


def test_an_unknown_override_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEISD_GL", "vulkan")
    with pytest.raises(UnknownName, match="egl, osmesa"):
        gl.choose_backend()


def test_without_any_backend_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "probe", _only()[0])
    with pytest.raises(MissingExtra, match=r"egl: no library.*apt-get install"):
        gl.choose_backend()
    assert gl.choose_backend_if_any() is None
    assert os.environ["MUJOCO_GL"] == "disabled"


def test_software_is_recognised() -> None:
    assert GlBackend("egl", "llvmpipe (LLVM 15.0.6, 256 bits)").is_software
    assert not GlBackend("egl", "NVIDIA H100 PCIe/PCIe/SSE2").is_software


def test_a_damaged_memory_costs_a_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, tried = _only("egl")
    monkeypatch.setattr(gl, "probe", probe)
    gl.choose_backend()
    for file in (tmp_path / "heisd").glob("gl-*.json"):
        file.write_text('{"name":')
    monkeypatch.delenv("MUJOCO_GL")
    assert gl.choose_backend().name == "egl"
    assert tried == ["egl", "egl"]


@pytest.mark.libero
def test_the_probe_draws_in_a_process_of_its_own() -> None:
    found = [gl.probe(name)[0] for name in gl.BACKENDS]
    assert any(found)
    backend, reason = gl.probe("no-such-backend")
    assert backend is None
    assert reason
