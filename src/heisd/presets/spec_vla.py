"""Spec-VLA (arXiv 2507.22424): a one-layer EAGLE drafter behind the prefill, a tree of 50 nodes, then again."""

from functools import partial
from typing import Any

from heisd.accept import SPEC_VLA_TOLERANCE_BINS, Rule, exact, relaxed
from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.route.fixed import Fixed
from heisd.telemetry import Sink

TREE_NODES = 50


def strict(assets: Assets, sink: Sink | None = None, *, nodes: int = TREE_NODES) -> Engine[Any, Any]:
    """Only tokens equal to the target's: the actions are plain decoding's."""
    return drafting(assets, exact, sink, nodes=nodes)


def relaxed_to_nine(assets: Assets, sink: Sink | None = None, *, nodes: int = TREE_NODES) -> Engine[Any, Any]:
    """Tokens within r = 9 bins are kept (the paper's choice on three suites). Unlike there, never the gripper's."""
    return drafting(assets, partial(relaxed, tolerance_bins=SPEC_VLA_TOLERANCE_BINS), sink, nodes=nodes)


def drafting(assets: Assets, rule: Rule, sink: Sink | None, *, nodes: int = TREE_NODES) -> Engine[Any, Any]:
    """The EAGLE drafter behind the prefill, and again behind what is settled, under any rule, in trees of ``nodes``."""
    return Engine(
        assets.target,
        proposers={"eagle": assets.proposer("eagle", total_nodes=nodes)},
        rule=rule,
        router=Fixed(later=("eagle",)),
        max_nodes=nodes,
        sink=sink,
    )
