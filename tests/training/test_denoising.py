from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.boxes import cxcywh_to_xyxy
from dfine_jax.training.denoising import (
    DenoisingNoise,
    apply_noise,
    denoising_slots,
    draw_noise,
    make_denoising,
)
from dfine_jax.training.targets import Targets

DATA = Path(__file__).parents[1] / "reference_numbers"
CLASSES, QUERIES = 7, 3
make = jax.jit(make_denoising, static_argnums=(2, 3))


def noise_behind(numbers: dict[str, np.ndarray], targets: Targets) -> DenoisingNoise:
    """The noise that must have been drawn, from the noisy boxes, by the layout that the docstring tells."""
    most = int(targets.mask.sum(-1).max())
    slot = np.arange(numbers["dn_labels"].shape[1])
    box = np.asarray(targets.boxes)[:, slot % most]
    real = np.asarray(targets.mask)[:, slot % most]
    noisy = 1 / (1 + np.exp(-numbers["dn_boxes_unact"].astype(np.float64)))
    low, high = np.split(noisy, 2, axis=-1)
    corners = np.concatenate([low - high / 2, low + high / 2], -1)
    move = (corners - np.asarray(cxcywh_to_xyxy(jnp.asarray(box)))) / np.tile(box[..., 2:] / 2, 2)
    negative = slot % (2 * most) >= most
    return DenoisingNoise(
        flip=jnp.asarray(real),
        label=jnp.asarray(numbers["dn_labels"]),
        direction=jnp.sign(jnp.asarray(move, jnp.float32)),
        amount=jnp.asarray(np.abs(move) - negative[:, None], jnp.float32),
    )


@pytest.mark.parametrize(
    ("file", "classes", "queries", "copies"), [("criterion", 7, 30, 20), ("denoising", 80, 300, 100)]
)
def test_queries_of_the_original(pad_targets, file, classes, queries, copies):
    numbers = np.load(DATA / f"{file}.npz")
    counts = numbers["target_counts"]
    targets = pad_targets(counts, numbers["target_boxes"], numbers["target_labels"], 5)
    apply = jax.jit(apply_noise, static_argnums=(2, 3, 4))
    made = jax.device_get(apply(noise_behind(numbers, targets), targets, classes, queries, copies))
    np.testing.assert_array_equal(made.blocked, numbers["dn_attention_blocked"])
    np.testing.assert_array_equal(made.labels, numbers["dn_labels"])
    np.testing.assert_allclose(made.boxes_unact, numbers["dn_boxes_unact"], rtol=2e-4, atol=2e-4)
    sigmoid = jax.nn.sigmoid
    np.testing.assert_allclose(sigmoid(made.boxes_unact), sigmoid(numbers["dn_boxes_unact"]), atol=1e-6)
    assert made.groups == numbers["dn_num_group"]
    assert made.used.all()
    for picture, count in enumerate(counts):
        positives = np.flatnonzero(made.positive[picture])
        np.testing.assert_array_equal(positives, numbers[f"dn_positive_{picture}"])
        np.testing.assert_array_equal(made.box[picture, positives], np.arange(len(positives)) % max(count, 1))


def targets_with(counts: list[int], places: int) -> Targets:
    """Small boxes in the middle, so that noise hits no edge of the picture."""
    box = jnp.tile(jnp.array([0.5, 0.4, 0.1, 0.2]), (len(counts), places, 1))
    labels = jnp.broadcast_to(jnp.arange(places) % CLASSES, (len(counts), places))
    return Targets(box, labels, jnp.arange(places) < jnp.array(counts)[:, None])


