"""KERV (arXiv 2603.01581): Spec-VLA's drafter, a Kalman filter that completes actions, a tolerance that adapts."""

from typing import Any

from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.presets.spec_vla import TREE_NODES
from heisd.route.kerv import KervCode, KervPaper
from heisd.telemetry import Sink


def paper(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """Constant-velocity filter with fitted noise, tolerance 5 to 15 bins by kinematic variability, cooldown 4."""
    calibration = assets.calibration()
    noise = calibration.kalman_noise()
    return Engine(
        assets.target,
        proposers={"eagle": assets.proposer("eagle"), "kalman": assets.proposer("kalman", noise=noise)},
        router=KervPaper(calibration.paper_ranges(), assets.bin_sizes()),
        max_nodes=TREE_NODES,
        sink=sink,
    )


def code(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The released code's token filter and schedules. Its filter does not fill the gripper here."""
    return Engine(
        assets.target,
        proposers={"eagle": assets.proposer("eagle"), "kalman_code": assets.proposer("kalman_code")},
        router=KervCode(horizon=assets.horizon),
        max_nodes=TREE_NODES,
        sink=sink,
    )
