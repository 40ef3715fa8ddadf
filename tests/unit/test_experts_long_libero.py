"""The experts on the long tasks: stages, handles, slots, compartments, drawers and ovens; physics only."""

import numpy as np
import pytest

pytest.importorskip("libero", reason="needs the extra `libero`")

from heisd.sim.experts import Style
from heisd.sim.experts.compartments import along, below_handles, beside, centred, in_oven, is_low, over_rim
from heisd.sim.experts.grasps import plan_grasp, plan_handle_grasp
from heisd.sim.experts.measure import Trial, run_task
from heisd.sim.experts.primitives import Hand
from heisd.sim.experts.tasks import in_order
from heisd.sim.libero import LiberoEnv
from heisd.sim.rendering import NONE
from heisd.sim.splits import EpisodeStart

pytestmark = pytest.mark.libero


@pytest.fixture
def opened():
    """Scenes of libero_10 tasks at their first shipped state, with the hand; closed at the end."""
    environments = []

    def open_(task: int):
        env = LiberoEnv("libero_10", task, rendering=NONE)
        environments.append(env)
        observation, _ = env.reset(EpisodeStart("libero_10", task, 0, None))
        return env.scene, Hand.of(observation.proprio)

    yield open_
    for env in environments:
        env.close()


@pytest.mark.parametrize("task", [5, 8])
def test_the_nominal_expert_succeeds_on_long_tasks_without_a_retry(task):
    trial = Trial("libero_10", n_states=1, is_sampled=False, is_fresh=False, jitter_m=0.0, seed=0)
    (outcome,) = run_task(trial, task)
    assert outcome.is_success
    assert outcome.n_retries == 0


def test_pots_share_a_burner_side_by_side_and_are_grasped_across(opened):
    scene, _ = opened(8)
    site = "flat_stove_1_cook_region"
    pots = ("moka_pot_1", "moka_pot_2")
    places = np.array([beside(lambda now: now.pose(site).position_m, scene, pot, site)(scene) for pot in pots])
    extent = scene.extent_m(site)
    assert (np.abs(places - scene.pose(site).position_m)[:, :2] < extent[:2]).all()
    widths = [np.ptp(scene.points(pot)[:, 0]) for pot in pots]
    assert np.linalg.norm(places[1] - places[0]) > np.mean(widths) + 0.02  # a finger fits between
    for pot in pots:
        grasp = plan_grasp(scene, pot, Style.nominal())
        assert grasp.is_tight
        assert -np.pi / 2 <= grasp.yaw_rad < 1.0


def test_a_mug_goes_into_the_oven_by_its_handle_with_the_hand_outside(opened):
    scene, hand = opened(9)
    name, site = "white_yellow_mug_1", "microwave_1_heating_region"
    place, extent = in_oven(site)(scene), scene.extent_m(site)
    assert (np.abs(place - scene.pose(site).position_m)[:2] < extent[:2]).all()  # LIBERO would call it inside
    grasp = plan_handle_grasp(scene, name, Style.nominal())
    handle_m = grasp.point(scene.pose(name)) - scene.pose(name).position_m
    front_m = scene.pose(site).position_m[1] - extent[1]
    assert place[1] + handle_m[1] + 0.034 < front_m  # half the hand's thickness
    assert abs(grasp.yaw_rad) == pytest.approx(np.pi / 2, abs=0.1)
    assert abs(hand.heading_rad) < 0.3


def test_a_book_is_turned_along_its_compartment_and_put_in_the_middle_of_it(opened):
    scene, hand = opened(5)
    name, site = "black_book_1", "desk_caddy_1_back_contain_region"
    turn = along(scene, name, site)
    assert turn is not None
    xy = scene.points(name)[:, :2] - scene.points(name)[:, :2].mean(axis=0)
    angle = turn(scene, hand)
    turned = xy @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    room_m = 2.0 * scene.extent_m(site)[:2]
    assert (np.ptp(turned, axis=0) < room_m).all()
    assert not (np.ptp(xy, axis=0) < room_m).all()
    middle = (xy.min(axis=0) + xy.max(axis=0)) / 2.0 + scene.points(name)[:, :2].mean(axis=0)
    moved = centred(lambda _: np.zeros(3), name)(scene)[:2] - scene.pose(name).position_m[:2]
    assert middle + moved == pytest.approx(np.zeros(2), abs=1e-9)


def test_what_shares_a_basket_is_dropped_from_above_its_rim(opened):
    scene, _ = opened(1)
    site = "basket_1_contain_region"
    rim_m = scene.points("basket_1")[:, 2].max()
    assert along(scene, "butter_1", site) is None
    for name in ("butter_1", "cream_cheese_1"):
        place = over_rim(lambda now: now.pose(site).position_m, scene, name, site)(scene)
        grasp = plan_grasp(scene, name, Style.nominal()).point(scene.pose(name))
        in_fingers_m = grasp[2] - scene.points(name)[:, 2].min()
        assert place[2] + in_fingers_m + 0.010 > rim_m + 0.030  # where the palm begins
        assert place[:2] == pytest.approx(scene.pose(site).position_m[:2])


def test_a_bowl_passes_the_handle_of_the_drawer_above(opened):
    scene, _ = opened(3)
    drawer, cabinet, bowl = "white_cabinet_1_bottom_region", "white_cabinet_1", "akita_black_bowl_1"
    assert is_low(scene, drawer)
    assert not is_low(scene, "white_cabinet_1_top_region")
    place = below_handles(scene, bowl, drawer)(scene)
    points = scene.points(cabinet)
    handles = points[(np.abs(points[:, 2] - place[2] - 0.065) < 0.02) & (np.abs(points[:, 0] - place[0]) < 0.06)]
    assert len(handles)
    assert handles[:, 1].min() - place[1] > np.ptp(scene.points(bowl)[:, 1]) / 2.0
    assert np.abs(place - scene.pose(drawer).position_m)[1] < scene.extent_m(drawer)[1]


def test_what_is_low_is_put_down_before_what_is_tall_and_doors_are_closed_last(opened):
    scene, _ = opened(6)
    assert [goal.arguments[0] for goal in in_order(scene)] == ["chocolate_pudding_1", "porcelain_mug_1"]
    scene, _ = opened(3)
    assert [goal.predicate for goal in in_order(scene)] == ["in", "close"]
    scene, _ = opened(2)
    assert [goal.predicate for goal in in_order(scene)] == ["turnon", "on"]
