"""Which attempts at a task are made and kept: in the order of their numbers, whichever worker was faster."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from heisd.errors import DatasetError
from heisd.sim.dataset import EpisodeEntry
from heisd.sim.demonstrate import AttemptResult

UNUSUAL_LENGTH = "unusual length"
LENGTH_RATIO = 1.6  # longer than this many medians of its task is unusual
N_REFERENCE = 4  # clean attempts of a task before its first lengths are judged; later ones join the median
MAX_TRIES_PER_EPISODE = 5  # on average, before a task counts as one the expert cannot do


@dataclass(slots=True)
class TaskQueue:
    """The attempts at one task: which to make next, which to keep."""

    task_index: int
    n_wanted: int
    lengths: list[int] = field(default_factory=list)  # of the episodes kept, in order of attempt
    next_number: int = 0
    n_tries: int = 0
    length_ratio: float = LENGTH_RATIO  # longer than this many medians is unusual
    _judged: int = 0
    _results: dict[int, AttemptResult] = field(default_factory=dict)
    _waiting: list[AttemptResult] = field(default_factory=list)
    _reference: list[int] = field(default_factory=list)  # lengths of clean attempts, in order

    @classmethod
    def resume(cls, task_index: int, n_wanted: int, entries: Iterable[EpisodeEntry]) -> "TaskQueue":
        """Go on after the episodes of this task that are already on disk."""
        own = [entry for entry in entries if entry.provenance.start.task_index == task_index]
        number = max((entry.provenance.attempt for entry in own), default=-1) + 1
        lengths = [entry.length for entry in own]
        return cls(task_index, n_wanted, lengths, number, _judged=number, _reference=list(lengths))

    def plan(self) -> list[int]:
        """Numbers of the attempts still needed if all of them were good."""
        missing = max(0, self.n_wanted - len(self.lengths))
        if missing and self.n_tries >= MAX_TRIES_PER_EPISODE * self.n_wanted + 10:
            raise DatasetError(
                f"task {self.task_index}: only {len(self.lengths)} of {self.n_wanted} demonstrations after "
                f"{self.n_tries} tries; the expert does not master this task: choose others with tasks="
            )
        numbers = list(range(self.next_number, self.next_number + missing))
        self.next_number += missing
        self.n_tries += missing
        return numbers

    def add(self, number: int, result: AttemptResult) -> None:
        """Hand in the result of an attempt, in any order."""
        self._results[number] = result

    def judge(self, *, is_last: bool = False) -> Iterator[tuple[AttemptResult, str]]:
        """Results that can be judged now, each with the reason to drop it or ``""``.

        Clean attempts wait until there are enough of them for a median length; ``is_last`` ends the wait.
        """
        while self._judged in self._results:
            result = self._results.pop(self._judged)
            self._judged += 1
            if result.reason:
                yield result, result.reason
                continue
            self._waiting.append(result)
            self._reference.append(result.n_steps)
            if len(self._reference) >= N_REFERENCE:
                yield from self._judge_lengths()
        if is_last:
            yield from self._judge_lengths()

    def _judge_lengths(self) -> Iterator[tuple[AttemptResult, str]]:
        waiting, self._waiting = self._waiting, []
        for result in waiting:
            if result.n_steps > self.length_ratio * float(np.median(self._reference)):
                yield result, UNUSUAL_LENGTH
            else:
                self.lengths.append(result.n_steps)
                yield result, ""
