"""What a task file says about its targets: which objects they are, what carries them, whether they stand on the table.

Works on what LIBERO's parser makes of a BDDL file (``parsed_problem``); no simulation is needed.
"""

from collections.abc import Collection, Mapping
from typing import Any

from heisd.errors import BadInput
from heisd.sim.suites import import_libero, suite_info

Problem = Mapping[str, Any]  # LIBERO's parsed_problem
_TABLES = ("table", "floor")  # how the kinds of fixture end that things stand on in every scene


def movable(problem: Problem) -> set[str]:
    """Names of the objects that can move."""
    return {name for names in problem["objects"].values() for name in names}


def targets(problem: Problem) -> list[str]:
    """The objects of interest that can move."""
    return [name for name in problem["obj_of_interest"] if name in movable(problem)]


def with_carriers(problem: Problem, name: str) -> tuple[str, ...]:
    """``name`` and the chain of movable objects it stands on, short of another target."""
    stands_on, group = _stands_on(problem), [name]
    while (below := stands_on.get(group[-1], "")) in movable(problem) and below not in targets(problem):
        group.append(below)
    return tuple(group)


def first_to_grasp(problem: Problem) -> str | None:
    """The object that the goal's first conjunct about a movable one puts somewhere; None for a task without."""
    wanted = (str(conjunct[1]) for conjunct in problem["goal_state"])
    return next((name for name in wanted if name in movable(problem)), None)


def stands_on_table(problem: Problem, name: str) -> bool:
    """Whether an object, or what carries it, stands on the scene's table or floor and not in or on a fixture."""
    region = _stands_on(problem).get(with_carriers(problem, name)[-1], "")
    owner = problem["regions"].get(region, {}).get("target")
    kinds = [kind for kind, names in problem["fixtures"].items() if owner in names]
    return any(kind.endswith(_TABLES) for kind in kinds)


def require_carriable(suite: str, tasks: Collection[int] | None) -> None:
    """BadInput when one of the tasks (None: any of the suite) has no target that a belt on the table can carry.

    Numbers that are no task of the suite are left to those who look tasks up.
    """
    parse, known = import_libero("libero.libero.envs.bddl_utils").robosuite_parse_problem, suite_info(suite).tasks
    fit = [task.index for task in known if _is_carriable(parse(str(task.bddl_file)))]
    asked = [task.index for task in known if tasks is None or task.index in tasks]
    if unfit := [index for index in asked if index not in fit]:
        raise BadInput(
            f"in task(s) {', '.join(map(str, unfit))} of {suite} no target stands on the table, where a belt could "
            f"carry it; choose others: --tasks {','.join(map(str, fit)) or '(none of this suite)'}"
        )


def _is_carriable(problem: Problem) -> bool:
    name = first_to_grasp(problem)
    return name is not None and stands_on_table(problem, name)


def _stands_on(problem: Problem) -> dict[str, str]:
    return {state[1]: state[2] for state in problem["initial_state"] if state[0] == "on"}
