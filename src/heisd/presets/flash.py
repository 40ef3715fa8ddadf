"""FLASH (arXiv 2605.13778), its fork with retrieved drafts, and this project's one setting for all suites."""

import math
from dataclasses import dataclass, replace
from typing import Any

from heisd.accept_chunk import EndpointTest
from heisd.engine import ChunkEngine
from heisd.kinematics import MotionRanges, with_heisd_code_bounds
from heisd.kinematics.defaults import LIBERO
from heisd.presets.flow_assets import FlowAssets, calm_executed
from heisd.presets.skippers import CHUNKS
from heisd.route.chunk_skips import CalibratedChunkSkip, TwoToOne
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import Sink
from heisd.watch import ROUNDS

LEVELS, TOLERANCE = (0.10, 0.05), 0.15  # FLASH's main table
RETRIEVAL_TOLERANCE, RETRIEVAL_SKIPS = 0.3, 2  # the fork's defaults
HYBRID_LEVEL, HYBRID_RESIDUAL = 0.10, 1.5  # as strict as FLASH's pair, whose larger level decides, at half the rows
# Not the tail: behind the prefix that it was made from it agrees with itself.
HYBRID_SOURCES = ("draft_head",)
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
    return engine(assets, flash_rule(assets.suite), flash_router(assets.suite), sink, is_delayed=is_delayed)


def flash_retrieval(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """Remembered chunks as drafts; on tolerant motion two rounds unverified, the third checked.

    The released code samples its window of positions once a round; here it is once a control step, for which its
    constants were made, and an unverified chunk must leave the gripper alone.
    """
    return _two_to_one(assets, "retrieval", sink)


def tail_2to1(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``flash_retrieval`` with the rest of the last chunk in memory's place; behind it, the chunk's last action again.

    It needs neither a draft head nor a store: those that do not beat it have not earned their keep.
    """
    return _two_to_one(assets, "tail", sink)


def flow_hybrid(assets: FlowAssets, sink: Sink | None = None, *, is_delayed: bool = False) -> ChunkEngine[Any, Any]:
    """One rule for all suites, for the draft head's chunks.

    With a calibration that skips: the draft head's chunk, unverified, wherever its score and the guards allow, two
    rounds in a row on the same look and the third on a new one; else a full round, and more of its chunk if the
    calibration says so and the gripper is left alone. Without: one level with a bound on
    the velocity's residual, behind a prefix of three rounds at most. Full rounds after gripper commands, when a
    camera's picture is unlike the prefix's, and while an alarm of the watch holds. The bound, what may be skipped and
    the watch's limits are the suite's calibration's; without one a first guess, nothing, and what is unmistakable.
    """
    router, rule = hybrid_parts(assets, is_delayed=is_delayed)
    return engine(assets, rule, router, sink, is_delayed=is_delayed)


def flash_router(suite: str) -> Rounds:
    """FLASH's decisions for a suite; ablations of it change one field."""
    return Rounds(("draft_head",), Fallbacks(period=suite_setting(suite).period), LIBERO)


def flash_rule(suite: str, tolerance: float = TOLERANCE) -> EndpointTest:
    """FLASH's test: two levels, one tolerance, the gripper's guards where they are published for a suite."""
    guards = suite_setting(suite).guards_gripper
    return EndpointTest.uniform(LEVELS, tolerance, verify_stop=guards, post_cut=guards)


def hybrid_parts(assets: FlowAssets, *, is_delayed: bool = False) -> tuple[Rounds, EndpointTest]:
    """The decisions and the test of ``flow_hybrid``, calibrated where there is a calibration; ablations change one."""
    router = Rounds(HYBRID_SOURCES, hybrid_fallbacks(assets), LIBERO, watch=ROUNDS)
    residual = HYBRID_RESIDUAL
    if assets.has_calibration:
        router, residual = _calibrated(router, assets, assets.delay(is_delayed))
    return router, hybrid_rule(residual)


def hybrid_fallbacks(assets: FlowAssets) -> Fallbacks:
    """What makes a round of ``flow_hybrid`` a full one, as long as drafts are verified."""
    return Fallbacks(
        max_age_steps=HYBRID_ROUNDS * assets.sampling.executed,
        min_similarity=HYBRID_SIMILARITY,
        gripper_margin_steps=HYBRID_GRIPPER_STEPS,
    )


def hybrid_rule(residual: float) -> EndpointTest:
    """Ours: one level, a bound on the velocity's residual."""
    return EndpointTest.in_velocity((HYBRID_LEVEL,), residual)


def _calibrated(router: Rounds, assets: FlowAssets, delay_steps: int) -> tuple[Rounds, float]:
    """The rule with what its suite's calibration says, and the bound on the residual."""
    calibration, skipper = assets.calibration(), CHUNKS.skippers["flow_hybrid"]
    setting, skip = calibration.skips.get("flow_hybrid"), None
    if setting is not None and setting.n_skips:
        skip = CalibratedChunkSkip(
            setting.score,
            setting.threshold,
            skipper.source,
            skipper.scouts,
            assets.sampling.executed + delay_steps,
            setting.n_skips,
            skipper.n_unseen,
        )
        fallbacks = replace(router.fallbacks, max_age_steps=math.inf)  # the prefix is not read
        calm = calm_executed(assets.sampling.executed, assets.target.horizon, delay_steps)
        router = replace(router, fallbacks=fallbacks, calm_executed=calm if setting.calm else None)
    residual = HYBRID_RESIDUAL if calibration.acceptance is None else calibration.acceptance.residual
    # Either skipped or verified: with checks behind skips less was skipped and more lost (docs/flow.md, Calibration).
    sources = router.sources if residual and skip is None else ()
    return replace(
        router, sources=sources, ranges=calibration.code_ranges(), skip=skip, watch=calibration.watch
    ), residual


def engine(
    assets: FlowAssets, rule: EndpointTest, router: Rounds, sink: Sink | None, *, is_delayed: bool = False
) -> ChunkEngine[Any, Any]:
    """An engine with everybody whom the router may ask."""
    return ChunkEngine(
        assets.target,
        sampling=assets.sampling,
        proposers={name: assets.proposer(name) for name in router.asked},
        rule=rule,
        router=router,
        delay_steps=assets.delay(is_delayed),
        calm_executed=router.calm_executed,
        sink=sink,
    )


def _two_to_one(assets: FlowAssets, source: str, sink: Sink | None) -> ChunkEngine[Any, Any]:
    """The fork's pattern, whoever drafts."""
    ranges = _released_ranges(assets.suite)
    fallbacks = Fallbacks(period=suite_setting(assets.suite).period)
    router = Rounds((source,), fallbacks, ranges, TwoToOne(source, RETRIEVAL_SKIPS, ranges))
    return engine(assets, flash_rule(assets.suite, RETRIEVAL_TOLERANCE), router, sink)


def _released_ranges(suite: str) -> MotionRanges:
    """HeiSD's published constants where there are any, else those of this project's demonstrations."""
    return with_heisd_code_bounds(LIBERO, suite) if suite in SUITES else LIBERO
