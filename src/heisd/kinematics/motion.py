"""The last control steps as arrays: everything a kinematic reading may look at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heisd.errors import BadInput
from heisd.types import FloatArray, Proprioception

ACTION_SIZE = 7


@dataclass(frozen=True)
class Motion:
    """n poses, oldest first and the last one now, and the m <= n - 1 actions that led to the last of them.

    Numbers may be NaN: a reading that needs one of them says so. Raises BadInput for wrong shapes.
    """

    eef_pos_m: FloatArray  # (n, 3) end-effector position, world frame
    eef_quat_xyzw: FloatArray  # (n, 4) as robosuite reports it; its sign is not canonicalised
    gripper_qpos_m: FloatArray  # (n, 2) finger joints; the opening between the fingers is the first minus the second
    actions: FloatArray  # (m, 7) executed actions in the environment's convention; the gripper's +1 closes
    joint_vel_rad_s: FloatArray | None = None  # (n, 7)
    # (7,) how far executed actions were from the target's own, lately: heisd.kinematics.faded [action units]
    deviation: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.eef_pos_m)
        joints_ok = self.joint_vel_rad_s is None or self.joint_vel_rad_s.shape == (n, 7)
        poses = (self.eef_pos_m.shape, self.eef_quat_xyzw.shape, self.gripper_qpos_m.shape)
        if poses != ((n, 3), (n, 4), (n, 2)) or not joints_ok:
            raise BadInput(f"a motion of {n} poses has shapes (n, 3), (n, 4), (n, 2) and joints (n, 7); got {poses}")
        if self.actions.ndim != 2 or self.actions.shape[1] != ACTION_SIZE or len(self.actions) > max(n - 1, 0):
            raise BadInput(
                f"{n} poses have at most {max(n - 1, 0)} actions of {ACTION_SIZE} numbers between them; "
                f"got shape {self.actions.shape}: leave out the action that is not executed yet"
            )
        if self.deviation is not None and self.deviation.shape != (ACTION_SIZE,):
            raise BadInput(f"a deviation has {ACTION_SIZE} numbers; got shape {self.deviation.shape}")

    @classmethod
    def of(
        cls,
        proprioception: Sequence[Proprioception],
        actions: FloatArray,
        *,
        n_poses: int | None = None,
        deviation: FloatArray | None = None,
    ) -> "Motion":
        """The last ``n_poses`` (default: all) of what was observed, with the actions between them.

        Args:
            proprioception: oldest first; the last one is now. May be empty.
            actions: (k, 7) executed actions, oldest first, the last one executed just before now; those that
                are older than the poses are left out.
            n_poses: a shorter memory makes every step cheaper.
            deviation: (7,) as in the field; None: nobody tells.
        """
        poses = proprioception if n_poses is None else proprioception[-n_poses:] if n_poses > 0 else ()
        n_actions = min(len(actions), max(len(poses) - 1, 0))
        return cls(
            _rows([pose.eef_pos_m for pose in poses], 3),
            _rows([pose.eef_quat_xyzw for pose in poses], 4),
            _rows([pose.gripper_qpos_m for pose in poses], 2),
            np.asarray(actions, dtype=np.float64)[len(actions) - n_actions :],
            _rows([pose.joint_vel_rad_s for pose in poses], 7),
            deviation,
        )

    def __len__(self) -> int:
        """Number of poses."""
        return len(self.eef_pos_m)

    def upto(self, n_poses: int) -> "Motion":
        """What was known after the first ``n_poses`` poses. ``upto(len(motion) - 1)`` is one control step ago.

        (HeiSD's released code decides before it stores the newest position.) The oldest poses may have no action; how
        far actions had strayed by then is not told.
        """
        n_poses = min(max(n_poses, 0), len(self))
        n_actions = max(len(self.actions) - (len(self) - n_poses), 0)
        joints = None if self.joint_vel_rad_s is None else self.joint_vel_rad_s[:n_poses]
        poses = (self.eef_pos_m[:n_poses], self.eef_quat_xyzw[:n_poses], self.gripper_qpos_m[:n_poses])
        return Motion(*poses, self.actions[:n_actions], joints)


def _rows(vectors: list[FloatArray], width: int) -> FloatArray:
    """n vectors -> (n, width) float64; one concatenation is three times as fast as ``np.stack``."""
    if not vectors:
        return np.empty((0, width))
    joined = np.concatenate(vectors, dtype=np.float64)
    if len(joined) != len(vectors) * width:
        raise BadInput(f"every pose has {width} numbers here; {len(vectors)} poses have {len(joined)} together")
    return joined.reshape(-1, width)
