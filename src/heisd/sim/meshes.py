"""Lighter stand-ins for visual meshes: the same silhouette from a few hundred triangles.

Positions are simplified by quadric edge collapse. Texture coordinates are carried over chart by chart (a chart
is a connected piece of the texture map): every new triangle takes the chart of the old surface under its centre,
and every corner the coordinate of the nearest old vertex in that chart, so that nothing smears across a seam.
"""

import hashlib
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from heisd.errors import MissingExtra
from heisd.extras import install_command
from heisd.sim.cache import cache_dir, write_atomically
from heisd.types import FloatArray, IntArray

log = logging.getLogger(__name__)

_RECIPE = 1  # part of the cache key: raise it whenever the outcome of ``decimate`` changes

_CREASE_COS = np.cos(np.deg2rad(50.0))  # neighbouring faces that turn more than this keep a sharp edge
_SIDE_WEIGHT = 0.05  # how far apart, in mesh sizes, opposite sides of a thin wall count
_WELD_DIGITS = 6  # vertices closer than a micrometre are one


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles with one normal per corner and, when textured, one texture coordinate per corner."""

    vertices: FloatArray  # (V, 3) metres
    faces: IntArray  # (F, 3) into vertices
    normals: FloatArray  # (N, 3) unit
    face_normals: IntArray  # (F, 3) into normals
    texcoords: FloatArray  # (T, 2); empty when untextured
    face_texcoords: IntArray  # (F, 3) into texcoords; empty when untextured


def decimate(mesh: Mesh, n_faces: int) -> Mesh:
    """About ``n_faces`` triangles that look like ``mesh`` from afar. MissingExtra without fast-simplification."""
    try:
        import fast_simplification
    except ModuleNotFoundError as error:
        raise MissingExtra(f"fast rendering needs fast-simplification: {install_command('libero')}") from error

    welded, faces = _weld(mesh.vertices, mesh.faces)
    vertices, faces = fast_simplification.simplify(
        welded.astype(np.float32), faces.astype(np.int32), target_count=n_faces, agg=5.0
    )
    vertices, faces = vertices.astype(np.float64), faces.astype(np.int64)
    faces = faces[_areas(vertices, faces) > 0]
    normals, face_normals = _corner_normals(vertices, faces)
    if len(mesh.texcoords):
        corner_texcoords = _transfer_texcoords(mesh, vertices, faces).reshape(-1, 2)
        texcoords, inverse = np.unique(corner_texcoords, axis=0, return_inverse=True)
        face_texcoords = inverse.reshape(faces.shape)
    else:
        texcoords, face_texcoords = np.empty((0, 2)), np.empty((0, 3), dtype=np.int64)
    return Mesh(vertices, faces, normals, face_normals, texcoords, face_texcoords)


def decimate_cached(mesh: Mesh, n_faces: int) -> Mesh:
    """:func:`decimate`, remembered on disk by content."""
    path = cache_dir() / "meshes" / f"{_digest(mesh, n_faces)}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Mesh(*(stored[field.name] for field in fields(Mesh)))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        log.debug("decimating a mesh of %d faces", len(mesh.faces))
    light = decimate(mesh, n_faces)
    try:
        write_atomically(path, lambda partial: _save(partial, light))
    except OSError as error:
        log.warning("cannot cache light meshes in %s (%s); environments start slowly", path.parent, error)
    return light


def _digest(mesh: Mesh, n_faces: int) -> str:
    content = hashlib.blake2b(repr((_RECIPE, n_faces)).encode(), digest_size=16)
    for array in (mesh.vertices, mesh.faces, mesh.texcoords, mesh.face_texcoords):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def _save(path: Path, mesh: Mesh) -> None:
    with path.open("wb") as file:
        np.savez(file, **{field.name: getattr(mesh, field.name) for field in fields(Mesh)})


def _weld(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Merge coincident vertices, drop triangles that collapse."""
    unique, inverse = np.unique(np.round(vertices, _WELD_DIGITS), axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return unique, faces[distinct]


def _cross(vertices: FloatArray, faces: IntArray) -> FloatArray:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.asarray(np.cross(b - a, c - a))


def _areas(vertices: FloatArray, faces: IntArray) -> FloatArray:
    return np.asarray(np.linalg.norm(_cross(vertices, faces), axis=1) / 2)


def _corner_normals(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Area-weighted mean of the faces around each corner, leaving out those across a crease."""
    weighted = _cross(vertices, faces)
    unit = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    corner_vertex = faces.ravel()
    corner_face = np.repeat(np.arange(len(faces)), 3)
    incidence = coo_array(
        (np.ones(len(corner_vertex)), (corner_vertex, np.arange(len(corner_vertex)))),
        shape=(len(vertices), len(corner_vertex)),
    ).tocsr()
    pairs = (incidence.T @ incidence).tocoo()  # corners that share a vertex
    here, there = corner_face[pairs.row], corner_face[pairs.col]
    smooth = (unit[here] * unit[there]).sum(axis=1) > _CREASE_COS
    sums = np.zeros((len(corner_vertex), 3))
    np.add.at(sums, pairs.row[smooth], weighted[there[smooth]])
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    normals, index = np.unique(np.round(sums, 2), axis=0, return_inverse=True)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True), index.reshape(faces.shape)


def _transfer_texcoords(old: Mesh, vertices: FloatArray, faces: IntArray) -> FloatArray:
    """(F, 3, 2) texture coordinates for every corner of the new faces."""
    side_weight_m = _SIDE_WEIGHT * np.ptp(old.vertices, axis=0).max()
    old_side, side = (side_weight_m * _unit_normals(*mesh) for mesh in ((old.vertices, old.faces), (vertices, faces)))
    corners, old_corner = _unique_corners(old)
    chart_of_corner = _charts(old_corner, len(corners))
    old_centres = np.concatenate([old.vertices[old.faces].mean(axis=1), old_side], axis=1)
    centres = np.concatenate([vertices[faces].mean(axis=1), side], axis=1)
    chart_of_face = chart_of_corner[old_corner[cKDTree(old_centres).query(centres)[1], 0]]
    corner_side = np.zeros((len(corners), 3))
    corner_side[old_corner] = old_side[:, None]  # any one of the faces around a corner tells its side
    features = np.concatenate([corners[:, :3], corner_side], axis=1)
    queries = np.concatenate([vertices[faces], np.repeat(side[:, None], 3, axis=1)], axis=2)
    result = np.empty((*faces.shape, 2))
    for chart in np.unique(chart_of_face):
        members, chosen = chart_of_corner == chart, chart_of_face == chart
        result[chosen] = corners[members, 3:][cKDTree(features[members]).query(queries[chosen])[1]]
    return result


def _unique_corners(mesh: Mesh) -> tuple[FloatArray, IntArray]:
    """(C, 5) distinct (position, texture coordinate) pairs, and (F, 3) indices into them."""
    pairs = np.concatenate([mesh.vertices[mesh.faces.ravel()], mesh.texcoords[mesh.face_texcoords.ravel()]], axis=1)
    corners, inverse = np.unique(np.round(pairs, _WELD_DIGITS), axis=0, return_inverse=True)
    return corners, inverse.reshape(mesh.faces.shape)


def _charts(face_corners: IntArray, n_corners: int) -> IntArray:
    """(C,) label of the connected piece of the texture map that each corner belongs to."""
    ends = face_corners[:, [0, 1, 2]].ravel(), face_corners[:, [1, 2, 0]].ravel()
    graph = coo_array((np.ones(len(ends[0])), ends), shape=(n_corners, n_corners))
    return np.asarray(connected_components(graph, directed=False)[1])


def _unit_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    normals = _cross(vertices, faces)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-15))
