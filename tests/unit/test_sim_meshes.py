"""Decimation keeps what the eye sees: shape, side, texture; and the caches around it keep their promises."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from heisd.sim import meshes, textures
from heisd.sim.meshes import Mesh, decimate, decimate_cached

pytest.importorskip("fast_simplification", reason='needs pip install "heisd[libero]"')


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sphere(n: int = 60) -> Mesh:
    """Unit sphere; texture u is the azimuth, v the height; corners are not shared, as in MuJoCo's binary meshes."""
    azimuth, polar = np.meshgrid(np.linspace(0, 2 * np.pi, n + 1), np.linspace(0, np.pi, n // 2 + 1))
    points = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=-1)
    coordinates = np.stack([azimuth / (2 * np.pi), (points[..., 2] + 1) / 2], axis=-1).reshape(-1, 2)
    row, column = np.meshgrid(np.arange(n // 2), np.arange(n), indexing="ij")
    corner = (row * (n + 1) + column).ravel()
    quads = np.stack([corner, corner + n + 1, corner + n + 2, corner + 1], axis=1)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    flat, index = faces.ravel(), np.arange(3 * len(faces)).reshape(-1, 3)
    vertices = points.reshape(-1, 3)[flat]
    return Mesh(vertices, index, vertices.copy(), index, coordinates[flat], index)


def test_a_decimated_sphere_is_still_that_sphere() -> None:
    light = decimate(sphere(), 300)
    assert 100 < len(light.faces) <= 320
    radii = np.linalg.norm(light.vertices, axis=1)
    np.testing.assert_allclose(radii, 1.0, atol=0.05)
    corners, normals = light.vertices[light.faces], light.normals[light.face_normals]
    assert (corners * normals).sum(axis=-1).min() > 0.9  # all point outwards, shaded smoothly


def test_texture_coordinates_follow_the_surface() -> None:
    light = decimate(sphere(), 300)
    heights = light.vertices[light.faces][..., 2]
    v = light.texcoords[light.face_texcoords][..., 1]
    np.testing.assert_allclose(v, (heights + 1) / 2, atol=0.05)


def test_no_triangle_smears_the_texture_across_its_seam() -> None:
    """Two opposite halves of one sheet are mapped far apart: a corner may never take the other half's coordinate."""
    n = 30
    x, y = np.meshgrid(np.linspace(-1, 1, n + 1), np.linspace(-1, 1, n + 1))
    bumps = 0.05 * np.sin(9 * x) * np.cos(7 * y)
    points = np.stack([x, y, bumps], axis=-1).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    corner = (row * (n + 1) + column).ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + n + 2], axis=1),
            np.stack([corner, corner + n + 2, corner + n + 1], axis=1),
        ]
    )
    right = points[faces].mean(axis=1)[:, 0] > 0
    u = np.repeat(np.where(right, 0.9, 0.1), 3)
    texcoords = np.stack([u, np.repeat(0.5, len(u))], axis=1)
    index = np.arange(3 * len(faces)).reshape(-1, 3)
    light = decimate(Mesh(points, faces, points, faces, texcoords, index), 400)
    corner_u = light.texcoords[light.face_texcoords][..., 0]
    assert np.ptp(corner_u, axis=1).max() == 0


def test_opposite_sides_of_a_thin_wall_keep_their_own_texture() -> None:
    """A thin disc whose top and bottom differ: a plate must not show its underside."""
    ball = sphere()
    flat = ball.vertices * [1, 1, 0.02]
    top = ball.vertices[:, 2] > 0
    texcoords = np.stack([np.where(top, 0.9, 0.1), np.full(len(top), 0.5)], axis=1)
    light = decimate(Mesh(flat, ball.faces, ball.normals, ball.faces, texcoords, ball.faces), 200)
    up = light.normals[light.face_normals].mean(axis=1)[:, 2]
    inner = np.linalg.norm(light.vertices[light.faces][..., :2], axis=-1).max(axis=1) < 0.8
    u = light.texcoords[light.face_texcoords][..., 0].mean(axis=1)
    assert inner.sum() > 10
    np.testing.assert_allclose(u[inner], np.where(up[inner] > 0, 0.9, 0.1), atol=1e-6)


def test_an_untextured_mesh_stays_untextured() -> None:
    ball = sphere()
    bare = Mesh(ball.vertices, ball.faces, ball.normals, ball.faces, np.empty((0, 2)), np.empty((0, 3), dtype=int))
    light = decimate(bare, 200)
    assert light.texcoords.shape == (0, 2)
    assert len(light.face_texcoords) == 0


def test_the_mesh_cache_returns_what_was_computed_and_survives_damage(tmp_path: Path) -> None:
    first = decimate_cached(sphere(), 300)
    (stored,) = (tmp_path / "cache" / "heisd" / "meshes").iterdir()
    again = decimate_cached(sphere(), 300)
    np.testing.assert_array_equal(again.vertices, first.vertices)
    stored.write_bytes(stored.read_bytes()[:100])
    np.testing.assert_array_equal(decimate_cached(sphere(), 300).faces, first.faces)
    assert meshes._digest(sphere(), 300) != meshes._digest(sphere(), 301)


def test_only_large_textures_are_exchanged_and_once(tmp_path: Path) -> None:
    sizes = {"large": (2048, 1024), "small": (64, 64)}
    for name, size in sizes.items():
        Image.new("RGB", size, (200, 10, 30)).save(tmp_path / f"{name}.png")
    files = "".join(f"<texture name='{name}' type='2d' file='{tmp_path / name}.png'/>" for name in sizes)
    xml = f"<mujoco><asset>{files}<texture name='plain' type='skybox' builtin='flat'/></asset></mujoco>"
    scenes = [ElementTree.fromstring(textures.with_small_textures(xml)) for _ in range(2)]
    found = {t.get("name"): t.get("file") for t in scenes[0].iterfind("asset/texture")}
    assert found == {t.get("name"): t.get("file") for t in scenes[1].iterfind("asset/texture")}
    assert found["small"] == str(tmp_path / "small.png")
    assert found["plain"] is None
    with Image.open(str(found["large"])) as reduced:
        assert reduced.size == (512, 256)
        assert reduced.getpixel((5, 5)) == (200, 10, 30)
    assert len(list((tmp_path / "cache" / "heisd" / "textures").iterdir())) == 1
