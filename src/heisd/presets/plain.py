"""``ar``: the target's own greedy tokens, one forward each. The baseline of every speed-up."""

from typing import Any

from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.route.fixed import Full
from heisd.telemetry import Sink


def ar(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """Plain decoding."""
    return Engine(assets.target, router=Full(), sink=sink)
