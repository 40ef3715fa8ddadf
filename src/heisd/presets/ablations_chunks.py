"""Ablations of presets that speculate on chunks, as :mod:`heisd.presets.ablations` has those of token policies."""

from dataclasses import replace
from typing import Any

from heisd.accept_chunk import EndpointTest
from heisd.engine import ChunkEngine
from heisd.presets import flash
from heisd.presets.ablations import ALWAYS_SURE
from heisd.presets.flash import LEVELS, TOLERANCE
from heisd.presets.flow_assets import FlowAssets
from heisd.presets.skippers import CHUNKS
from heisd.route.chunk_skips import CalibratedChunkSkip
from heisd.route.chunks import Fallbacks
from heisd.telemetry import Sink


def at_levels(assets: FlowAssets, sink: Sink | None = None, *, levels: tuple[float, ...]) -> ChunkEngine[Any, Any]:
    """FLASH's one tolerance at other noise levels. Not how many there are decides, but the largest of them."""
    return _judged(assets, EndpointTest.uniform(levels, TOLERANCE), sink)


def within(assets: FlowAssets, sink: Sink | None = None, *, tolerance: float) -> ChunkEngine[Any, Any]:
    """FLASH's levels with another tolerance."""
    return _judged(assets, EndpointTest.uniform(LEVELS, tolerance), sink)


def in_velocity(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """One bound on the velocity's residual at both levels: as FLASH's at the larger, twice as strict at the smaller."""
    return _judged(assets, EndpointTest.in_velocity(LEVELS, TOLERANCE / max(LEVELS)), sink)


def noises(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """As many rows as FLASH has, all at its larger level, each with a noise of its own."""
    return _judged(assets, EndpointTest.one_level(max(LEVELS), len(LEVELS), TOLERANCE), sink)


def guarded(assets: FlowAssets, sink: Sink | None = None, **guards: Any) -> ChunkEngine[Any, Any]:
    """The gripper's guards on or off, whatever was published for the suite."""
    rule = replace(flash.flash_rule(assets.suite), **guards)
    return flash.engine(assets, rule, flash.flash_router(assets.suite), sink)


def periodic(assets: FlowAssets, sink: Sink | None = None, *, period: int) -> ChunkEngine[Any, Any]:
    """A full round after so many others, whatever was published for the suite; 0: never for that reason."""
    router = replace(flash.flash_router(assets.suite), fallbacks=Fallbacks(period=period))
    return flash.engine(assets, flash.flash_rule(assets.suite), router, sink)


def without(assets: FlowAssets, sink: Sink | None = None, *, fallback: str) -> ChunkEngine[Any, Any]:
    """``flow_hybrid`` without one of its fallbacks. Its skips keep a margin to the gripper of their own."""
    router, rule = flash.hybrid_parts(assets)
    fallbacks = replace(router.fallbacks, **{fallback: getattr(Fallbacks(), fallback)})
    return flash.engine(assets, rule, replace(router, fallbacks=fallbacks), sink)


def unwatched(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``flow_hybrid`` that no alarm over the cameras stops."""
    router, rule = flash.hybrid_parts(assets)
    return flash.engine(assets, rule, replace(router, watch=None), sink)


def seeing(assets: FlowAssets, sink: Sink | None = None, *, n_unseen: int) -> ChunkEngine[Any, Any]:
    """``flow_hybrid`` whose skips look more or less often; itself without a calibration, which skips nothing."""
    router, rule = flash.hybrid_parts(assets)
    if isinstance(router.skip, CalibratedChunkSkip):
        router = replace(router, skip=replace(router.skip, n_unseen=n_unseen))
    return flash.engine(assets, rule, router, sink)


def evenly(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``flow_hybrid`` that executes no denoised chunk further than any other; itself without a calibration."""
    router, rule = flash.hybrid_parts(assets)
    return flash.engine(assets, rule, replace(router, calm_executed=None), sink)


def through_gripper(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``flow_hybrid`` that, behind a look, skips rounds in which the gripper moves, too; itself if uncalibrated."""
    router, rule = flash.hybrid_parts(assets)
    if isinstance(router.skip, CalibratedChunkSkip):
        skip = replace(router.skip, passes_gripper=True)
        router = replace(router, skip=skip, fallbacks=replace(router.fallbacks, gripper_margin_steps=0))
    return flash.engine(assets, rule, router, sink)


def unskipping(
    assets: FlowAssets, sink: Sink | None = None, *, sources: tuple[str, ...] | None = None
) -> ChunkEngine[Any, Any]:
    """``flow_hybrid`` that executes no draft unverified; with other ``sources``, where they are given.

    What is skipped is the draft head's chunk, whoever drafts for verifications: sources are compared without skips.
    """
    router, rule = flash.hybrid_parts(assets)
    who, fallbacks = sources or flash.HYBRID_SOURCES, flash.hybrid_fallbacks(assets)
    return flash.engine(assets, rule, replace(router, skip=None, sources=who, fallbacks=fallbacks), sink)


def two_to_one(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``flow_hybrid``'s source, guards and audits with the fixed pattern for the calibrated score and number of skips.

    Without a calibration, by which nothing is skipped, the same.
    """
    router, rule = flash.hybrid_parts(assets)
    skipper = CHUNKS.skippers["flow_hybrid"]
    executed, n_skips = assets.sampling.executed, flash.RETRIEVAL_SKIPS
    skip = CalibratedChunkSkip(ALWAYS_SURE, 0.0, skipper.source, skipper.scouts, executed, n_skips, skipper.n_unseen)
    return flash.engine(assets, rule, replace(router, skip=skip), sink)


def _judged(assets: FlowAssets, test: EndpointTest, sink: Sink | None) -> ChunkEngine[Any, Any]:
    """``flash`` with another test; the gripper's guards stay those of the suite."""
    published = flash.flash_rule(assets.suite)
    rule = replace(test, verify_stop=published.verify_stop, post_cut=published.post_cut)
    return flash.engine(assets, rule, flash.flash_router(assets.suite), sink)
