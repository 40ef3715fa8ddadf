"""The proposers a preset can name. A new proposer is one file and one line here."""

import inspect
from importlib import import_module
from typing import Any

from heisd.codec import ActionCodec
from heisd.errors import BadInput, UnknownName
from heisd.propose.base import Proposer

# name -> "module:factory", called as factory(codec, **options); imported only when it is used
PROPOSERS: dict[str, str] = {
    "eagle": "heisd.propose.eagle:Eagle",
    "kalman": "heisd.propose.kalman:ConstantVelocity",
    "kalman_code": "heisd.propose.kalman:TokenRandomWalk",
    "parallel": "heisd.propose.parallel:ParallelDraft",
    "persistence": "heisd.propose.persistence:Persistence",
    "retrieval": "heisd.propose.retrieval:Retrieval",
}


def create(name: str, codec: ActionCodec, **options: Any) -> Proposer:
    """A fresh proposer. Raises UnknownName for its name, BadInput for an option it does not have or lacks."""
    if name not in PROPOSERS:
        raise UnknownName("proposer", name, PROPOSERS)
    module, factory_name = PROPOSERS[name].split(":")
    factory = getattr(import_module(module), factory_name)
    signature = inspect.signature(factory)
    try:
        signature.bind(codec, **options)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        raise BadInput(f"proposer {name!r}: {error}; its options: {known}") from None
    proposer: Proposer = factory(codec, **options)
    return proposer
