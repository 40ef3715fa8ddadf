"""Training checkpoints: one safetensors file, replaced atomically, enough to continue bit for bit."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from heisd.errors import BadArtifact


def save(
    path: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer, meta: dict[str, Any]
) -> None:
    """Write weights, their moving average and the optimiser's moments; ``meta`` must be JSON.

    Raises BadArtifact when it cannot be written; what was there before is intact.
    """
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state[p].items():
            tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
    temporary = path.with_suffix(".tmp")
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"meta": json.dumps(meta)})
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except (SafetensorError, OSError) as error:  # a full disk is a SafetensorError
        temporary.unlink(missing_ok=True)
        raise BadArtifact(f"cannot write {path} ({error}); the checkpoint before it is intact") from error


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON stored beside the tensors; BadArtifact when the file is not a checkpoint of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads(file.metadata()["meta"]))
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path} is not a readable training checkpoint ({error}); delete it to start over") from error


def load_average(path: Path, model: nn.Module) -> None:
    """Give a model of the same shape the averaged weights of another run. Raises BadArtifact when they do not fit."""
    read_meta(path)
    with safe_open(path, framework="pt") as file:
        for name, p in model.named_parameters():
            try:
                value = file.get_tensor(f"ema.{name}")
            except SafetensorError as error:
                raise BadArtifact(f"{path} has no weights for {name}: it is of another kind of policy") from error
            if value.shape != p.shape:
                found, wanted = tuple(value.shape), tuple(p.shape)
                raise BadArtifact(f"{path}: {name} has shape {found} where the recipe asks for {wanted}")
            p.data.copy_(value)


def load(path: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Restore what :func:`save` wrote, in place."""
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        for name, p in model.named_parameters():
            p.data.copy_(file.get_tensor(f"model.{name}"))
            ema[name].copy_(file.get_tensor(f"ema.{name}"))
            moments = {key.split(".")[1] for key in keys if key.startswith("adam.") and key.endswith(f".{name}")}
            for moment in moments:
                key = f"adam.{moment}.{name}"
                if key in keys:
                    optimizer.state[p][moment] = file.get_tensor(key)
