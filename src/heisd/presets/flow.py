"""Flow-matching policies in full: the baseline of everything that speculates on chunks, and what papers start from."""

from typing import Any

from heisd.engine import ChunkEngine
from heisd.policies.config import MAX_EXECUTED
from heisd.policies.flow.naive import NaiveFlow
from heisd.presets.flow_assets import FlowAssets, calm_executed
from heisd.telemetry import Sink

NAIVE_STEPS = 10  # Euler steps of openpi, LeRobot and FLASH's baseline


def full(assets: FlowAssets, sink: Sink | None = None, *, is_delayed: bool = False) -> ChunkEngine[Any, Any]:
    """Every round encodes, prefills and denoises, optimised: cached prefix, folded levels, the policy's own steps.

    Delayed (``full_rtc``) it is real-time chunking (arXiv 2506.07339): the baseline where the world does not wait.
    """
    return ChunkEngine(assets.target, sampling=assets.sampling, delay_steps=assets.delay(is_delayed), sink=sink)


def full_naive(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """Ten Euler steps, each from the prefix on, in the network's training form."""
    sampling = assets.sampling.model_copy(update={"euler_steps": NAIVE_STEPS})
    return ChunkEngine(NaiveFlow(assets.target), sampling=sampling, sink=sink)


def full_calm(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``full`` that executes as much of a chunk that leaves the gripper alone as ``flow_hybrid`` does, and asks nobody.

    What is left of ``flow_hybrid`` without skips. It keeps no margin behind a gripper command: it reads no motion.
    """
    calm = calm_executed(assets.sampling.executed, assets.target.horizon)
    return ChunkEngine(assets.target, sampling=assets.sampling, calm_executed=calm, sink=sink)


def full_longer(assets: FlowAssets, sink: Sink | None = None) -> ChunkEngine[Any, Any]:
    """``full`` that executes as much of every chunk as anything here may: the cheapest way to be faster.

    Speculation that does not beat it has not earned its keep.
    """
    executed = min(MAX_EXECUTED, assets.target.horizon)
    sampling = assets.sampling.model_copy(update={"executed": executed})
    return ChunkEngine(assets.target, sampling=sampling, sink=sink)
