"""Which starts belong to which split; the one place that decides it.

Shipped initial states per task: train 0-29, validation 30-39, test 40-49. Each split, and calibration,
also owns a range of seeds for freshly sampled resets. Training code asks :func:`require_train`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from heisd.errors import BadInput, LeakError, UnknownName


class Split(StrEnum):
    """A named set of episode starts."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    CALIBRATION = "calibration"


class Condition(StrEnum):
    """What happens to target objects beside what the start says: displaced at once, or carried along by a belt."""

    SHIPPED = "shipped"
    JITTER = "jitter"
    JITTER4 = "jitter4"
    MOVING2 = "moving2"
    MOVING4 = "moving4"
    MOVING6 = "moving6"
    MOVING8 = "moving8"
    MOVING12 = "moving12"

    @property
    def jitter_m(self) -> float:
        """Half-width of the uniform xy offset of every target object [m]."""
        return {"jitter": 0.02, "jitter4": 0.04}.get(self.value, 0.0)

    @property
    def belt_m_s(self) -> float:
        """Speed at which the target is carried along the table [m/s]; its number is centimetres a second."""
        return int(self.value.removeprefix("moving")) / 100 if self.value.startswith("moving") else 0.0


SHIPPED_STATES: dict[Split, range] = {
    Split.TRAIN: range(0, 30),
    Split.VALIDATION: range(30, 40),
    Split.TEST: range(40, 50),
    Split.CALIBRATION: range(0, 0),
}
FRESH_SEEDS: dict[Split, range] = {
    Split.TRAIN: range(1_000_000, 2_000_000),
    Split.VALIDATION: range(2_000_000, 3_000_000),
    Split.TEST: range(3_000_000, 4_000_000),
    Split.CALIBRATION: range(4_000_000, 5_000_000),
}


@dataclass(frozen=True, slots=True)
class EpisodeStart:
    """One reproducible episode start: a shipped state or a fresh seed, and a condition."""

    suite: str
    task_index: int
    init_state: int | None  # shipped initial state, or None for a fresh reset
    seed: int | None  # seed of a fresh reset, or None for a shipped state
    condition: Condition = Condition.SHIPPED

    def __post_init__(self) -> None:
        if (self.init_state is None) == (self.seed is None):
            raise BadInput("an episode starts from a shipped state or from a seed: give exactly one of them")

    @property
    def split(self) -> Split:
        """The split that owns this start; raises BadInput when none does."""
        table, value = (FRESH_SEEDS, self.seed) if self.init_state is None else (SHIPPED_STATES, self.init_state)
        for split, owned in table.items():
            if value in owned:
                return split
        raise BadInput(f"start {value} belongs to no split (shipped states 0-49, fresh seeds 1,000,000-4,999,999)")

    @property
    def jitter_seed(self) -> int:
        """Seed of the target offsets: differs per task and start, never one used in training."""
        return 9_000_000_000 + self._number

    @property
    def belt_seed(self) -> int:
        """Seed of the belt's direction: differs per task and start, never one used in training."""
        return 90_000_000_000 + self._number

    @property
    def _number(self) -> int:
        base = self.seed if self.init_state is None else self.init_state
        assert base is not None
        return base * 1_000 + self.task_index

    @property
    def key(self) -> str:
        """Stable identifier used in result files."""
        where = f"seed{self.seed}" if self.init_state is None else f"init{self.init_state:02d}"
        return f"{self.suite}/task{self.task_index:02d}/{where}/{self.condition}"


def parse_split(name: str) -> Split:
    """``"test"`` -> Split.TEST, or UnknownName."""
    try:
        return Split(name)
    except ValueError:
        raise UnknownName("split", name, [s.value for s in Split]) from None


def parse_condition(name: str) -> Condition:
    """``"jitter"`` -> Condition.JITTER, or UnknownName."""
    try:
        return Condition(name)
    except ValueError:
        raise UnknownName("condition", name, [c.value for c in Condition]) from None


def episode_starts(
    suite: str,
    n_tasks: int,
    split: Split,
    n_episodes: int,
    *,
    condition: Condition = Condition.SHIPPED,
    fresh: bool = False,
    tasks: Sequence[int] | None = None,
    offset: int = 0,
) -> list[EpisodeStart]:
    """The first ``n_episodes`` starts of a split behind ``offset`` others, round-robin over tasks.

    Raises BadInput when the split has fewer shipped states than that asks for.
    """
    chosen = list(range(n_tasks)) if tasks is None else list(tasks)
    bad = [t for t in chosen if not 0 <= t < n_tasks]
    if bad or not chosen:
        raise BadInput(f"task indices {bad or chosen} are not in 0-{n_tasks - 1} of {suite}")
    if n_episodes < 1:
        raise BadInput(f"{n_episodes} episodes asked for; at least 1 is needed")
    owned = FRESH_SEEDS[split] if fresh else SHIPPED_STATES[split]
    behind, n_owned = f" behind {offset} others" if offset else "", len(owned) * len(chosen)
    if offset < 0 or offset + n_episodes > n_owned:
        raise BadInput(
            f"{n_episodes} episodes asked for{behind}, but split {split} has {len(owned)} shipped states "
            f"x {len(chosen)} tasks = {n_owned}; ask for fewer, or add --fresh for freshly sampled resets"
        )
    starts = []
    for i in range(offset, offset + n_episodes):
        task, which = chosen[i % len(chosen)], owned[i // len(chosen)]
        starts.append(EpisodeStart(suite, task, None if fresh else which, which if fresh else None, condition))
    return starts


def require_train(start: EpisodeStart) -> None:
    """Raise LeakError unless this start belongs to the train split."""
    if start.split is not Split.TRAIN:
        raise LeakError(f"{start.key} belongs to the {start.split} split and may not enter training data")


def parse_start(key: str) -> EpisodeStart:
    """Inverse of ``EpisodeStart.key``; BadInput for text that isn't one."""
    try:
        suite, task, where, condition = key.split("/")
        is_shipped = where.startswith("init")
        number = int(where.removeprefix("init" if is_shipped else "seed"))
        return EpisodeStart(suite, int(task.removeprefix("task")), number if is_shipped else None,
                            None if is_shipped else number, parse_condition(condition))  # fmt: skip
    except ValueError:
        raise BadInput(
            f"{key!r} is not the key of an episode start, such as libero_goal/task03/init07/shipped"
        ) from None
