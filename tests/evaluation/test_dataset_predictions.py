from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_data import CLASS_NAMES, dataset, found, record
from PIL import Image

from dfine_jax.evaluation.predictions import UNKNOWN, Predicted, own_ids, predict, same_classes
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.detector import Found
from dfine_jax.inference.pictures import PictureError, load_picture


class Darkest:
    """A detector that finds in every picture one box of each of its classes, the corner left dark; and no model."""

    def __init__(self, class_names):
        self.config = SimpleNamespace(class_names=class_names)

    def stream(self, sources, threshold):
        for source in sources:
            try:
                picture = load_picture(source)
            except PictureError as error:
                yield Found(source, error, None)
                continue
            k = len(self.config.class_names)
            boxes = np.repeat([[0.0, 0.0, *np.argwhere(np.asarray(picture)[..., 0] < 50).max(0)[::-1] + 1.0]], k, 0)
            scores = np.linspace(0.9, 0.001, k)
            yield Found(
                source,
                Detections.above(
                    threshold, scores, np.arange(k), boxes, class_names=self.config.class_names, size=picture.size
                ),
                None,
            )


def dark_corner(width, height, **options):
    shown = record(**options)
    shown.picture[:height, :width] = 0
    return shown


def test_predictions_carry_the_labels_of_the_data_set():
    data = dataset(dark_corner(30, 20), dark_corner(50, 40))
    predicted = list(predict(Darkest(("Bird", "car", "traffic_light", "DOG")), data))
    assert [p.picture for p in predicted] == [0, 1]
    for p, box in zip(predicted, [[0, 0, 30, 20], [0, 0, 50, 40]], strict=True):
        assert p.labels.tolist() == [3, 2, 1]  # bird, traffic light, dog; a car isn't asked for
        np.testing.assert_allclose(p.scores, [0.9, 0.301, 0.001], atol=0.04)  # however low the score
        np.testing.assert_array_equal(p.boxes, [box] * 3)


def test_a_picture_that_can_not_be_read_gives_its_error(tmp_path):
    Image.fromarray(dark_corner(30, 20).picture).save(tmp_path / "good.png")
    Path(tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = [tmp_path / "broken.png", tmp_path / "good.png"]
    data = dataset(*[replace(record(), picture=picture) for picture in pictures])
    broken, good = predict(Darkest(CLASS_NAMES), data)
    assert isinstance(broken, PictureError)
    assert "broken.png" in str(broken)
    assert isinstance(good, Predicted)
    assert good.picture == 1


def test_pictures_are_read_as_the_data_set_says(tmp_path):
    """Boxes made for the pixels as stored need the pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(dark_corner(30, 20).picture).save(tmp_path / "turned.png", exif=exif)
    stored = replace(record(), picture=tmp_path / "turned.png", as_stored=True)
    (predicted,) = predict(Darkest(CLASS_NAMES), dataset(stored))
    np.testing.assert_array_equal(predicted.boxes[0], [0, 0, 30, 20])


def test_classes_are_matched_by_name():
    assert same_classes(("Dog", "traffic-light", "cow"), CLASS_NAMES).tolist() == [1, 2, UNKNOWN]
    assert same_classes(("a", "b"), ("b", "a", "b")).tolist() == [1, 0]
    with pytest.raises(ValueError, match="the model knows a, b, c, d, e and 2 more and the data set has cat"):
        same_classes(tuple("abcdefg"), ("cat",))


def test_results_have_the_ids_of_the_data_set():
    truth = Truth.of(dataset(record(image_id=139), record(image_id="b")))
    predicted = [found(0, (0.75, 2, (1.25, 2.5, 11.25, 22.125))), found(1, (0.5, 3, (0, 0, 1, 1)))]
    assert own_ids(predicted, truth) == [
        {"image_id": 139, "category_id": 18, "bbox": [1.25, 2.5, 10.0, 19.625], "score": 0.75},
        {"image_id": "b", "category_id": 90, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.5},
    ]


def test_decimals_of_a_coco_file_survive():
    """473.07 + 38.65 in float32, less 473.07, is 38.65002; the file said 38.65."""
    left, width = 473.07, 38.65
    (entry,) = own_ids([found(0, (0.5, 0, (left, 0, left + width, 5)))], Truth.of(dataset(record())))
    assert entry["bbox"][:3:2] == [left, width]


def test_truth_keeps_what_the_metric_needs():
    first = record([(0, 0, 4, 5)], [2], [(1, 1, 9, 9)], [0], image_id=7, width=64, height=32)
    truth = Truth.of(dataset(first, record(), record([(0, 0, 2, 2)], [1], image_id=9)))
    assert (truth.image_ids, truth.category_ids) == ((7, 1, 9), (3, 7, 18, 90))
    np.testing.assert_array_equal(truth.sizes, [[32, 64], [100, 200], [100, 200]])
    np.testing.assert_array_equal(truth.pictures, [0, 0, 2])
    np.testing.assert_array_equal(truth.labels, [2, 0, 1])
    np.testing.assert_array_equal(truth.areas, [20, 64, 4])
    np.testing.assert_array_equal(truth.crowds, [False, True, False])
