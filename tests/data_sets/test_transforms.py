"""What the augmentations do to boxes, and that the pixels go where the boxes go."""

import numpy as np
import pytest
from dataset_files import make_record

from dfine_jax.data.augmentation import LAST_PHASE, LONGEST_SIDE, Augmentation, augmented, plain
from dfine_jax.data.mosaic import mixup, mosaic
from dfine_jax.data.samples import Dataset, Sample
from dfine_jax.data.transforms import (
    CROP_RATIOS,
    crop,
    drop_small,
    flip,
    iou_crop,
    photometric,
    resize,
    stretch,
    zoom_out,
)

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
BOXES = [[10, 20, 40, 50], [60, 5, 90, 65], [100, 40, 115, 75]]


def painted(boxes=BOXES, *, size=(120, 80), ground=60) -> Sample:
    """A grey picture in which each box is filled with the colour of its label."""
    picture = np.full((size[1], size[0], 3), ground, np.uint8)
    for label, (left, top, right, bottom) in enumerate(boxes):
        picture[top:bottom, left:right] = COLOURS[label]
    return Sample(picture, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes), dtype=np.int32))


def assert_colours_follow(sample: Sample, tolerance: float = 1.0) -> None:
    """The pixels of each label's colour fill its box to within `tolerance` pixels, and no others have it."""
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        rows, columns = np.nonzero((np.abs(sample.picture.astype(int) - COLOURS[label]) < 100).all(axis=2))
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, found, atol=tolerance)


def test_flip():
    flipped = flip(painted())
    np.testing.assert_array_equal(flipped.boxes, [[80, 20, 110, 50], [30, 5, 60, 65], [5, 40, 20, 75]])
    assert_colours_follow(flipped, 0)
    twice = flip(flipped)
    np.testing.assert_array_equal(twice.boxes, BOXES)
    np.testing.assert_array_equal(twice.picture, painted().picture)


def test_stretch_scales_each_side_by_itself():
    stretched = stretch(painted(), 240)
    np.testing.assert_allclose(stretched.boxes, np.array(BOXES) * [2, 3, 2, 3])
    assert stretched.picture.shape == (240, 240, 3)
    assert_colours_follow(stretched, 1.5)
    assert_colours_follow(resize(flip(painted()), 60, 40))


def test_zoom_out_moves_boxes_onto_a_black_ground():
    factors = []
    for seed in range(30):
        zoomed = zoom_out(np.random.default_rng(seed), painted(), 4.0)
        height, width = zoomed.picture.shape[:2]
        factors.append(width / 120)
        assert abs(width / 120 - height / 80) < 0.03
        np.testing.assert_array_equal(
            zoomed.boxes[:, 2:] - zoomed.boxes[:, :2], np.subtract(BOXES, 0)[:, 2:] - np.array(BOXES)[:, :2]
        )
        assert_colours_follow(zoomed, 0)
        assert np.count_nonzero(zoomed.picture.any(axis=2)) == 120 * 80  # the rest is black
    assert 1.0 <= min(factors) < 1.5 < 3.5 < max(factors) <= 4.0


def test_crop_keeps_boxes_with_their_centre_inside_and_clips_them():
    cut = crop(painted(), np.array([30, 10, 108, 60]))
    # The first box's centre (25) is outside, the second is whole but for its ends, the third (centre 107.5) loses half.
    np.testing.assert_array_equal(cut.boxes, [[30, 0, 60, 50], [70, 30, 78, 50]])
    assert cut.labels.tolist() == [1, 2]
    assert_colours_follow(cut, 0)


def test_iou_crop_keeps_the_overlap_it_chose():
    unchanged = 0
    for seed in range(200):
        cut = iou_crop(np.random.default_rng(seed), painted())
        height, width = cut.picture.shape[:2]
        if (height, width) == (80, 120):
            unchanged += 1
            continue
        assert 0.3 * 120 - 1 <= width <= 120
        assert 0.3 * 80 - 1 <= height <= 80
        assert CROP_RATIOS[0] <= width / height <= CROP_RATIOS[1]
        assert 1 <= len(cut.boxes) <= 3
        assert_colours_follow(cut, 0)
    # One choice in seven leaves the picture alone; choices that can't be met are made again, which makes it more.
    assert 200 / 7 * 0.6 < unchanged < 120


def test_iou_crop_of_demanding_overlap(monkeypatch):
    monkeypatch.setattr("dfine_jax.data.transforms.CROP_OVERLAPS", (0.5,))
    sample = painted([[10, 10, 110, 70]])
    for seed in range(20):
        cut = iou_crop(np.random.default_rng(seed), sample)
        height, width = cut.picture.shape[:2]
        left, top, right, bottom = cut.boxes[0]
        shared = (right - left) * (bottom - top)
        assert shared / (width * height + 100 * 60 - shared) >= 0.5


def test_iou_crop_leaves_pictures_without_boxes_alone():
    empty = painted([])
    assert iou_crop(np.random.default_rng(0), empty) is empty


def test_small_and_outlying_boxes_are_dropped():
    boxes = [
        [0, 0, 1, 1],
        [5, 5, 5.9, 30],
        [-10, -10, 20, 20],
        [119.5, 0, 130, 9],
        [115, 70, 125, 90],
        [200, 5, 300, 9],
    ]
    sample = painted([])._replace(boxes=np.array(boxes, np.float32), labels=np.arange(6, dtype=np.int32))
    kept = drop_small(sample)
    assert kept.labels.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(kept.boxes, [[0, 0, 1, 1], [0, 0, 20, 20], [115, 70, 120, 80]])


