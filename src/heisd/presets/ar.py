"""``ar``: the target's own greedy tokens, one forward each. The baseline of every speed-up."""

from heisd.engine import Engine
from heisd.policies.protocol import CacheT, ContextT, TargetPolicy
from heisd.telemetry import Sink


def build(target: TargetPolicy[ContextT, CacheT], sink: Sink | None = None) -> Engine[ContextT, CacheT]:
    """Plain decoding with ``target``."""
    return Engine(target, sink=sink)
