"""A policy as a directory: written once, verified file by file whenever it is loaded.

``config.json`` (shape), ``model.safetensors``, ``tokenizer.json``, ``norm_stats.json``, ``manifest.json`` (hashes
and provenance). :func:`load_policy` also opens published OpenVLA directories (policies/published.py).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, BadInput, UnknownName, first_problem
from heisd.files import read_json, write_atomic
from heisd.policies import manifest as manifests
from heisd.policies.config import OpenVLAConfig
from heisd.policies.norm_stats import codec_from_stats, stats_of_codec
from heisd.policies.openvla import OpenVLA
from heisd.policies.target import OpenVLAPolicy
from heisd.policies.tokenizer import WordTokenizer

WEIGHTS_ROOT = Path(__file__).resolve().parent.parent / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FILES = ("config.json", "model.safetensors", "tokenizer.json", "norm_stats.json")
ConfigT = TypeVar("ConfigT", bound=BaseModel)
ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)
MAX_BUNDLE_BYTES = 40_000_000  # of all files together: bundles travel inside the package and its repository


class BundledNetwork(Protocol):
    """A network that says what shape it has."""

    @property
    def config(self) -> BaseModel:
        """Its shape, as ``config.json`` holds it."""
        ...

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Its weights by name."""
        ...


def list_bundled(bundle_format: str = manifests.FORMAT) -> list[str]:
    """Names of the policies that ship with the package, of one format; those that decode tokens if none is named."""
    if not WEIGHTS_ROOT.is_dir():
        return []
    required = (manifests.MANIFEST, *FILES)  # a policy's store lies beside it and has a manifest too
    whole = [path for path in WEIGHTS_ROOT.iterdir() if all((path / name).is_file() for name in required)]
    return sorted(path.name for path in whole if _is_of(path, bundle_format))


def _is_of(directory: Path, bundle_format: str) -> bool:
    try:
        return manifests.read_manifest(directory).format == bundle_format
    except BadArtifact:
        return bundle_format == manifests.FORMAT  # listed, so that loading it says what is wrong with it


def find_policy(name_or_dir: str | Path) -> Path:
    """Directory of a bundled policy's name, or the directory given. Raises UnknownName for neither."""
    names = [name for bundle_format in manifests.KINDS for name in list_bundled(bundle_format)]
    if str(name_or_dir) in names:
        return WEIGHTS_ROOT / str(name_or_dir)
    if Path(name_or_dir).is_dir():
        return Path(name_or_dir)
    raise UnknownName("policy (neither bundled nor a directory)", str(name_or_dir), names or ["none bundled"])


def parse_dtype(name: str) -> torch.dtype:
    """``"float32"`` -> torch.float32, or UnknownName."""
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)
    return DTYPES[name]


