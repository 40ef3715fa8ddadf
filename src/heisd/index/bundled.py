"""Where a policy's experience store lies, and opening it for that policy and no other."""

import shutil
from pathlib import Path

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, BadInput
from heisd.files import TEMP_SUFFIX, unwritable
from heisd.index.journal import FOLDER
from heisd.index.manifest import MANIFEST
from heisd.index.store import Store
from heisd.policies.bundle import find_policy
from heisd.policies.identity import describe_weights

SUFFIX = "-store"


def store_path(policy: str | Path) -> Path:
    """Beside the policy, under its name with ``-store`` behind it, bundled or not. UnknownName for no policy."""
    directory = find_policy(policy).resolve()
    return directory.with_name(directory.name + SUFFIX)


def find_store(policy: str | Path) -> Path:
    """The store that belongs to a bundled policy's name or to a policy's directory.

    Raises BadArtifact with the command that builds one where there is none, UnknownName for no policy.
    """
    path = store_path(policy)
    if not (path / MANIFEST).is_file():
        raise BadArtifact(
            f"the policy {policy} has no experience store at {path}; "
            f"build one: heisd index build --data DIR --weights {policy} --out {path}"
        )
    return path


def own_copy(policy: str | Path, path: Path) -> Path:
    """``path`` as a copy of the policy's own store that may be appended to, made where there is nothing yet.

    What was appended to the policy's own is left out, and a kill leaves no half copy at ``path``. A store that is
    there already is left as it is. Raises BadInput for the policy's own store, from which results are made, and what
    :func:`find_store` raises.
    """
    original = find_store(policy).resolve()
    if path.resolve().is_relative_to(original):
        raise BadInput(f"{path} is the policy's own store, from which results are made; name a directory for a copy")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        return path
    unfinished = path.with_name(path.name + TEMP_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(original, unfinished, ignore=shutil.ignore_patterns(FOLDER), copy_function=shutil.copyfile)
        unfinished.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def open_store_for(
    policy: str | Path,
    codec: ActionCodec,
    path: str | Path | None = None,
    *,
    max_appended_rows: int = 0,
    backend: str = "numpy",
) -> Store:
    """Open the store at ``path``, or the policy's own (:func:`find_store`), checked against the policy's weights.

    Args:
        policy: name or directory of the policy that will be asked for keys.
        codec: that policy's.
        path: a store built for it elsewhere.
        max_appended_rows, backend: as in :meth:`heisd.index.store.Store.open`.

    Raises what :func:`find_store` and :meth:`Store.open` raise.
    """
    root = find_store(policy) if path is None else Path(path)
    identity = describe_weights(find_policy(policy))["sha256"]
    return Store.open(
        root, policy_hash=identity, codec=codec, max_appended_rows=max_appended_rows, backend=backend
    )  # fmt: skip
