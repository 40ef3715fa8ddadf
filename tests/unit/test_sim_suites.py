"""Suites and protocols: what exists, what is refused, which sentence is asked."""

import subprocess
import sys

import pytest

from heisd.errors import BadInput, IncompleteSuite, UnknownName
from heisd.sim.protocols import KERV, LEROBOT, OPENVLA, PROTOCOLS, base_suite, parse_protocol

pytest.importorskip("libero", reason='needs pip install "heisd[libero]"')

from heisd.sim.suites import complete_suites, init_states, suite_info


def test_the_33_complete_suites_hold_389_tasks() -> None:
    suites = [suite_info(name) for name in complete_suites()]
    assert len(suites) == 33
    assert sum(suite.n_tasks for suite in suites) == 389


def test_a_suite_lists_its_tasks_in_order() -> None:
    suite = suite_info("libero_object")
    assert [task.index for task in suite.tasks] == list(range(10))
    assert suite.task(0).instruction == "pick up the alphabet soup and place it in the basket"
    assert suite.task(0).n_init_states == 50
    assert init_states(suite.task(0)).shape == (50, 110)
    with pytest.raises(BadInput, match="0-9"):
        suite.task(10)


@pytest.mark.parametrize(
    ("suite", "source"),
    [
        ("libero_goal", "filename"),
        ("libero_goal_object", "filename"),
        ("libero_goal_swap", "filename"),
        ("libero_goal_with_mug", "filename"),
        ("libero_goal_lan", "bddl"),
        ("libero_goal_task", "bddl"),
    ],
)
def test_the_sentence_comes_from_where_the_variant_changes_it(suite: str, source: str) -> None:
    info, base = suite_info(suite), suite_info("libero_goal")
    assert info.instruction_source == source
    sentences = [task.instruction for task in info.tasks]
    assert all(sentence.isascii() and sentence.strip() == sentence for sentence in sentences)
    same_as_base = sentences == [task.instruction for task in base.tasks]
    assert same_as_base == (source == "filename")


def test_wrong_suites_are_refused_with_what_exists() -> None:
    with pytest.raises(UnknownName, match="libero_spatial"):
        suite_info("libero_spatal")
    with pytest.raises(IncompleteSuite, match=r"incomplete \(missing: .*libero_object"):
        suite_info("libero_object_with_trigger")
    with pytest.raises(IncompleteSuite, match="empty"):
        suite_info("libero_10_with_milk")  # its initial-state files hold no states
    with pytest.raises(IncompleteSuite, match="all tasks"):
        suite_info("libero_100")


def test_listing_suites_imports_no_simulator() -> None:
    code = (
        "import sys; from heisd.sim.suites import suite_info; suite_info('libero_goal'); print('mujoco' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_perturbed_suites_take_the_horizon_of_their_base() -> None:
    assert [base_suite(name) for name in ("libero_10_swap", "libero_goal", "libero_mine")] == [
        "libero_10",
        "libero_goal",
        "libero_90",
    ]
    assert OPENVLA.horizon("libero_spatial_with_mug") == OPENVLA.horizon("libero_spatial") == 220
    assert LEROBOT.horizon("libero_spatial") == 280
    assert KERV.horizon("libero_10_lan") == 470


def test_a_protocol_can_be_echoed_looked_up_and_hashed() -> None:
    for name, protocol in PROTOCOLS.items():
        assert parse_protocol(name) is protocol
        assert protocol.as_dict()["name"] == name
        assert protocol.as_dict()["horizon_by_suite"]["libero_object"] == protocol.horizon("libero_object")
    assert len(set(PROTOCOLS.values())) == len(PROTOCOLS)
    with pytest.raises(UnknownName, match="kerv, lerobot, openpi, openvla"):
        parse_protocol("open-vla")