@pytest.mark.parametrize(
    ("counts", "groups"),
    [([0, 1], 100), ([3, 2], 33), ([0, 51], 1), ([100, 7], 1), ([101, 100], 1), ([130, 0], 1), ([0, 0], 0)],
)
def test_groups_slots_and_masks_for_any_number_of_boxes(counts, groups):
    targets, most = targets_with(counts, 130), max(counts)
    made = jax.device_get(make(jax.random.key(0), targets, CLASSES, QUERIES))
    slots = made.used.shape[0]
    assert slots == denoising_slots(130) == 260
    assert made.groups == groups
    assert made.used.sum() == 2 * most * groups
    np.testing.assert_array_equal(made.positive.sum(-1), np.array(counts) * groups)
    np.testing.assert_array_equal((made.labels < CLASSES).sum(-1), 2 * np.array(counts) * groups)
    for picture, count in enumerate(counts):
        copies = np.bincount(made.box[picture, made.positive[picture]], minlength=130)
        np.testing.assert_array_equal(copies, np.where(np.arange(130) < count, groups, 0))

    group = np.where(made.used, np.arange(slots) // max(2 * most, 1), -2 - np.arange(slots))
    group = np.concatenate([group, np.full(QUERIES, -1)])
    is_denoising = np.arange(slots + QUERIES) < slots
    np.testing.assert_array_equal(made.blocked, (group[:, None] != group) & is_denoising)
    assert not made.blocked.all(-1).any()


def test_noise_is_as_large_as_the_recipe_says():
    targets = targets_with([50, 50], 100)
    made = make(jax.random.key(1), targets, CLASSES, QUERIES)
    real, negative = made.labels < CLASSES, ~made.positive & (made.labels < CLASSES)
    boxes = jax.nn.sigmoid(made.boxes_unact)
    move = (cxcywh_to_xyxy(boxes) - cxcywh_to_xyxy(targets.boxes[0, 0])) / jnp.array([0.05, 0.1, 0.05, 0.1])
    positive_move = move[made.positive]
    assert jnp.abs(positive_move).max() <= 1.001
    assert abs(jnp.abs(positive_move).mean() - 0.5) < 0.03
    assert abs(positive_move.mean()) < 0.05
    # A negative's corners may cross and change places; in a box that grew they did not.
    grown = negative & (boxes[..., 2] > 0.1) & (boxes[..., 3] > 0.2)
    assert grown.sum() > 50
    assert jnp.abs(move[grown]).min() >= 0.999
    assert jnp.abs(move[grown]).max() <= 2.001
    true_label = jnp.take_along_axis(targets.labels, made.box, axis=-1)
    flipped = (made.labels != true_label)[real].mean()
    assert abs(flipped - 0.25 * (1 - 1 / CLASSES)) < 0.04


def test_corners_that_cross_change_places():
    targets = targets_with([1], 1)
    shape = (1, 200, 4)
    inwards = jnp.broadcast_to(jnp.array([1.0, 1.0, -1.0, -1.0]), shape)
    noise = DenoisingNoise(jnp.zeros(shape[:2], bool), jnp.zeros(shape[:2], int), inwards, jnp.full(shape, 0.5))
    made = jax.jit(apply_noise, static_argnums=(2, 3))(noise, targets, CLASSES, QUERIES)
    shrunk, crossed = jax.nn.sigmoid(made.boxes_unact[0, :2])
    np.testing.assert_allclose(shrunk, [0.5, 0.4, 0.05, 0.1], rtol=1e-4)
    np.testing.assert_allclose(crossed, [0.5, 0.4, 0.05, 0.1], rtol=1e-4)


def test_boxes_stay_in_the_picture_and_padding_is_empty():
    targets = targets_with([4, 1], 100)._replace(boxes=jnp.tile(jnp.array([0.95, 0.02, 0.2, 0.1]), (2, 100, 1)))
    made = make(jax.random.key(2), targets, CLASSES, QUERIES)
    corners = cxcywh_to_xyxy(jax.nn.sigmoid(made.boxes_unact))
    assert corners.min() >= -1e-4
    assert corners.max() <= 1 + 1e-4
    padding = made.labels == CLASSES
    assert padding.any()
    np.testing.assert_allclose(made.boxes_unact[padding], -11.512925, rtol=1e-6)


def test_padding_changes_nothing():
    few, many = targets_with([3, 1], 3), targets_with([3, 1], 100)
    shifted = few._replace(
        boxes=few.boxes.at[1, 2].set(few.boxes[1, 0]).at[1, 0].set(0.9),
        labels=few.labels.at[1, 2].set(few.labels[1, 0]).at[1, 0].set(6),
        mask=few.mask.at[1].set(jnp.array([False, False, True])),
    )
    made = [make(jax.random.key(3), targets, CLASSES, QUERIES) for targets in (few, many, shifted)]
    for field in ("labels", "boxes_unact", "blocked", "positive", "used", "groups"):
        for other in made[1:]:
            np.testing.assert_array_equal(getattr(made[0], field), getattr(other, field))
    assert (made[2].box[1, made[2].positive[1]] == 2).all()


def test_the_key_decides():
    targets = targets_with([2, 1], 100)
    first, again, other = (make(jax.random.key(seed), targets, CLASSES, QUERIES).boxes_unact for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_too_few_slots_are_refused():
    noise = draw_noise(jax.random.key(0), 1, 200, CLASSES)
    with pytest.raises(ValueError, match=r"200 denoising slots are too few.*denoising_slots\(101, 100\) = 202"):
        apply_noise(noise, targets_with([1], 101), CLASSES, QUERIES)
