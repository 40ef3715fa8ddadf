"""``heisd merge``: the shards of an evaluation, played anywhere -> the run that one machine would have written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heisd.bench.evaluate import result_of
from heisd.bench.provenance import append_test_log
from heisd.bench.results import (
    CONFIG_NAME,
    EPISODES_NAME,
    RESULT_NAME,
    EpisodeRecord,
    RunDirectory,
    open_run,
)
from heisd.bench.summary import outcomes
from heisd.bench.videos import poster_path
from heisd.config import EvalConfig, differences, parse_shard
from heisd.errors import BadArtifact, BadInput
from heisd.files import read_json, write_json
from heisd.sim.splits import Split

_OF_THE_RUN = ("throughput", "machine", "commit")  # said per shard in the merged result


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished shard, as it lies on disk."""

    path: Path
    number: int  # i of i/n
    n_shards: int
    settings: dict[str, Any]  # config.json without the shard: what all must share
    config: EvalConfig  # of the whole run
    provenance: dict[str, Any]
    starts: list[str]  # keys of the episodes it was to play, in order
    result: dict[str, Any]
    records: list[EpisodeRecord]

    @classmethod
    def load(cls, path: Path) -> "Shard":
        """BadInput for a run that is no shard or is not finished; BadArtifact for one that cannot be read."""
        settings = read_json(path / CONFIG_NAME)
        settings.pop("config_hash", None)
        shard = settings.pop("shard", None)
        if shard is None:
            raise BadInput(f"{path} is no shard: it was played whole, without --shard i/n")
        if not (path / RESULT_NAME).is_file():
            raise BadInput(f"gap: {path} (shard {shard}) is not finished; repeat its command, then merge again")
        result = read_json(path / RESULT_NAME)
        if result.get("status") != "complete":
            raise BadInput(f"gap: {path} (shard {shard}) has episodes that could not be played; repeat its command")
        i, n = parse_shard(shard)
        try:
            config = EvalConfig.model_validate({k: v for k, v in settings.items() if k != "provenance"})
            provenance, starts = dict(settings["provenance"]), list(result["seeds"]["starts"])
        except (ValidationError, KeyError, TypeError) as error:
            raise BadArtifact(f"{path} is not a run of this version of heisd ({type(error).__name__})") from None
        return cls(path, i, n, settings, config, provenance, starts, result, RunDirectory(path).records())

    @property
    def identity(self) -> dict[str, Any]:
        """What all shards of one run agree in."""
        return {**self.settings, "n_shards": self.n_shards, "versions": self.result.get("versions", {})}

    def check(self) -> None:
        """BadArtifact unless its records are one outcome of every start and method, and no other."""
        found = sorted((r.method, r.key) for r in outcomes(self.records))
        wanted = sorted((m, key) for m in self.config.methods for key in self.starts)
        if found != wanted:
            raise BadArtifact(
                f"{self.path} holds {len(found)} outcomes where its result speaks of {len(wanted)}, or others; "
                "repeat its command"
            )


def merge(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the whole run to ``out``, which must hold none yet; returns its result object.

    Raises BadInput for overlaps, gaps and shards of different runs, BadArtifact for what cannot be read.
    """
    shards = sorted((Shard.load(path) for path in paths), key=lambda shard: shard.number)
    if not shards:
        raise BadInput("nothing to merge: name the run directories of all shards")
    _require_one_run(shards)
    _require_each_once(shards)
    for shard in shards:
        shard.check()
    if (out / EPISODES_NAME).exists() or (out / CONFIG_NAME).exists():
        raise BadInput(f"{out} holds a run already; choose another --out")
    config, provenance = shards[0].config, shards[0].provenance
    starts = interleaved([shard.starts for shard in shards])
    owners = {key: shard.path for shard in shards for key in shard.starts}
    records = in_order([record for shard in shards for record in shard.records], config, starts)
    with open_run(out, {**config.outcome_fields(), "provenance": provenance}) as run:
        records = [_with_film(record, owners[record.key], out) for record in records]
        for record in records:
            run.append(record)
        result = result_of(config, provenance, starts, records)
        result["merged_from"] = [
            {"run": str(shard.path), "shard": f"{shard.number}/{shard.n_shards}"}
            | {name: shard.result.get(name) for name in _OF_THE_RUN}
            for shard in shards
        ]
        write_json(run.result_path, result)
    if config.split is Split.TEST:
        scores = {name: block["pc_success"] for name, block in result["methods"].items()}
        append_test_log(out, config, "merged", pc_success=scores, n_shards=len(shards))
    return result


def interleaved(parts: Sequence[Sequence[str]]) -> list[str]:
    """The keys that were dealt out to shards 1 … n in turn, in their first order."""
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def in_order(records: Sequence[EpisodeRecord], config: EvalConfig, starts: Sequence[str]) -> list[EpisodeRecord]:
    """As one process would have written them: by try, task, start and method."""
    place = {key: i for i, key in enumerate(starts)}
    return sorted(records, key=lambda r: (r.attempt, r.task_index, place[r.key], config.methods.index(r.method)))


def _require_one_run(shards: Sequence[Shard]) -> None:
    first, *others = shards
    for other in others:
        if changed := differences(first.identity, other.identity):
            raise BadInput(f"{first.path} and {other.path} are shards of different runs ({'; '.join(changed)})")


def _require_each_once(shards: Sequence[Shard]) -> None:
    by_number: dict[int, Path] = {}
    for shard in shards:
        if shard.number in by_number:
            raise BadInput(
                f"overlap: {by_number[shard.number]} and {shard.path} are both shard {shard.number}/{shard.n_shards}"
            )
        by_number[shard.number] = shard.path
    n = shards[0].n_shards
    if missing := [f"{i}/{n}" for i in range(1, n + 1) if i not in by_number]:
        raise BadInput(f"gap: shard {', '.join(missing)} is not among the runs to merge")


def _with_film(record: EpisodeRecord, source: Path, out: Path) -> EpisodeRecord:
    """The record, its film copied; without one where the task has a film of this outcome already, as in any run."""
    if record.video is None:
        return record
    film, target = source / record.video, out / record.video
    if target.exists() or not film.is_file():
        return replace(record, video=None, timeline=None)
    target.parent.mkdir(parents=True, exist_ok=True)
    for there, here in ((film, target), (poster_path(film), poster_path(target))):
        if there.is_file():
            shutil.copyfile(there, here)
    return record
