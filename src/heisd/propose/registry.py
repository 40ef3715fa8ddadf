"""The proposers a preset can name. A new proposer is one file and one line here."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from heisd.codec import ActionCodec
from heisd.errors import BadInput, UnknownName
from heisd.propose.base import ChunkProposer, Proposer
from heisd.propose.options import require_types

# name -> "module:factory", called as factory(codec, **options); imported only when it is used
PROPOSERS: dict[str, str] = {
    "eagle": "heisd.propose.eagle:Eagle",
    "kalman": "heisd.propose.kalman:ConstantVelocity",
    "kalman_code": "heisd.propose.kalman:TokenRandomWalk",
    "parallel": "heisd.propose.parallel:ParallelDraft",
    "persistence": "heisd.propose.persistence:Persistence",
    "retrieval": "heisd.propose.retrieval:Retrieval",
}

# those of chunk policies, called as factory(codec, horizon, **options)
CHUNK_PROPOSERS: dict[str, str] = {
    "draft_head": "heisd.propose.draft_head:DraftHeadGuess",
    "persistence": "heisd.propose.chunks:ChunkPersistence",
    "retrieval": "heisd.propose.chunks:ChunkRetrieval",
    "tail": "heisd.propose.chunks:ShiftedTail",
}


def create(name: str, codec: ActionCodec, **options: Any) -> Proposer:
    """A fresh proposer.

    Raises UnknownName for its name, BadInput for an option it does not have, lacks, or that is of another type.
    """
    proposer: Proposer = _made(PROPOSERS, name, (codec,), options)
    return proposer


def create_chunk(name: str, codec: ActionCodec, horizon: int, **options: Any) -> ChunkProposer:
    """The same for chunks of ``horizon`` actions."""
    proposer: ChunkProposer = _made(CHUNK_PROPOSERS, name, (codec, horizon), options)
    return proposer


def _made(known: Mapping[str, str], name: str, given: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UnknownName("proposer", name, known)
    module, factory_name = known[name].split(":")
    factory = getattr(import_module(module), factory_name)
    signature = inspect.signature(factory)
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        its = ", ".join(list(signature.parameters)[len(given) :])
        raise BadInput(f"proposer {name!r}: {error}; its options: {its}") from None
    require_types(name, factory, options)
    return factory(*given, **options)