def test_photometric_changes_colours_within_bounds_and_nothing_else():
    sample = painted(ground=128)
    ranges = {1.0: [], 0.0: []}
    for probability, values in ranges.items():
        for seed in range(40):
            changed = photometric(np.random.default_rng(seed), sample, probability)
            assert changed.boxes is sample.boxes
            assert changed.picture.shape == sample.picture.shape
            values.append(changed.picture[0, 0].astype(int))
    assert (np.array(ranges[0.0]) == 128).all()
    greys = np.array(ranges[1.0])
    # Grey stays grey whatever the hue, saturation and order; brightness moves it by an eighth, contrast about the mean.
    assert (greys.max(axis=1) == greys.min(axis=1)).all()
    assert 80 < greys.min() < 118 < 138 < greys.max() < 180


def test_hue_turns_by_a_twentieth_at_most(monkeypatch):
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION"):
        monkeypatch.setattr(f"dfine_jax.data.transforms.{name}", (1.0, 1.0))
    red = Sample(np.full((2, 2, 3), (255, 0, 0), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    for seed in range(30):
        first, second, third = sorted(photometric(np.random.default_rng(seed), red, 1.0).picture[0, 0].tolist())
        assert (first, third) == (0, 255)
        assert second <= 255 * 6 * 0.05 + 3


def test_mosaic_joins_four_quarters():
    samples = tuple(painted([[20, 20, 100, 60]], ground=40 * number) for number in range(1, 5))
    for seed in range(10):
        joined = mosaic(np.random.default_rng(seed), samples, 120)
        assert joined.picture.shape == (120, 120, 3)
        assert (joined.boxes >= 0).all()
        assert (joined.boxes <= 120).all()
        assert (joined.labels == 0).all()
        assert 1 <= len(joined.boxes) <= 4
        for left, top, right, bottom in np.round(joined.boxes).astype(int):
            inner = joined.picture[top + 2 : bottom - 2, left + 2 : right - 2].astype(int)
            assert (np.abs(inner - COLOURS[0]) < 60).all()


def test_mixup_shows_both():
    first, second = painted(BOXES[:1], ground=0), painted(BOXES[1:2], ground=200)
    mixed = mixup(np.random.default_rng(0), first, second)
    np.testing.assert_array_equal(mixed.boxes, BOXES[:2])
    assert mixed.labels.tolist() == [0, 0]
    assert 80 <= mixed.picture[0, 0, 0] <= 120
    with pytest.raises(ValueError, match="one size"):
        mixup(np.random.default_rng(0), first, painted(size=(121, 80)))


def dataset_of(*samples: Sample) -> Dataset:
    records = []
    for number, sample in enumerate(samples):
        height, width = sample.picture.shape[:2]
        record = make_record(number, sample.boxes, sample.labels, size=(width, height))
        object.__setattr__(record, "picture", sample.picture)
        records.append(record)
    return Dataset(("red", "green", "blue"), (1, 2, 3), records, 3)


def test_the_whole_chain_keeps_boxes_on_their_pixels():
    dataset = dataset_of(painted(), painted([[5, 5, 60, 70], [70, 30, 110, 60]]))
    without_colours = Augmentation(photometric=0.0)
    boxes = 0
    for seed in range(40):
        sample = augmented(dataset, seed % 2, 240, np.random.default_rng(seed), without_colours)
        assert sample.picture.shape == (240, 240, 3)
        large = (sample.boxes[:, 2:] - sample.boxes[:, :2]).min(axis=1, initial=99) > 12
        boxes += large.sum()
        if large.all():
            assert_colours_follow(sample, 4.0)
    assert boxes > 40


def test_the_last_phase_only_flips():
    dataset = dataset_of(painted())
    expected = [stretch(painted(), 64), stretch(flip(painted()), 64)]
    seen = set()
    for seed in range(12):
        sample = augmented(dataset, 0, 64, np.random.default_rng(seed), LAST_PHASE)
        match = [number for number, one in enumerate(expected) if np.array_equal(one.picture, sample.picture)]
        np.testing.assert_array_equal(sample.boxes, expected[match[0]].boxes)
        seen.update(match)
    assert seen == {0, 1}
    np.testing.assert_array_equal(plain(dataset, 0, 64).picture, expected[0].picture)


def test_options_add_pictures():
    dataset = dataset_of(*(painted() for _ in range(5)))
    everything = Augmentation(mosaic=1.0, mixup=1.0, zoom_out=0.0, iou_crop=0.0)
    counts = [len(augmented(dataset, 0, 96, np.random.default_rng(seed), everything).boxes) for seed in range(5)]
    assert max(counts) > 6


def test_large_pictures_are_shrunk_first():
    dataset = dataset_of(painted([[300, 0, 3000, 40]], size=(3072, 40)))
    sizes = []
    sample = augmented(dataset, 0, 64, np.random.default_rng(0), Augmentation(0.0, 0.0, 4.0, 0.0, 0.0))
    sizes.append(sample.picture.shape)
    np.testing.assert_allclose(sample.boxes, [[6.25, 0, 62.5, 64]], atol=0.05)
    assert sizes == [(64, 64, 3)]
    assert LONGEST_SIDE < 3072


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match=r"flip is a probability: 1\.5"):
        Augmentation(flip=1.5)
    with pytest.raises(ValueError, match="zoom_out_most must be at least 1"):
        Augmentation(zoom_out_most=0.5)
