"""How far a window of positions reaches: the R and the D of HeiSD's fused metric (section 3.2, fused kinematic metric).

Three solvers of R circulate; ranges and thresholds of one mean nothing for another.

* ``centroid``: mean distance from the mean position, on the best plane. It is what HeiSD's released code computes in
  effect: its least-squares call starts at the centroid of centred points, about 1e-18 m from zero, scipy takes the
  length of the start as first trust radius and stops there. (Where the start is exactly zero it does converge, which
  explains radii of metres on noise-free lines.) A spread: smooth, never degenerate, proportional to the motion's size.
* ``geometric``: the circle that the paper describes, its centre refined until the distances are as equal as can be.
* ``algebraic``: Kasa's linear fit, used by the released fork for flow policies.

The last two are true radii: they leave every bound on a straight line, hence the cap.
"""

import math
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from heisd.types import FloatArray

MIN_POINTS = 3
RADIUS_CAP_M = 1.0  # beyond the reach of the arms in question (Franka Panda: 0.855 m) a path is straight
COLLINEAR = 1e-6  # second singular value over the first: less is a straight line
STILL_M = 1e-6  # root mean square distance from the centroid: less is no motion but rounding
_ALIKE = 1e-9  # relative difference of two extents below which rounding tells them apart
_MAX_ITERATIONS = 40
_CONVERGED = 1e-8  # step of the centre, relative to the size of the window


class Solver(StrEnum):
    """How R is found."""

    CENTROID = "centroid"
    GEOMETRIC = "geometric"
    ALGEBRAIC = "algebraic"


class Distance(StrEnum):
    """How D is found."""

    PATH = "path"  # the paper: length of the path
    LAST_POINT = "last_point"  # the released code: distances of all earlier points from the last one, summed


def displacement_m(positions_m: FloatArray, distance: Distance = Distance.PATH) -> float:
    """(n, 3) positions -> D [m]. NaN below two points or where a number is not finite."""
    points = np.asarray(positions_m, dtype=np.float64).tolist()  # a window is a handful: plain numbers are quicker
    if len(points) < 2:
        return math.nan
    ends = points[1:] if distance is Distance.PATH else [points[-1]] * (len(points) - 1)
    total = sum(map(math.dist, points, ends))
    return total if math.isfinite(total) else math.nan


def spread_m(positions_m: FloatArray, solver: Solver = Solver.CENTROID, *, cap_m: float = RADIUS_CAP_M) -> float:
    """(n, 3) positions -> R [m], at most ``cap_m`` for the two true radii.

    NaN below three points or where a number is not finite; 0 for a window that stands still (within 1e-6 m);
    the cap for a straight one.
    """
    points = np.asarray(positions_m, dtype=np.float64)
    if len(points) < MIN_POINTS or not math.isfinite(float(points.sum())):
        return math.nan
    if solver is Solver.CENTROID:
        return _mean_distance_m(points.tolist())
    on_plane, singular = plane_coordinates(points)
    size = math.hypot(singular[0], singular[1]) / math.sqrt(len(points))
    if size < STILL_M:
        return 0.0
    if singular[1] < COLLINEAR * singular[0]:
        return cap_m
    if solver is Solver.ALGEBRAIC:
        return min(_algebraic_radius(on_plane, singular), cap_m)
    return _geometric_radius(on_plane / size, cap_m / size) * size


def plane_coordinates(points_m: FloatArray) -> tuple[npt.NDArray[np.complexfloating], tuple[float, float]]:
    """(n, 3) points -> (n,) complex coordinates on the plane of their two largest singular values, and these.

    Centred at the centroid; the real axis is the direction of the largest extent.
    """
    centred = points_m - points_m.sum(axis=0) / len(points_m)
    u, singular, _ = np.linalg.svd(centred, full_matrices=False)
    first, second = float(singular[0]), float(singular[1])
    return u[:, 0] * first + 1j * (u[:, 1] * second), (first, second)


def _mean_distance_m(points_m: list[list[float]]) -> float:
    """The centroid solver on n >= 3 points: mean distance from the centroid on the plane of largest extent.

    In plain numbers: LAPACK's call costs more than all of this on the handful of points of a window.
    """
    n = len(points_m)
    centre = [sum(axis) / n for axis in zip(*points_m, strict=True)]
    offsets = [(x - centre[0], y - centre[1], z - centre[2]) for x, y, z in points_m]
    a, b, c = _main_axis(offsets)
    # Two directions across that axis, and between them the one of larger extent.
    d = (0.0, c, -b) if abs(a) < 0.7 else (-c, 0.0, a)
    length = _length(d)
    d = (d[0] / length, d[1] / length, d[2] / length)
    e = (b * d[2] - c * d[1], c * d[0] - a * d[2], a * d[1] - b * d[0])
    flat = [
        (a * x + b * y + c * z, d[0] * x + d[1] * y + d[2] * z, e[0] * x + e[1] * y + e[2] * z) for x, y, z in offsets
    ]
    turn = 0.5 * math.atan2(2.0 * sum(v * w for _, v, w in flat), sum(v * v - w * w for _, v, w in flat))
    cos, sin = math.cos(turn), math.sin(turn)
    distances = [math.hypot(u, cos * v + sin * w) for u, v, w in flat]
    return 0.0 if math.hypot(*distances) < STILL_M * math.sqrt(n) else sum(distances) / n


