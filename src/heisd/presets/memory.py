"""Memory alone: checked in full (``retrieval_sd``) or never (``rt_cache``, arXiv 2505.09040)."""

from typing import Any

from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.route.fixed import Fixed, Replay
from heisd.telemetry import Sink


def retrieval_sd(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The five nearest frames' actions, checked inside the prefill under the exact rule; then plain decoding."""
    return checking(assets, Fixed(drafters=("retrieval",)), sink)


def rt_cache(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The nearest frame's action, executed at every step. The target is asked only where memory is silent."""
    return Engine(assets.target, proposers={"retrieval": assets.proposer("retrieval", k=1)}, router=Replay(), sink=sink)


def checking(assets: Assets, router: Fixed, sink: Sink | None) -> Engine[Any, Any]:
    """Memory's guesses, checked where the router says."""
    return Engine(assets.target, proposers={"retrieval": assets.proposer("retrieval")}, router=router, sink=sink)
