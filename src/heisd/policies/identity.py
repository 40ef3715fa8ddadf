"""Which weights a policy has: the identity that results, stores and drafters are tied to."""

import hashlib
from pathlib import Path

from heisd.errors import BadArtifact
from heisd.policies.manifest import FORMAT, MANIFEST, read_manifest, sha256_of


def policy_format(directory: Path) -> str:
    """The format of a policy's bundle; a published checkpoint counts as a token policy's. Reads the manifest alone."""
    return read_manifest(directory).format if (directory / MANIFEST).is_file() else FORMAT


def describe_weights(directory: Path) -> dict[str, str]:
    """Name and hash of a policy's weights, ``{"name", "sha256"}``: echoed in results, compared when a run is resumed.

    Of a bundle its manifest tells; the files themselves are verified when the policy is loaded. Of a published
    checkpoint all safetensors files are hashed. Raises BadArtifact for a directory that is neither.
    """
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        return {"name": manifest.name, "sha256": manifest.policy_hash}
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise BadArtifact(f"{directory} holds neither a {MANIFEST} nor safetensors files: not a policy")
    joint = hashlib.sha256("".join(sha256_of(shard) for shard in shards).encode()).hexdigest()
    return {"name": directory.name, "sha256": joint}
