"""FLASH (arXiv 2605.13778), its fork with retrieved drafts, and this project's one setting for all suites."""

from dataclasses import dataclass
from typing import Any

from heisd.accept_chunk import EndpointTest
from heisd.engine import ChunkEngine
from heisd.kinematics import MotionRanges, with_heisd_code_bounds
from heisd.kinematics.defaults import LIBERO
from heisd.presets.flow_assets import FlowAssets
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import Sink

LEVELS, TOLERANCE = (0.10, 0.05), 0.15  # FLASH's main table
RETRIEVAL_TOLERANCE, RETRIEVAL_SKIPS = 0.3, 2  # the fork's defaults
HYBRID_LEVEL, HYBRID_RESIDUAL = 0.10, 1.5  # as strict as FLASH's pair, whose larger level decides, at half the rows
HYBRID_ROUNDS = 3  # the prefix may be so many rounds old
HYBRID_GRIPPER_STEPS = 3  # after a gripper command nothing is drafted
HYBRID_SIMILARITY = 0.1  # to the prefix's picture: less than motion leaves of it, more than a dark camera does


@dataclass(frozen=True, slots=True)
class SuiteSetting:
    """What FLASH chose for one suite."""

    period: int  # PF: rounds without a full one
    guards_gripper: bool  # verify-stop and post-cut


SUITES = {
    "libero_spatial": SuiteSetting(0, True),
    "libero_object": SuiteSetting(0, False),
    "libero_goal": SuiteSetting(4, True),
    "libero_10": SuiteSetting(2, True),
}
STRICTEST = SUITES["libero_10"]


def suite_setting(suite: str) -> SuiteSetting:
    """FLASH's setting for a suite or a variant of it (``libero_goal_swap``); the strictest for any other."""
    found = (setting for name, setting in SUITES.items() if suite == name or suite.startswith(f"{name}_"))
    return next(found, STRICTEST)


def flash(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """The draft head's chunk, checked at two levels with one tolerance; fallbacks as published for each suite.

    Unlike there a rejected round runs its full one in the same call, on the same encoding.
    """
    setting = suite_setting(assets.suite)
    rule = EndpointTest.uniform(LEVELS, TOLERANCE, verify_stop=setting.guards_gripper, post_cut=setting.guards_gripper)
    return _engine(assets, rule, Rounds(("draft_head",), Fallbacks(period=setting.period), LIBERO), sink)


def flash_retrieval(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """Remembered chunks as drafts; on tolerant motion two rounds unverified, the third checked.

    The released code samples its window of positions once a round; here it is once a control step, for which its
    constants were made, and an unverified chunk must leave the gripper alone.
    """
    setting = suite_setting(assets.suite)
    rule = EndpointTest.uniform(
        LEVELS, RETRIEVAL_TOLERANCE, verify_stop=setting.guards_gripper, post_cut=setting.guards_gripper
    )
    router = Rounds(
        ("retrieval",),
        Fallbacks(period=setting.period),
        _released_ranges(assets.suite),
        skips_with="retrieval",
        n_skips=RETRIEVAL_SKIPS,
    )
    return _engine(assets, rule, router, sink)


def flow_hybrid(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """One setting for all suites: the draft head or what is left of the last chunk, whichever the expert prefers.

    One level with a bound on the velocity's residual; full rounds after gripper commands, once the prefix is older than
    three rounds, and when a camera's picture is unlike the prefix's.
    """
    rule = EndpointTest.in_velocity((HYBRID_LEVEL,), HYBRID_RESIDUAL)
    fallbacks = Fallbacks(
        max_age_steps=HYBRID_ROUNDS * assets.sampling.executed,
        min_similarity=HYBRID_SIMILARITY,
        gripper_margin_steps=HYBRID_GRIPPER_STEPS,
    )
    return _engine(assets, rule, Rounds(("draft_head", "tail"), fallbacks, LIBERO), sink)


def _engine(assets: FlowAssets, rule: EndpointTest, router: Rounds, sink: Sink | None) -> ChunkEngine[Any, Any]:
    proposers = {name: assets.proposer(name) for name in router.sources}
    return ChunkEngine(
        assets.target, sampling=assets.sampling, proposers=proposers, rule=rule, router=router, sink=sink
    )


def _released_ranges(suite: str) -> MotionRanges:
    """HeiSD's published constants where there are any, else those of this project's demonstrations."""
    return with_heisd_code_bounds(LIBERO, suite) if suite in SUITES else LIBERO
