"""Which policy ``--weights`` means; the hash that ties a result to it is in :mod:`heisd.policies.identity`."""

from pathlib import Path

from heisd.errors import BadArtifact
from heisd.policies.identity import describe_weights

__all__ = ["DEFAULT", "TRAIN_COMMAND", "describe_weights", "resolve_weights"]

DEFAULT = "default"
TRAIN_COMMAND = "heisd train policy --data DIR --out DIR, then --weights DIR"


def resolve_weights(weights: str, suite: str) -> Path:
    """Directory of a bundled name or of a path; ``default`` is the policy shipped for ``suite``.

    Raises UnknownName for a name that is neither, BadArtifact when nothing is bundled at all.
    """
    from heisd.policies.bundle import find_policy, list_bundled

    if weights != DEFAULT:
        return find_policy(weights)
    names = list_bundled()
    seeing = [name for name in names if not name.endswith("blind")]
    if not seeing:
        raise BadArtifact(f"no policy is bundled with this installation; train one ({TRAIN_COMMAND})")
    return find_policy(suite if suite in seeing else seeing[0])
