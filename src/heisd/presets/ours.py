"""This project's presets: ``exact`` loses nothing, ``hybrid`` skips where it was shown to be safe; and a control."""

from functools import partial
from typing import Any

from heisd.accept import BlockBounds, sequence
from heisd.engine import Engine
from heisd.presets.assets import Assets
from heisd.presets.skippers import SCOUTS, SKIPPERS
from heisd.route.base import Router
from heisd.route.calibrated import CalibratedSkip
from heisd.route.fixed import Fixed
from heisd.route.paying import Paying
from heisd.telemetry import Sink

BOUNDS = BlockBounds(30, 15)  # HeiSD's, but equal tokens of a failing block are kept: they cost nothing
MAX_NODES = 12  # a whole guess and its likeliest turnings; what a tolerant rule keeps of more costs more than it saves


def exact(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The parallel drafter's guesses inside the prefill, and behind what it settles; tokens equal plain decoding's.

    Where the calibration has a table of costs, it leaves off guessing while that loses time by the table.
    """
    return guessing(assets, Fixed(drafters=("parallel",), later=("parallel",)), sink)


def hybrid(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """Calibrated skips with the drafter's action, weighed by memory; the rest is checked by sequence."""
    return skipping(assets, skip_router(assets, "hybrid"), sink)


def no_store(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """``hybrid`` that remembers nothing, calibrated in the same way: what the store is worth."""
    return skipping(assets, skip_router(assets, "hybrid_no_store"), sink)


def coast(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """``hybrid_no_store`` whose skips do not look: the drafter goes on from the last pictures encoded.

    Proprioception, past actions and the watch over the raw pictures are of now; what is not skipped encodes first.
    """
    return skipping(assets, skip_router(assets, "coast"), sink)


def hold(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """``hybrid_no_store`` with skips that repeat the last action, calibrated in the same way."""
    return skipping(assets, skip_router(assets, "hold_calibrated"), sink)


def guessing(assets: Assets, fixed: Fixed, sink: Sink | None) -> Engine[Any, Any]:
    """The parallel drafter's guesses under the exact rule, asked for where ``fixed`` says, while that pays."""
    names = ("parallel",)
    proposers = {name: assets.proposer(name) for name in names}
    return Engine(assets.target, proposers=proposers, router=_while_it_pays(assets, fixed, names), sink=sink)


def skip_router(assets: Assets, preset: str) -> CalibratedSkip:
    """A calibrated preset's decisions; ablations of it change what they name."""
    skipper, calibration = SKIPPERS[preset], assets.calibration()
    setting = calibration.skip_setting(preset)
    return CalibratedSkip(
        score=setting.score,
        threshold=setting.threshold,
        ranges=calibration.code_ranges(),
        rule=partial(sequence, bounds=BOUNDS),
        source=skipper.source,
        scouts=skipper.scouts,
        drafters=skipper.drafters,
        later=skipper.later,
        n_skips=setting.n_skips,
        min_similarity=setting.floor,
        watch=calibration.watch,
        looks=skipper.looks,
    )


def skipping(assets: Assets, router: CalibratedSkip, sink: Sink | None) -> Engine[Any, Any]:
    """An engine with everybody whom the router may ask; its checks pause while they do not pay."""
    names = (*router.scouts, *router.drafters)
    return Engine(
        assets.target,
        proposers={name: assets.proposer(name, **SCOUTS[name].options) for name in names},
        router=_while_it_pays(assets, router, names),
        max_nodes=MAX_NODES,
        sink=sink,
    )


def _while_it_pays(assets: Assets, router: Router, names: tuple[str, ...]) -> Router:
    """``router``, whose checks pause while they lose time by the calibration's table of costs, if it has one."""
    costs = assets.costs()
    return router if costs is None else Paying(router, costs.asking(names))
