"""Targets and augmentation of the training loop."""

import numpy as np
import torch

from heisd.train import augment, targets


def test_next_event_points_at_the_gripper_change_and_never_crosses_an_episode() -> None:
    eef = np.arange(18, dtype=float).reshape(6, 3)
    gripper = np.array([0, 0, 1, 1, 0, 0], dtype=bool)
    episode = np.array([0, 0, 0, 0, 1, 1])
    offset = targets.next_event_offset_m(eef, gripper, episode)
    # Frame 1 is the last one before the hand closes; frame 3 and 5 end their episodes.
    np.testing.assert_allclose(offset[:, 0], [3, 0, 3, 0, 3, 0])


def test_shift_moves_pixels_without_inventing_any(rng: np.random.Generator) -> None:
    images = rng.integers(0, 255, size=(3, 2, 16, 16, 3), dtype=np.uint8)
    out = augment.shifted(images, rng, max_shift_px=2)
    assert out.shape == images.shape
    for b in range(3):
        for c in range(2):
            assert set(map(tuple, out[b, c].reshape(-1, 3))) <= set(map(tuple, images[b, c].reshape(-1, 3)))
    np.testing.assert_array_equal(augment.shifted(images, rng, max_shift_px=0), images)


def test_disturbed_bins_leave_the_gripper_and_stay_in_range(rng: np.random.Generator) -> None:
    bins = torch.randint(0, 256, (500, 7))
    out = augment.disturbed_bins(bins, rng, share=0.5)
    assert torch.equal(out[:, -1], bins[:, -1])
    assert int(out.min()) >= 0
    assert int(out.max()) <= 255
    assert 0.3 < float((out[:, :-1] != bins[:, :-1]).float().mean()) < 0.55


def test_bin_smoothing_are_distributions_centred_on_the_label() -> None:
    table = augment.bin_smoothing(1.5)
    torch.testing.assert_close(table.sum(-1), torch.ones(256))
    assert torch.equal(table.argmax(-1), torch.arange(256))


def test_recolouring_keeps_the_range(rng: np.random.Generator) -> None:
    images = torch.rand(4, 2, 3, 8, 8) * 255
    out = augment.recoloured(images.clone(), rng)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 255
    assert not torch.equal(out, images)


def test_waiting_is_being_still_on_closed_fingers_behind_the_start_of_a_grasp() -> None:
    # approach, start of the grasp, closing, still, closing again; the next episode starts grasping
    phase = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    speed = np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.1, -0.1, 0.011, -0.002, -0.1, 0.0, 0.0])
    closing = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], dtype=bool)
    episode = np.array([0] * 10 + [1] * 2)
    assert np.flatnonzero(targets.waiting_mask(speed, phase, closing, episode)).tolist() == [7, 8]
    assert not targets.waiting_mask(speed, phase, ~closing, episode).any()
