"""Repeat factors and held-out pictures: how often each picture is shown, and which are kept from training."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dfine_jax.data.augmentation import LAST_PHASE, Augmentation
from dfine_jax.data.holdout import held_out_count, hold_out
from dfine_jax.data.loader import TrainBatches
from dfine_jax.data.samples import Dataset
from dfine_jax.data.sampling import epoch_length, epoch_order, repeat_factors
from dfine_jax.data.shapes import shapes


def labelled(*labels: list[int]) -> Dataset:
    """A data set of classes a, b, c in which each picture has one box of each of these labels."""
    template = shapes(1, size=32).records[0]
    boxes = np.array([[2, 2, 20, 20]], np.float32)
    records = [
        replace(
            template,
            image_id=i,
            boxes=np.repeat(boxes, len(own), axis=0),
            labels=np.array(own, np.int32),
            areas=np.ones(len(own), np.float32),
        )
        for i, own in enumerate(labels)
    ]
    return Dataset(("a", "b", "c"), (1, 2, 3), records, most_boxes=2)


def test_repeat_factors_are_those_of_lvis():
    """Of 8 pictures all have a, two have b, one has c: factors 1, sqrt(0.5 / 0.25) and sqrt(0.5 / 0.125)."""
    dataset = labelled([0], [0], [0, 1], [0, 1, 2], [0], [0], [0, 0], [])
    wanted = [1, 1, 2**0.5, 2, 1, 1, 1, 1]
    np.testing.assert_allclose(repeat_factors(dataset, frequent=0.5), wanted)
    assert repeat_factors(dataset) == (1.0,) * 8


def test_pictures_come_as_often_as_their_factors_say():
    factors = (1.0, 1.0, 1.5, 2.25, 1.0, 3.0)
    length = epoch_length(6, factors)
    assert length == 9
    epochs = [epoch_order(6, 3, epoch, factors) for epoch in range(400)]
    assert {len(order.pictures) for order in epochs} == {length}
    counts = np.array([np.bincount(order.pictures, minlength=6) for order in epochs])
    np.testing.assert_allclose(counts.mean(axis=0), np.array(factors) * length / sum(factors), atol=0.12)
    assert np.ptp(counts, axis=0).max() <= 1
    assert len({tuple(order.pictures) for order in epochs[:20]}) == 20
    for order in epochs[:5]:
        assert sorted(zip(order.pictures.tolist(), order.repeats.tolist(), strict=True)) == sorted(
            (picture, repeat) for picture, count in Counter(order.pictures.tolist()).items() for repeat in range(count)
        )


def test_a_repeated_picture_is_changed_differently():
    dataset = shapes(2, size=32)
    batches = TrainBatches(dataset, 4, 1, seed=0, size=32, max_boxes=8, repeat_factors=(3.0, 1.0))
    batch = batches[0].batch
    assert batches.steps_per_epoch == 1
    rows = [batch.images[row] for row in range(4) if batch.indices[row] == 0]
    assert len(rows) == 3
    assert not any(np.array_equal(rows[0], other) for other in rows[1:])


def test_a_length_in_steps_ends_in_the_middle_of_an_epoch():
    dataset = shapes(11, size=32)
    settings = dict(seed=4, size=32, max_boxes=8)
    whole = TrainBatches(dataset, 2, 3, **settings)
    some = TrainBatches(dataset, 2, 1, **settings, steps=8, strong_steps=7)
    assert (len(whole), len(some)) == (15, 8)
    for number in (0, 6):
        np.testing.assert_array_equal(whole[number].batch.images, some[number].batch.images)
    plain = TrainBatches(dataset, 2, 3, **settings, augmentation=LAST_PHASE)
    np.testing.assert_array_equal(plain[7].batch.images, some[7].batch.images)
    assert not np.array_equal(whole[7].batch.images, some[7].batch.images)


def test_dense_augmentation_fills_the_first_half():
    dense = Augmentation(preset="dense")
    assert (dense.at(0.49).mosaic, dense.at(0.49).mixup) == (0.5, 0.5)
    assert (dense.at(0.5).mosaic, dense.at(0.5).mixup) == (0.0, 0.0)
    assert Augmentation(mosaic=0.1).at(0.0).mosaic == 0.1
    settings = dict(seed=0, size=64, max_boxes=64, steps=40, strong_steps=40)
    batches = TrainBatches(shapes(8, size=64), 4, 1, **settings, augmentation=dense)
    boxes = [batches[number].batch.mask.sum() for number in range(40)]
    assert np.mean(boxes[:20]) > 1.4 * np.mean(boxes[20:])


@pytest.mark.parametrize(
    ("pictures", "count"),
    [(1, 0), (2, 1), (7, 3), (10, 5), (12, 5), (59, 5), (60, 6), (205, 20), (10_000, 1000), (100_000, 1000)],
)
def test_a_tenth_is_held_out(pictures, count):
    assert held_out_count(pictures) == count


def test_held_out_pictures_are_fixed_by_the_seed_and_no_others_are_lost():
    dataset = shapes(60, size=32)
    (train, held), (_, again), (_, other) = hold_out(dataset, 0), hold_out(dataset, 0), hold_out(dataset, 1)
    names = [{record.image_id for record in part.records} for part in (train, held, again, other)]
    assert (len(train), len(held)) == (54, 6)
    assert names[0] | names[1] == {record.image_id for record in dataset.records}
    assert names[1] == names[2] != names[3]
    with pytest.raises(IndexError):
        held.records[6]
