"""FLASH (arXiv 2605.13778), its fork with retrieved drafts, and this project's one setting for all suites."""

from dataclasses import dataclass, replace
from typing import Any

from heisd.accept_chunk import EndpointTest
from heisd.engine import ChunkEngine
from heisd.kinematics import MotionRanges, with_heisd_code_bounds
from heisd.kinematics.defaults import LIBERO
from heisd.presets.flow_assets import FlowAssets
from heisd.presets.skippers import CHUNKS
from heisd.route.chunk_skips import CalibratedChunkSkip, TwoToOne
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import Sink
from heisd.watch import DEFAULT

LEVELS, TOLERANCE = (0.10, 0.05), 0.15  # FLASH's main table
RETRIEVAL_TOLERANCE, RETRIEVAL_SKIPS = 0.3, 2  # the fork's defaults
HYBRID_LEVEL, HYBRID_RESIDUAL = 0.10, 1.5  # as strict as FLASH's pair, whose larger level decides, at half the rows
HYBRID_SOURCES = ("draft_head", "tail")
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


def flash(assets: FlowAssets, sink: Sink | None = None, *, is_delayed: bool = False) -> ChunkEngine[Any, Any]:
    """The draft head's chunk, checked at two levels with one tolerance; fallbacks as published for each suite.

    Unlike there a rejected round runs its full one in the same call, on the same encoding.
    """
    setting = suite_setting(assets.suite)
    router = Rounds(("draft_head",), Fallbacks(period=setting.period), LIBERO)
    return _engine(assets, flash_rule(assets.suite), router, sink, is_delayed=is_delayed)


def flash_retrieval(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """Remembered chunks as drafts; on tolerant motion two rounds unverified, the third checked.

    The released code samples its window of positions once a round; here it is once a control step, for which its
    constants were made, and an unverified chunk must leave the gripper alone.
    """
    setting = suite_setting(assets.suite)
    ranges = _released_ranges(assets.suite)
    router = Rounds(
        ("retrieval",),
        Fallbacks(period=setting.period),
        ranges,
        TwoToOne("retrieval", RETRIEVAL_SKIPS, ranges),
    )
    return _engine(assets, flash_rule(assets.suite, RETRIEVAL_TOLERANCE), router, sink)


def flow_hybrid(assets: FlowAssets, sink: Sink | None = None, *, is_delayed: bool = False) -> ChunkEngine[Any, Any]:
    """One rule for all suites: the draft head or what is left of the last chunk, whichever the expert prefers.

    One level with a bound on the velocity's residual; full rounds after gripper commands, once the prefix is older than
    three rounds, when a camera's picture is unlike the prefix's, and while an alarm of the watch holds. The bound, what
    may be skipped and the watch's limits are the suite's calibration's; without one a first guess, nothing, and what is
    unmistakable.
    """
    fallbacks = Fallbacks(
        max_age_steps=HYBRID_ROUNDS * assets.sampling.executed,
        min_similarity=HYBRID_SIMILARITY,
        gripper_margin_steps=HYBRID_GRIPPER_STEPS,
    )
    router, residual = Rounds(HYBRID_SOURCES, fallbacks, LIBERO, watch=DEFAULT), HYBRID_RESIDUAL
    if assets.has_calibration:
        router, residual = _calibrated(router, assets, assets.delay(is_delayed))
    return _engine(assets, hybrid_rule(residual), router, sink, is_delayed=is_delayed)


def flash_rule(suite: str, tolerance: float = TOLERANCE) -> EndpointTest:
    """FLASH's test: two levels, one tolerance, the gripper's guards where they are published for a suite."""
    guards = suite_setting(suite).guards_gripper
    return EndpointTest.uniform(LEVELS, tolerance, verify_stop=guards, post_cut=guards)


def hybrid_rule(residual: float) -> EndpointTest:
    """Ours: one level, a bound on the velocity's residual."""
    return EndpointTest.in_velocity((HYBRID_LEVEL,), residual)


def _calibrated(router: Rounds, assets: FlowAssets, delay_steps: int) -> tuple[Rounds, float]:
    """The rule with what its suite's calibration says, and the bound on the residual."""
    calibration, skipper = assets.calibration(), CHUNKS.skippers["flow_hybrid"]
    setting, skip = calibration.skips.get("flow_hybrid"), None
    if setting is not None and setting.n_skips:
        n_actions = assets.sampling.executed + delay_steps
        skip = CalibratedChunkSkip(
            setting.score,
            setting.threshold,
            skipper.source,
            skipper.scouts,
            n_actions,
            setting.n_skips,
            looks=skipper.looks,
        )
    residual = HYBRID_RESIDUAL if calibration.acceptance is None else calibration.acceptance.residual
    sources = router.sources if residual else ()  # nothing would pass: nobody is asked
    return replace(
        router, sources=sources, ranges=calibration.code_ranges(), skip=skip, watch=calibration.watch
    ), residual


def _engine(
    assets: FlowAssets, rule: EndpointTest, router: Rounds, sink: Sink | None, *, is_delayed: bool = False
) -> ChunkEngine[Any, Any]:
    return ChunkEngine(
        assets.target,
        sampling=assets.sampling,
        proposers={name: assets.proposer(name) for name in router.asked},
        rule=rule,
        router=router,
        delay_steps=assets.delay(is_delayed),
        sink=sink,
    )


def _released_ranges(suite: str) -> MotionRanges:
    """HeiSD's published constants where there are any, else those of this project's demonstrations."""
    return with_heisd_code_bounds(LIBERO, suite) if suite in SUITES else LIBERO
