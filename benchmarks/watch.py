"""What the watch sees of camera faults, and when: on recorded pictures, each fault beginning in mid-episode.

    python benchmarks/watch.py --observations obs.npz [--suite libero_object]

The pictures are those of validation episodes of plain decoding (`own_tokens.py --record` writes them). Limits are
fitted to all episodes but the one that is watched. Per fault: in how many episodes an alarm came, and how many control
steps after the fault began; beside it the defaults that hold without a fit, and false alarms where nothing was wrong.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.check_exact import is_first_of_episode
from heisd.bench.observations import load_observations
from heisd.bench.provenance import machine, versions
from heisd.bench.watch_fit import limits_of
from heisd.sim.faults import FAULTS, Disturbance
from heisd.sim.shifts import parse_shifts
from heisd.sim.splits import EpisodeStart
from heisd.types import Observation
from heisd.watch import DEFAULT, NOTHING_SEEN, View, Watch

ONSET = 40
FAULTY = (
    "black:wrist", "black:wrist,every=4", "frozen:wrist", "frozen:agentview", "noisy:both,25", "noisy:wrist,10",
    "shifted:agentview,4", "shifted:agentview,8", "shifted:wrist,8", "delayed:both,3", "delayed:both,8",
)  # fmt: skip


def episodes_of(observations: Sequence[Observation]) -> list[list[Observation]]:
    """Observations in order, cut where an episode begins."""
    episodes: list[list[Observation]] = []
    for i, seen in enumerate(observations):
        if is_first_of_episode(observations[i - 1] if i else None, seen):
            episodes.append([])
        episodes[-1].append(seen)
    return episodes


def watched(watch: Watch, episode: Sequence[Observation], fault: Disturbance | None = None) -> list[bool]:
    """Whether something is wrong, by control step."""
    sight, alarms = NOTHING_SEEN, []
    for step, seen in enumerate(episode):
        shown = seen if fault is None else replace(seen, images=fault.show(seen.images, step))
        sight = watch.see(sight, shown)
        alarms.append(sight.alarm is not None)
    return alarms


def views_of(episode: Sequence[Observation]) -> list[dict[str, View]]:
    """What the pictures of an episode say."""
    sight, views = NOTHING_SEEN, []
    for seen in episode:
        sight = DEFAULT.see(sight, seen)
        views.append({camera: look.view for camera, look in sight.looks.items()})
    return views


def fitted_without(episodes: Sequence[Sequence[dict[str, View]]], left_out: int) -> Watch:
    """The watch that is fitted to every episode but one."""
    rows = [row for i, episode in enumerate(episodes) if i != left_out for row in episode]
    return Watch({camera: limits_of([row[camera] for row in rows]) for camera in rows[0]})


def delays(watches: Sequence[Watch], episodes: Sequence[Sequence[Observation]], text: str) -> list[int | None]:
    """Control steps from the beginning of a fault to its alarm, by episode that lived to see it; None: no alarm."""
    found: list[int | None] = []
    for i, (watch, episode) in enumerate(zip(watches, episodes, strict=True)):
        if len(episode) > ONSET:
            (shift,) = parse_shifts(f"{text},onset={ONSET}")
            fault = FAULTS[shift.name](shift, shift.generator(EpisodeStart("libero_object", 0, 30 + i, None), 0))
            alarms = watched(watch, episode, fault)[ONSET:]
            found.append(alarms.index(True) if True in alarms else None)
    return found


def summary(steps: Sequence[int | None]) -> dict[str, Any]:
    """How often, and how soon."""
    seen = [step for step in steps if step is not None]
    middle = float(np.median(seen)) if seen else None
    return {"episodes": len(steps), "alarmed": len(seen), "median_steps": middle, "most_steps": max(seen, default=None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--suite", default="libero_object")
    options = parser.parse_args()
    episodes = episodes_of(load_observations(options.observations))
    views = [views_of(episode) for episode in episodes]
    watches = {
        "default": [DEFAULT] * len(episodes),
        "fitted": [fitted_without(views, i) for i in range(len(episodes))],
    }
    result: dict[str, Any] = {"suite": options.suite, "episodes": len(episodes), "onset_step": ONSET}
    for name, each in watches.items():
        alarms = [any(watched(watch, episode)) for watch, episode in zip(each, episodes, strict=True)]
        result[name] = {
            "false_alarms": sum(alarms),
            "faults": {text: summary(delays(each, episodes, text)) for text in FAULTY},
        }
    seen = [observation for episode in episodes for observation in episode]
    began = time.perf_counter()
    watched(DEFAULT, seen)
    result["ms_per_step"] = (time.perf_counter() - began) / len(seen) * 1e3
    print(json.dumps(result | {"versions": versions(), "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
