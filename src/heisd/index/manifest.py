"""What a store is: whose keys and actions it holds, from where, and the hash of every file."""

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, LeakError, first_problem
from heisd.index.record import MAX_KEY_DIMS, row_dtype
from heisd.policies.config import Frozen
from heisd.policies.manifest import sha256_of

MANIFEST, PROJECTION, EPISODES = "manifest.json", "projection.safetensors", "episodes.json"
FORMAT: Final = "heisd-store-1"
TRAIN = "train"
REBUILD = "build one for this policy: heisd index build"


class ActionStats(Frozen):
    """What turns bins into actions; two stores with different ones mean different motions by the same bins."""

    vocab_size: int
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...]

    @classmethod
    def of(cls, codec: ActionCodec) -> "ActionStats":
        """The statistics of a policy's codec."""
        return cls(vocab_size=codec.vocab_size, q01=codec.q01, q99=codec.q99, mask=codec.mask)

    def codec(self) -> ActionCodec:
        """The codec they describe."""
        return ActionCodec(self.vocab_size, self.q01, self.q99, self.mask)


class KeySpec(Frozen):
    """The keys and what their projection costs."""

    full_dims: int = Field(ge=1)  # of the policy's key
    n_dims: int = Field(ge=1, le=MAX_KEY_DIMS)  # stored
    recall: dict[str, float] | None = None  # the fields of heisd.index.projection.Recall


class TaskEntry(Frozen):
    """One shard."""

    instruction: str
    file: str
    n_rows: int = Field(ge=1)


class StoreManifest(Frozen):
    """Identity, provenance and hashes. ``data`` and ``versions`` are free-form; everything else is checked."""

    format: Literal["heisd-store-1"] = FORMAT
    policy_hash: str
    encoder_hash: str
    action_stats: ActionStats
    split: str
    key: KeySpec
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    seed: int
    command: str
    data: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str | None] = Field(default_factory=dict)
    files: dict[str, str]  # file name -> sha256

    @property
    def n_rows(self) -> int:
        """Rows of all shards."""
        return sum(task.n_rows for task in self.tasks)

    def dumps(self) -> bytes:
        """Indented JSON."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def read_manifest(root: Path) -> tuple[StoreManifest, str]:
    """A store's manifest, parsed but not compared with the files, and its sha256 (the identity of the store)."""
    path = root / MANIFEST
    try:
        content = path.read_bytes()
        return StoreManifest.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read ({error.strerror}): {root} is no finished store; {REBUILD}") from None
    except ValidationError as error:
        problem = first_problem(error)
        raise BadArtifact(f"{path} is not the manifest of a {FORMAT} store: {problem}; {REBUILD}") from None


def require_policy(
    root: Path, manifest: StoreManifest, policy_hash: str, codec: ActionCodec, encoder_hash: str | None = None
) -> None:
    """Raise BadArtifact unless the store was built with these weights and these action statistics."""
    asked = {"policy_hash": policy_hash} | ({} if encoder_hash is None else {"encoder_hash": encoder_hash})
    for name, value in asked.items():
        found = getattr(manifest, name)
        if found != value:
            raise BadArtifact(
                f"{root / MANIFEST}: {name} is {found[:12]}…, this policy's is {value[:12]}…: "
                f"the keys mean something else; {REBUILD}"
            )
    mine, theirs = ActionStats.of(codec).model_dump(), manifest.action_stats.model_dump()
    differing = [name for name in mine if mine[name] != theirs[name]]
    if differing:
        raise BadArtifact(
            f"{root / MANIFEST}: action statistics differ from the policy's in {', '.join(differing)}: "
            f"the same bins would be other motions; {REBUILD}"
        )


def require_train(root: Path, split: str, name: str = MANIFEST) -> None:
    """Raise LeakError unless ``split`` is train."""
    if split != TRAIN:
        raise LeakError(f"{root / name} holds episodes of the {split!r} split; only train episodes may be in a store")


def verify_files(root: Path, manifest: StoreManifest) -> None:
    """Compare every file with its size and hash; BadArtifact names the first that differs and how."""
    sizes = {task.file: task.n_rows * row_dtype(manifest.key.n_dims).itemsize for task in manifest.tasks}
    required = {PROJECTION, EPISODES, *sizes}
    if set(manifest.files) != required:
        raise BadArtifact(f"{root / MANIFEST} lists hashes of {sorted(manifest.files)}, not of {sorted(required)}")
    for name, expected in manifest.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadArtifact(f"{root / MANIFEST} names {name!r}, which is outside the store")
        _verify_size(root / name, sizes.get(name))
        found = sha256_of(root / name)
        if found != expected:
            raise BadArtifact(
                f"{root / name} has sha256 {found[:12]}…, its manifest says {expected[:12]}…: "
                "it is damaged or from another store; restore it, or build the store again"
            )


def _verify_size(path: Path, expected: int | None) -> None:
    """The commonest damage, named before the hash is computed; a missing file is left to the attempt to read it."""
    if expected is None or not path.is_file():
        return
    found = path.stat().st_size
    if found != expected:
        change = "truncated" if found < expected else "longer than it was"
        raise BadArtifact(
            f"{path} has {found} bytes, {expected} expected: it is {change}; restore or rebuild the store"
        )
