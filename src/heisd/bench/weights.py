"""Which policy ``--weights`` means, and the hash that ties a result to it."""

import hashlib
from pathlib import Path

from heisd.errors import BadArtifact

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


def describe_weights(directory: Path) -> dict[str, str]:
    """Name and hash of a policy, echoed in results and compared when a run is resumed.

    The files themselves are verified against their manifest when the policy is loaded.
    """
    from heisd.policies.manifest import MANIFEST, read_manifest, sha256_of

    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        return {"name": manifest.name, "sha256": manifest.policy_hash}
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise BadArtifact(f"{directory} holds neither a {MANIFEST} nor safetensors files: not a policy")
    joint = hashlib.sha256("".join(sha256_of(shard) for shard in shards).encode()).hexdigest()
    return {"name": directory.name, "sha256": joint}
