"""Which policy ``--weights`` means; the hash that ties a result to it is in :mod:`heisd.policies.identity`."""

from collections.abc import Iterable
from pathlib import Path

from heisd.errors import BadArtifact, BadInput
from heisd.policies.identity import describe_weights, policy_format
from heisd.policies.manifest import FLOW_FORMAT, FORMAT, KINDS
from heisd.presets import require_kind, require_one_kind

__all__ = ["DEFAULT", "TRAIN_COMMANDS", "describe_weights", "require_policy", "resolve_weights", "weights_for"]

DEFAULT = "default"
TRAIN_COMMANDS = {
    FORMAT: "heisd train policy --data DIR --out DIR, then --weights DIR",
    FLOW_FORMAT: "heisd train flow --data DIR --out DIR, then --weights DIR",
}


def resolve_weights(weights: str, suite: str, bundle_format: str = FORMAT) -> Path:
    """Directory of a bundled name or of a path; ``default`` is the policy of that format shipped for ``suite``.

    Raises UnknownName for a name that is neither, BadArtifact when nothing is bundled at all.
    """
    from heisd.policies.bundle import find_policy, list_bundled

    if weights != DEFAULT:
        return find_policy(weights)
    names = list_bundled(bundle_format)
    seeing = [name for name in names if not name.endswith("blind")]
    if not seeing:
        kind = KINDS[bundle_format]
        raise BadArtifact(f"{kind} is not bundled with this installation; train one ({TRAIN_COMMANDS[bundle_format]})")
    return find_policy(suite if suite in seeing else seeing[0])


def weights_for(weights: str, suite: str, methods: Iterable[str]) -> Path:
    """As :func:`resolve_weights`, for the policy that ``methods`` run; BadInput when it is of another kind."""
    methods = list(methods)
    directory = resolve_weights(weights, suite, require_one_kind(methods))
    require_kind(methods, weights, policy_format(directory))
    return directory


def require_policy(directory: Path, wanted: str, who: str, instead: str) -> None:
    """BadInput unless a policy is of the format ``wanted``; reads its manifest alone, so that it is said at once.

    ``who`` needs that format; ``instead`` says what to do with a policy of the other kind.
    """
    if (found := policy_format(directory)) != wanted:
        raise BadInput(f"{who} needs {KINDS[wanted]}, and {directory} is {KINDS[found]}; {instead}")
