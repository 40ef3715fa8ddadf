"""KERV (arXiv 2603.01581): Spec-VLA's drafter, a Kalman filter that completes actions, a tolerance that adapts."""

from typing import Any

from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.presets.spec_vla import TREE_NODES
from heisd.propose.base import Proposer
from heisd.route.kerv import KervCode, KervPaper
from heisd.telemetry import Sink


def paper(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """Constant-velocity filter with fitted noise, tolerance 5 to 15 bins by kinematic variability, cooldown 4."""
    noise = assets.calibration().kalman_noise()
    return engine(assets, paper_router(assets), assets.proposer("kalman", noise=noise), sink)


def code(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The released code's token filter and schedules. Its filter does not fill the gripper here."""
    return engine(assets, KervCode(horizon=assets.horizon), assets.proposer("kalman_code"), sink)


def paper_router(assets: Assets) -> KervPaper:
    """The paper's decisions; ablations of it change one field."""
    return KervPaper(assets.calibration().paper_ranges())


def engine(assets: Assets, router: KervPaper | KervCode, completes: Proposer, sink: Sink | None) -> Engine[Any, Any]:
    """An engine whose actions are drafted by the router's drafter, and completed by ``completes`` as its filter."""
    proposers = {router.drafter: assets.proposer(router.drafter), router.filter: completes}
    return Engine(assets.target, proposers=proposers, router=router, max_nodes=TREE_NODES, sink=sink)
