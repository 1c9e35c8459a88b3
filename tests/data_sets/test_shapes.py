"""The drawn data set: labels are exact, pictures pure functions of their number."""

import numpy as np
import pytest

from dfine_jax.data import shapes as drawing
from dfine_jax.data.formats import open_dataset
from dfine_jax.data.samples import DataError
from dfine_jax.data.shapes import CLASS_NAMES, LEAST_VISIBLE, MOST_SHAPES, Shape, draw, shapes
from dfine_jax.data.write import write_shapes

WHITE = (255, 255, 255)


def drawn_alone(monkeypatch, *placed: Shape, size: int = 96):
    """Draws given shapes, white on a ground that is made black."""
    monkeypatch.setattr(drawing, "_place", lambda *_: list(placed))
    return draw(0, size=size)


def test_pictures_are_functions_of_seed_split_and_index():
    first, again = draw(7, size=64, seed=3), draw(7, size=64, seed=3)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for other in (draw(8, size=64, seed=3), draw(7, size=64, seed=4), draw(7, size=64, seed=3, split="val")):
        assert not np.array_equal(first.picture, other.picture)


@pytest.mark.parametrize("size", [32, 192, 331])
def test_boxes_lie_in_the_picture(size):
    for index in range(20):
        one = draw(index, size=size)
        assert one.picture.shape == (size, size, 3)
        assert one.picture.dtype == np.uint8
        assert len(one.boxes) == len(one.labels) == len(one.areas) <= MOST_SHAPES
        assert (one.boxes >= 0).all()
        assert (one.boxes <= size).all()
        sides = one.boxes[:, 2:] - one.boxes[:, :2]
        assert (sides >= 1).all()
        assert (one.areas <= sides.prod(axis=1) * 1.01).all()


@pytest.mark.parametrize(("angle", "half"), [(np.pi / 4, 20 / np.sqrt(2)), (0.0, 20.0)])
def test_the_box_of_a_square_is_known_to_a_fraction_of_a_pixel(monkeypatch, angle, half):
    x, y = 40.3, 51.6
    one = drawn_alone(monkeypatch, Shape(CLASS_NAMES.index("square"), x, y, 20.0, angle, WHITE))
    # Drawn in quarters of a pixel; a corner that stands on its tip is cut where it covers less than half of a pixel.
    tolerance = 0.25 if angle else 0.8
    np.testing.assert_allclose(one.boxes[0], [x - half, y - half, x + half, y + half], atol=tolerance)
    assert one.areas[0] == pytest.approx(800, rel=0.03)


@pytest.mark.parametrize(
    ("name", "share"), [("circle", np.pi), ("ring", np.pi * (1 - 0.56**2)), ("square", 2.0), ("triangle", 1.299)]
)
def test_areas_are_those_of_the_forms(monkeypatch, name, share):
    one = drawn_alone(monkeypatch, Shape(CLASS_NAMES.index(name), 48.2, 47.9, 30.0, 0.4, WHITE))
    assert one.areas[0] == pytest.approx(share * 900, rel=0.03)
    assert one.labels.tolist() == [CLASS_NAMES.index(name)]


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)))
def test_boxes_are_tight_around_the_pixels(monkeypatch, label):
    monkeypatch.setattr(drawing, "_ground", lambda *_: drawing.Image.new("RGB", (96, 96)))
    for angle in (0.0, 0.7, 2.5):
        one = drawn_alone(monkeypatch, Shape(label, 50.4, 44.7, 25.0, angle, WHITE))
        rows, columns = np.nonzero(one.picture.min(axis=2) > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(one.boxes[0], found, atol=0.76)


def test_hidden_parts_are_outside_of_the_box(monkeypatch):
    square, circle = CLASS_NAMES.index("square"), CLASS_NAMES.index("circle")
    below = Shape(square, 40.0, 48.0, 20 * np.sqrt(2), np.pi / 4, (200, 0, 0))  # 20 to 60
    above = Shape(square, 58.0, 48.0, 30 * np.sqrt(2), np.pi / 4, (0, 200, 0))  # 28 to 88
    one = drawn_alone(monkeypatch, below, above)
    assert one.labels.tolist() == [square]  # a fifth of the first is left: too little
    np.testing.assert_allclose(one.boxes, [[28, 18, 88, 78]], atol=0.3)
    further = Shape(circle, 68.0, 48.0, 25.0, 0.0, (0, 200, 0))
    one = drawn_alone(monkeypatch, below, further)
    assert one.labels.tolist() == [square, circle]
    np.testing.assert_allclose(one.boxes, [[20, 28, 53, 68], [43, 23, 93, 73]], atol=0.8)
    assert LEAST_VISIBLE * 1600 < one.areas[0] < 1600
    outside = Shape(circle, 100.0, 48.0, 20.0, 0.0, WHITE)
    assert len(drawn_alone(monkeypatch, outside).boxes) == 0


def test_all_classes_occur_and_some_shapes_overlap():
    labels, overlaps = [], 0
    for record in shapes(60, size=64).records:
        labels += record.labels.tolist()
        low = np.maximum(record.boxes[:, None, :2], record.boxes[None, :, :2])
        high = np.minimum(record.boxes[:, None, 2:], record.boxes[None, :, 2:])
        overlaps += ((high - low).min(axis=-1) > 2).sum() - len(record.boxes)
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    assert counts.min() > 10
    assert overlaps > 20


def test_it_is_a_data_set_like_others(tmp_path):
    dataset = shapes(4, size=48, seed=9, split="val")
    assert dataset.class_names == CLASS_NAMES
    assert [record.image_id for record in dataset.records] == [1, 2, 3, 4]
    np.testing.assert_array_equal(dataset.sample(1).picture, draw(1, size=48, seed=9, split="val").picture)
    with pytest.raises(IndexError, match="picture 4 of 4"):
        dataset.records[4]
    write_shapes(tmp_path, "coco", size=48, seed=9, counts={"val": 4, "test": 2})
    read = open_dataset(tmp_path, "val")
    assert not read.problems
    for there, here in zip(read.records, dataset.records, strict=True):
        np.testing.assert_allclose(there.boxes, here.boxes, atol=1e-4)
        np.testing.assert_array_equal(there.pixels(), here.pixels())


def test_impossible_sizes_are_refused():
    with pytest.raises(DataError, match="count 0"):
        shapes(0)
    with pytest.raises(DataError, match="size 16"):
        shapes(1, size=16)
