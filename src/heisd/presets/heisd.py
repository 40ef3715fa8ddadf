"""HeiSD (arXiv 2603.17573), as the paper says and as its code does, and the control that remembers nothing."""

from dataclasses import replace
from functools import partial
from typing import Any

from heisd.accept import HEISD_CODE, HEISD_PAPER, SPEC_VLA_TOLERANCE_BINS, relaxed, sequence
from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.route.heisd import AdaptiveSkip, HeisdBoundary
from heisd.telemetry import Sink

MAX_NODES = 96  # room for five retrieved chains recombined with each other, and for EAGLE's 50
_SLOW_RULE = partial(relaxed, tolerance_bins=SPEC_VLA_TOLERANCE_BINS)


def paper(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """w = 15 and path length; position and rotation blocks of 30/15 bins, recombined; skips above a similarity.

    The paper leaves its thresholds open: theta is the 25th percentile of F, the similarity is calibrated, and the
    drafter goes on behind the first block that fails.
    """
    calibration = assets.calibration()
    router = HeisdBoundary(
        calibration.paper_ranges(),
        fast_rule=partial(sequence, bounds=HEISD_PAPER),
        slow_rule=_SLOW_RULE,
        later=("eagle",),
        skip=AdaptiveSkip(calibration.adaptive_similarity),
    )
    return engine(assets, router, sink, recombines=True)


def code(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """w = 5 and distances from the last point; blocks of 45/25 bins; two steps unverified, the third checked."""
    return engine(assets, code_router(assets), sink)


def hold(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """``code`` with the last action in memory's place. A store that does not beat this has not earned its keep."""
    return engine(assets, replace(code_router(assets), source="persistence"), sink)


def code_router(assets: Assets) -> HeisdBoundary:
    """The released code's decisions; ablations of it change one field."""
    return HeisdBoundary(
        assets.calibration().code_ranges(), fast_rule=partial(sequence, bounds=HEISD_CODE), slow_rule=_SLOW_RULE
    )


def engine(assets: Assets, router: HeisdBoundary, sink: Sink | None, *, recombines: bool = False) -> Engine[Any, Any]:
    """An engine with everybody whom the router may ask."""
    proposers = {name: assets.proposer(name) for name in (router.source, *router.drafters)}
    return Engine(
        assets.target, proposers=proposers, router=router, recombines=recombines, max_nodes=MAX_NODES, sink=sink
    )
