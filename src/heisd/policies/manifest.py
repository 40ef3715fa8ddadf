"""The manifest of a bundle: a hash of every file and how the policy came to be."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from heisd.errors import BadArtifact, first_problem
from heisd.policies.config import Frozen

MANIFEST = "manifest.json"
FORMAT = "heisd-policy-1"
FLOW_FORMAT = "heisd-flow-1"
KINDS = {FORMAT: "a policy that decodes tokens", FLOW_FORMAT: "a flow-matching policy"}  # what a bundle may hold


class Manifest(Frozen):
    """Provenance of a bundle. ``scores`` and ``data`` are free-form; everything else is checked on loading."""

    format: str = FORMAT
    name: str
    files: dict[str, str]  # file name -> sha256
    command: str = ""  # what trained it
    seed: int = 0
    data: dict[str, Any] = Field(default_factory=dict)  # demonstrations: fingerprints, counts
    scores: dict[str, Any] = Field(default_factory=dict)  # what validation said

    @property
    def policy_hash(self) -> str:
        """sha256 of the weights: the identity that stores and drafters are checked against."""
        return self.files["model.safetensors"]


def sha256_of(path: Path) -> str:
    """Hex digest of a file; BadArtifact when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}") from None


def read_manifest(directory: Path) -> Manifest:
    """Parse a bundle's manifest without checking the files it lists."""
    path = directory / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} is not a policy manifest: {first_problem(error)}") from None
    if manifest.format not in KINDS:
        raise BadArtifact(f"{path} has format {manifest.format!r}; this version reads {', '.join(map(repr, KINDS))}")
    return manifest


def verify(directory: Path, required: tuple[str, ...], wanted: str = FORMAT) -> Manifest:
    """Read the manifest and compare every file's hash.

    BadArtifact names the file and both hashes, or says that the bundle is of another format than ``wanted``.
    """
    manifest = read_manifest(directory)
    if manifest.format != wanted:
        raise BadArtifact(
            f"{directory} holds {KINDS[manifest.format]} ({manifest.format}); {KINDS[wanted]} ({wanted}) is needed here"
        )
    check_files(directory / MANIFEST, manifest.files, required)
    return manifest


def check_files(manifest: Path, files: Mapping[str, str], required: tuple[str, ...]) -> None:
    """Compare the hash of every file that lies beside ``manifest``; BadArtifact names the file and both hashes."""
    missing = [name for name in required if name not in files]
    if missing:
        raise BadArtifact(f"{manifest} lists no hash for {', '.join(missing)}: it is incomplete")
    for name, expected in files.items():
        if Path(name).name != name:
            raise BadArtifact(f"{manifest} names {name!r}, which is outside the bundle")
        path = manifest.parent / name
        found = sha256_of(path)
        if found != expected:
            raise BadArtifact(f"{path} has sha256 {found}, but its manifest says {expected}: get it again")


def dump(manifest: Manifest) -> str:
    """The manifest as indented JSON text."""
    return json.dumps(manifest.model_dump(), indent=2, sort_keys=True) + "\n"
