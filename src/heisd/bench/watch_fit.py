"""From plain episodes to the limits of a watch: nothing like what any of them has shown is an alarm.

Each limit is the most extreme value of its reading in n episodes, and a quarter of it more. If a new episode is one
like them (exchangeable), it goes beyond even the most extreme value with a probability of at most 1 / (n + 1): the
chance that the most extreme of n + 1 is the new one. The quarter makes that rarer still; faults are much further off.
"""

import math
from collections.abc import Sequence
from typing import Any

from heisd.bench.observed import ObservedEpisode
from heisd.watch import MIN_FROZEN_STEPS, View, ViewLimits, Watch

MARGIN = 1.25


def fit_watch(episodes: Sequence[ObservedEpisode]) -> Watch:
    """The limits of every camera that was observed, and of memory's similarity where memory was.

    Rows of older versions have no views: the default limits stay.
    """
    cameras = sorted({camera for episode in episodes for step in episode.steps for camera in step.views})
    seen = [step.similarity for episode in episodes for step in episode.steps]
    least = min(filter(math.isfinite, seen), default=None)
    return Watch(
        {camera: limits_of(_views(episodes, camera)) for camera in cameras},
        min_similarity=None if least is None else 1.0 - MARGIN * (1.0 - least),  # a cosine: 1 for the same picture
    )


def watch_evidence(episodes: Sequence[ObservedEpisode]) -> dict[str, Any]:
    """What the limits were fitted to, and how often one of them is passed without a reason."""
    n = len(episodes)
    return {"n_episodes": n, "alarmed_share_of_episodes_at_most": 1 / (n + 1), "per": "reading", "margin": MARGIN}


def _views(episodes: Sequence[ObservedEpisode], camera: str) -> list[View]:
    return [step.views[camera] for episode in episodes for step in episode.steps if camera in step.views]


def limits_of(views: Sequence[View]) -> ViewLimits:
    """What is usual of a camera that has shown these views: the most extreme of each reading, and a quarter more."""
    return ViewLimits(
        min_contrast=min(view.contrast for view in views) / MARGIN,
        max_noise=max(view.noise for view in views) * MARGIN,
        min_peak=min(view.peak for view in views) / MARGIN,
        max_change=max(view.change for view in views) * MARGIN,
        max_frozen=max(MIN_FROZEN_STEPS, *(view.n_frozen for view in views)),
    )
