"""A copy of a MuJoCo model that draws the same scene from a tenth of the triangles.

Only the copy is touched, and only what the OpenGL upload reads; the physics keeps the original model, so its
results cannot change. Poses come from the simulation's own data when a frame is drawn.
"""

import copy
from typing import Any

import numpy as np

from heisd.sim.meshes import Mesh, decimate_cached

_VISUAL_GROUP = 1
_KEPT_SHARE = 1 / 12
_TEXTURED_FACES = (900, 5000)  # fewest and most an object keeps: the wrist camera looks at it closely
_PLAIN_FACES = (400, 1200)  # the same for a part of the robot


def light_copy(model: Any, size: int) -> Any:
    """Copy of ``model`` for drawing ``size`` x ``size`` frames: fewer triangles, no shadows, no multisampling."""
    light = copy.copy(model)
    quality, frame = light.vis.quality, light.vis.global_
    quality.shadowsize = quality.offsamples = 0
    frame.offwidth = frame.offheight = size
    light.mesh_graphadr[:] = -1  # no convex hulls: they are never drawn and would index replaced vertices
    for mesh_id, textured in _visual_meshes(model).items():
        _replace_mesh(light, mesh_id, textured)
    return light


def _visual_meshes(model: Any) -> dict[int, bool]:
    """Mesh id -> whether any visible geometry shows it with a texture."""
    import mujoco

    is_mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    meshes: dict[int, bool] = {}
    for geom in np.flatnonzero(is_mesh & (model.geom_group == _VISUAL_GROUP)):
        material = model.geom_matid[geom]
        textured = material >= 0 and bool((model.mat_texid[material] >= 0).any())
        mesh_id = int(model.geom_dataid[geom])
        meshes[mesh_id] = meshes.get(mesh_id, False) or textured
    return meshes


def _replace_mesh(model: Any, mesh_id: int, textured: bool) -> None:
    """Overwrite one mesh in place by its decimated version; meshes that are small already stay."""
    n_faces = int(model.mesh_facenum[mesh_id])
    target = int(np.clip(n_faces * _KEPT_SHARE, *(_TEXTURED_FACES if textured else _PLAIN_FACES)))
    if n_faces <= target:
        return
    mesh = decimate_cached(_read_mesh(model, mesh_id, textured), target)
    if len(mesh.vertices) <= model.mesh_vertnum[mesh_id] and len(mesh.normals) <= model.mesh_normalnum[mesh_id]:
        _write_mesh(model, mesh_id, mesh)


def _read_mesh(model: Any, mesh_id: int, textured: bool) -> Mesh:
    faces = slice(model.mesh_faceadr[mesh_id], model.mesh_faceadr[mesh_id] + model.mesh_facenum[mesh_id])
    vertices, normals, texcoords = (_block(model, kind, mesh_id) for kind in ("vert", "normal", "texcoord"))
    textured = textured and len(texcoords) > 0
    return Mesh(
        vertices.astype(np.float64),
        model.mesh_face[faces].astype(np.int64),
        normals,
        model.mesh_facenormal[faces],
        texcoords if textured else np.empty((0, 2)),
        model.mesh_facetexcoord[faces].astype(np.int64) if textured else np.empty((0, 3), dtype=np.int64),
    )


def _block(model: Any, kind: str, mesh_id: int) -> Any:
    """View of the rows of ``mesh_<kind>`` that belong to one mesh."""
    address, n_rows = getattr(model, f"mesh_{kind}adr")[mesh_id], getattr(model, f"mesh_{kind}num")[mesh_id]
    return getattr(model, f"mesh_{kind}")[address : address + n_rows]


def _write_mesh(model: Any, mesh_id: int, mesh: Mesh) -> None:
    first_face, n_faces = model.mesh_faceadr[mesh_id], len(mesh.faces)
    faces = slice(first_face, first_face + n_faces)
    model.mesh_face[faces] = mesh.faces
    model.mesh_facenormal[faces] = mesh.face_normals
    model.mesh_facenum[mesh_id] = n_faces
    rows = {"vert": mesh.vertices, "normal": mesh.normals}
    if len(mesh.texcoords):
        model.mesh_facetexcoord[faces] = mesh.face_texcoords
        rows["texcoord"] = mesh.texcoords
    else:
        model.mesh_texcoordadr[mesh_id] = -1
    for kind, values in rows.items():
        _block(model, kind, mesh_id)[: len(values)] = values
        getattr(model, f"mesh_{kind}num")[mesh_id] = len(values)