def _main_axis(offsets: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Unit vector along which centred points extend most; one of several where there is no single one.

    The largest root of the scatter matrix' characteristic polynomial in closed form (Smith, "Eigenvalues of a
    symmetric 3 x 3 matrix", 1961); its vector is the longest cross product of two rows of the matrix less that root.
    """
    xx = yy = zz = xy = xz = yz = 0.0
    for x, y, z in offsets:
        xx, yy, zz, xy, xz, yz = xx + x * x, yy + y * y, zz + z * z, xy + x * y, xz + x * z, yz + y * z
    mean = (xx + yy + zz) / 3.0
    u, v, w = xx - mean, yy - mean, zz - mean
    scale = math.sqrt((u * u + v * v + w * w + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0)
    if scale <= _ALIKE * mean:  # as far in every direction
        return 1.0, 0.0, 0.0
    determinant = u * (v * w - yz * yz) - xy * (xy * w - yz * xz) + xz * (xy * yz - v * xz)
    most = 2.0 * scale * math.cos(math.acos(min(max(determinant / (2.0 * scale**3), -1.0), 1.0)) / 3.0)
    u, v, w = u - most, v - most, w - most
    axis = max(
        (v * w - yz * yz, xz * yz - xy * w, xy * yz - xz * v),
        (xz * yz - xy * w, u * w - xz * xz, xy * xz - u * yz),
        (xy * yz - xz * v, xy * xz - u * yz, u * v - xy * xy),
        key=_length,
    )
    if _length(axis) <= _ALIKE * scale * scale:  # as far in two directions: any one across the third
        p, q, r = max((u, xy, xz), (xy, v, yz), (xz, yz, w), key=_length)
        axis = (0.0, r, -q) if abs(p) < max(abs(q), abs(r)) else (-r, 0.0, p)
    length = _length(axis)
    return axis[0] / length, axis[1] / length, axis[2] / length


def _length(vector: tuple[float, float, float]) -> float:
    return math.hypot(*vector)


def _algebraic_radius(on_plane: npt.NDArray[np.complexfloating], singular: tuple[float, float]) -> float:
    """Kasa's fit. On principal axes its normal equations are diagonal: the centre is two quotients."""
    u, v = on_plane.real, on_plane.imag
    squares = u * u + v * v
    along, across = singular[0] ** 2, singular[1] ** 2
    a, b = float(u @ squares) / (2.0 * along), float(v @ squares) / (2.0 * across)
    return math.sqrt(a * a + b * b + (along + across) / len(on_plane))


def _geometric_radius(on_plane: npt.NDArray[np.complexfloating], cap: float) -> float:
    """Damped Newton on the squared deviation of the distances from their mean, from the centroid. At most ``cap``."""
    centre, damping = 0j, 0.0
    distances, cost = _deviation(on_plane, centre)
    for _ in range(_MAX_ITERATIONS):
        step = _step(on_plane - centre, distances, damping)
        trial_distances, trial_cost = _deviation(on_plane, centre + step)
        if trial_cost <= cost:
            centre, distances, cost, damping = centre + step, trial_distances, trial_cost, damping * 0.1
        else:
            damping = max(damping, 1e-3) * 10.0
        if abs(step) < _CONVERGED * (1.0 + abs(centre)) or abs(centre) > 1.5 * cap:
            break
    return min(float(distances.mean()), cap)


def _deviation(on_plane: npt.NDArray[np.complexfloating], centre: complex) -> tuple[FloatArray, float]:
    distances = np.abs(on_plane - centre)
    residual = distances - distances.sum() / len(distances)
    return distances, float(residual @ residual)


def _step(from_centre: npt.NDArray[np.complexfloating], distances: FloatArray, damping: float) -> complex:
    """The next step of the centre: Newton's where the cost is convex, else Gauss-Newton's (random walks need both).

    The derivative of a distance is the unit vector back to the centre.
    """
    n, inverse = len(distances), 1.0 / np.maximum(distances, 1e-12)
    units = from_centre * inverse
    mean = complex(units.sum()) / n
    x, y = units.real, units.imag
    gx, gy = float((x - mean.real) @ distances), float((y - mean.imag) @ distances)
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    xx, yy, xy = xx - n * mean.real**2, yy - n * mean.imag**2, xy - n * mean.real * mean.imag
    bend = inverse * (distances.sum() / n)
    hxx = n - n * mean.real**2 - float((y * y) @ bend)
    hyy = n - n * mean.imag**2 - float((x * x) @ bend)
    hxy = float((x * y) @ bend) - n * mean.real * mean.imag
    if hxx > 0 and hxx * hyy > hxy * hxy:
        xx, yy, xy = hxx, hyy, hxy
    damped = damping * (xx + yy) + 1e-300
    determinant = (xx + damped) * (yy + damped) - xy * xy
    if not determinant > 0:
        return 0j
    return complex((yy + damped) * gx - xy * gy, (xx + damped) * gy - xy * gx) / determinant
