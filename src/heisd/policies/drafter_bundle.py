"""A drafter as a directory: written once, checked against its files and against its policy whenever it is loaded.

``config.json`` (shape), ``model.safetensors`` (float16), ``manifest.json`` (hashes, the policy it drafts for, how it
was made). A drafter knows one policy's prompt embeddings; with another's its guesses would be worthless but look fine,
so it is refused by name.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from heisd.errors import BadArtifact, BadInput, UnknownName, first_problem
from heisd.files import json_bytes, read_json, write_atomic
from heisd.policies.bundle import WEIGHTS_ROOT
from heisd.policies.config import Frozen
from heisd.policies.drafter import ParallelConfig, ParallelDrafter
from heisd.policies.drafter_eagle import EagleDrafter, EagleRuntime
from heisd.policies.drafter_runtime import ParallelRuntime
from heisd.policies.flow.draft_head import DraftHead, DraftHeadConfig, DraftHeadRuntime
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.manifest import MANIFEST, check_files
from heisd.policies.target import OpenVLAPolicy

FORMAT = "heisd-drafter-1"
FILES = ("config.json", "model.safetensors")
SUFFIXES = {"parallel": "drafter", "eagle": "eagle", "head": "draft"}  # kind -> a bundled one is called POLICY-suffix


class DrafterManifest(Frozen):
    """Provenance of a drafter."""

    format: str = FORMAT
    kind: str
    policy_name: str
    policy_sha256: str  # Manifest.policy_hash of the policy it drafts for
    files: dict[str, str]  # file name -> sha256
    command: str = ""
    seed: int = 0
    data: dict[str, Any] = Field(default_factory=dict)  # rollouts: number, suites; the recipe
    scores: dict[str, Any] = Field(default_factory=dict)  # on held-out episodes


def save_drafter(
    directory: Path,
    drafter: ParallelDrafter | EagleDrafter | DraftHead,
    *,
    policy: Mapping[str, str],
    command: str = "",
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write a drafter in float16; ``policy`` is its target's ``name`` and ``sha256``. The manifest comes last."""
    kinds = {ParallelDrafter: "parallel", EagleDrafter: "eagle", DraftHead: "head"}
    config: dict[str, Any] = drafter.config.model_dump(mode="json")
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in drafter.state_dict().items()}
    contents = {
        "config.json": json_bytes(config),
        "model.safetensors": safetensors_bytes(state, metadata={"format": "pt"}),
    }
    manifest = DrafterManifest(
        kind=kinds[type(drafter)],
        policy_name=policy["name"],
        policy_sha256=policy["sha256"],
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        command=command,
        seed=seed,
        data=dict(data or {}),
        scores=dict(scores or {}),
    )
    (directory / MANIFEST).unlink(missing_ok=True)
    for name, content in contents.items():
        write_atomic(directory / name, content)
    write_atomic(directory / MANIFEST, json_bytes(manifest.model_dump()))
    return directory


def list_drafters() -> list[str]:
    """Names of the drafters that ship with the package."""
    found = (path.parent.name for path in WEIGHTS_ROOT.glob(f"*/{MANIFEST}"))
    return sorted(name for name in found if name.rpartition("-")[2] in SUFFIXES.values())


def find_drafter(name_or_dir: str | Path) -> Path:
    """Directory of a bundled drafter's name (``libero-drafter``), or the directory given; UnknownName for neither."""
    if str(name_or_dir) in list_drafters():
        return WEIGHTS_ROOT / str(name_or_dir)
    if Path(name_or_dir).is_dir():
        return Path(name_or_dir)
    known = list_drafters() or ["none bundled; train one: heisd train drafter"]
    raise UnknownName("drafter (neither bundled nor a directory)", str(name_or_dir), known)


def read_manifest(directory: Path) -> DrafterManifest:
    """A drafter's manifest, without checking the files it lists; BadArtifact when it is missing, torn or foreign."""
    path = directory / MANIFEST
    values = read_json(path, hint=": not a drafter")
    try:
        manifest = DrafterManifest.model_validate(values)
    except ValidationError as error:
        raise BadArtifact(f"{path} is not a drafter's manifest: {first_problem(error)}") from None
    if manifest.format != FORMAT or manifest.kind not in SUFFIXES:
        raise BadArtifact(f"{path} is a {manifest.kind!r} drafter in format {manifest.format!r}; read is {FORMAT!r}")
    return manifest


def load_drafter(name_or_dir: str | Path, policy: OpenVLAPolicy) -> ParallelRuntime | EagleRuntime:
    """A drafter ready to run beside ``policy``.

    Raises UnknownName for a name that isn't there, BadArtifact for damaged or foreign files, BadInput when the drafter
    belongs to another policy.
    """
    directory = find_drafter(name_or_dir)
    manifest = _verified(directory, policy.policy_hash, "heisd train drafter --weights POLICY", ("parallel", "eagle"))
    config = read_json(directory / "config.json")
    try:
        state = _weights(directory)
        if manifest.kind == "eagle":  # asks for the prompt's states itself
            eagle = EagleDrafter(policy.config.decoder)
            _require_shape(directory, config, eagle.config.model_dump(mode="json"))
            eagle.load_state_dict(state)
            return EagleRuntime(eagle, policy)
        parallel = ParallelDrafter(ParallelConfig.model_validate(config))
        parallel.load_state_dict(state)
        return ParallelRuntime(parallel, policy.policy_hash)
    except (OSError, SafetensorError, ValidationError, RuntimeError) as error:
        raise BadArtifact(f"{directory} does not hold the drafter that its config.json describes: {error}") from None


def load_draft_head(name_or_dir: str | Path, policy: FlowPolicy) -> DraftHeadRuntime:
    """A draft head ready to run beside a flow-matching policy; raises what :func:`load_drafter` raises."""
    directory = find_drafter(name_or_dir)
    _verified(directory, policy.policy_hash, "heisd train draft-head --weights POLICY", ("head",))
    config = read_json(directory / "config.json")
    try:
        head = DraftHead(DraftHeadConfig.model_validate(config))
        _require_shape(directory, config, DraftHeadConfig.of(policy.config).model_dump(mode="json"))
        head.load_state_dict(_weights(directory))
    except (OSError, SafetensorError, ValidationError, RuntimeError) as error:
        raise BadArtifact(f"{directory} does not hold the draft head that its config.json describes: {error}") from None
    return DraftHeadRuntime(head, policy)


def _verified(directory: Path, policy_hash: str, train_command: str, kinds: tuple[str, ...]) -> DrafterManifest:
    """The manifest of a drafter of this policy, its files checked."""
    manifest = read_manifest(directory)
    if manifest.kind not in kinds:
        raise BadInput(f"{directory} is a {manifest.kind!r} drafter; {' or '.join(map(repr, kinds))} is needed here")
    if manifest.policy_sha256 != policy_hash:
        raise BadInput(
            f"{directory} drafts for the policy {manifest.policy_name!r} ({manifest.policy_sha256[:12]}), not for this "
            f"one ({policy_hash[:12] or 'unknown'}): train its own, {train_command}"
        )
    check_files(directory / MANIFEST, manifest.files, FILES)
    return manifest


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(directory / "model.safetensors").items()}


def _require_shape(directory: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if dict(found) != dict(wanted):
        raise BadArtifact(f"{directory}/config.json describes another shape than its policy's: {found} vs {wanted}")