def save_policy(
    directory: Path,
    model: OpenVLA,
    tokenizer: WordTokenizer,
    codec: ActionCodec,
    *,
    unnorm_key: str = "heisd",
    store_dtype: str = "float32",
    command: str = "",
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle. The manifest comes last, so a bundle that lacks one was never finished.

    The head is sealed first (:meth:`OpenVLA.seal_head`), in the copy that is written too: a stored policy can only
    decode action tokens. Raises BadInput, before anything is written or removed, when the files would together
    exceed ``MAX_BUNDLE_BYTES``; UnknownName for a dtype that isn't one.
    """
    dtype = parse_dtype(store_dtype)
    # Asked before anything is copied or sealed: a policy of gigabytes is refused at no cost and stays as it was.
    require_room(directory, model, dtype)
    model.seal_head()
    story = {"command": command, "seed": seed, "data": dict(data or {}), "scores": dict(scores or {})}
    return write_bundle(directory, model, tokenizer, stats_of_codec(codec, unnorm_key), dtype, story)


def write_bundle(
    directory: Path,
    model: BundledNetwork,
    tokenizer: WordTokenizer,
    stats: Mapping[str, Any],
    dtype: torch.dtype,
    story: Mapping[str, Any],
    *,
    bundle_format: str = manifests.FORMAT,
) -> Path:
    """Write the files of any kind of policy. ``story`` is how it was made: more fields of the manifest.

    Raises BadInput, before anything is written or removed, when they would exceed ``MAX_BUNDLE_BYTES``.
    """
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    contents = {
        "config.json": model.config.model_dump_json(indent=2).encode(),
        "model.safetensors": safetensors_bytes(state, metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.dumps().encode(),
        "norm_stats.json": json.dumps(stats, indent=2).encode(),
    }
    hashes = {name: hashlib.sha256(contents[name]).hexdigest() for name in FILES}
    manifest = manifests.Manifest(format=bundle_format, name=directory.name, files=hashes, **story)
    contents[manifests.MANIFEST] = manifests.dump(manifest).encode()  # the last to be written
    _require_small(directory, sum(map(len, contents.values())), dtype)
    (directory / manifests.MANIFEST).unlink(missing_ok=True)
    for name, content in contents.items():
        write_atomic(directory / name, content)
    return directory


def require_room(directory: Path, model: BundledNetwork, dtype: torch.dtype) -> None:
    """BadInput for a network whose weights alone exceed ``MAX_BUNDLE_BYTES``; nothing is copied to find out."""
    _require_small(directory, sum(value.numel() for value in model.state_dict().values()) * dtype.itemsize, dtype)


def _require_small(directory: Path, n_bytes: int, dtype: torch.dtype) -> None:
    if n_bytes > MAX_BUNDLE_BYTES:
        half = "" if dtype.itemsize < 4 else ', or store half precision (store_dtype="float16")'
        raise BadInput(
            f"the bundle {directory} would take {n_bytes:,} bytes; at most {MAX_BUNDLE_BYTES:,} are allowed: "
            f"make the policy smaller{half}. Nothing was written"
        )


def load_policy(
    name_or_dir: str | Path, dtype: str = "float32", *, unnorm_key: str | None = None, max_tree_nodes: int = 128
) -> OpenVLAPolicy:
    """A runnable policy from a bundled name, a bundle directory or a published OpenVLA directory.

    Raises UnknownName for a name that isn't there, BadArtifact for files that are damaged or foreign.
    """
    directory, torch_dtype = find_policy(name_or_dir), parse_dtype(dtype)
    if not (directory / manifests.MANIFEST).exists() and (directory / "config.json").exists():
        from heisd.policies.published import load_published

        return load_published(directory, torch_dtype, unnorm_key=unnorm_key, max_tree_nodes=max_tree_nodes)
    manifest = manifests.verify(directory, FILES)
    config = read_config(directory, OpenVLAConfig)
    model = load_weights(OpenVLA(config, is_fresh=False), directory / "model.safetensors")
    tokenizer = WordTokenizer.load(directory / "tokenizer.json")
    if tokenizer.n_text_tokens + 256 > config.action_vocab_size:
        raise BadArtifact(f"{directory}: its tokenizer has more words than the policy's vocabulary leaves room for")
    stats = read_json(directory / "norm_stats.json")
    codec = codec_from_stats(stats, unnorm_key, config.action_vocab_size)
    return OpenVLAPolicy(
        model, tokenizer, codec, dtype=torch_dtype, max_tree_nodes=max_tree_nodes, policy_hash=manifest.policy_hash
    )


def read_config(directory: Path, kind: type[ConfigT]) -> ConfigT:
    """Shape of a bundle's policy; BadArtifact names what is wrong with the file."""
    path = directory / "config.json"
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise BadArtifact(f"{path} is not the configuration of a policy: {first_problem(error)}") from None


def load_weights(model: ModuleT, path: Path) -> ModuleT:
    """Fill ``model`` from a safetensors file whose names and shapes must match exactly."""
    try:
        state = load_file(path)
        model.load_state_dict({key: value.float() for key, value in state.items()})
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{path} cannot be read as safetensors: {error}") from None
    except RuntimeError as error:
        raise BadArtifact(f"{path} does not fit the policy that config.json describes: {error}") from None
    return model
