"""The threshold with the best F1, against every cut tried one by one; and what is made of it when it is used."""

import os

import numpy as np
import pytest
from evaluation_data import CLASS_NAMES, dataset, found, record

from dfine_jax.errors import InputError
from dfine_jax.evaluation.best_threshold import best_thresholds
from dfine_jax.evaluation.coco_metrics import evaluate
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.detections import Detections
from dfine_jax.json_file import LARGEST
from dfine_jax.thresholds import FILE_NAME, Best, Thresholds, read_thresholds, write_thresholds

BOX, FAR, NOWHERE = (10.0, 10.0, 50.0, 50.0), (100.0, 20.0, 140.0, 60.0), (150.0, 70.0, 190.0, 95.0)
CAT, DOG, LIGHT, BIRD = range(4)


def thresholds(data, *predicted) -> Thresholds:
    return best_thresholds(evaluate(predicted, Truth.of(data)))


def test_each_class_is_cut_where_its_f1_is_best():
    data = dataset(record([BOX, FAR], [CAT, CAT]), record([BOX], [DOG]))
    first = found(0, (0.9, CAT, BOX), (0.6, CAT, NOWHERE), (0.4, CAT, FAR), (0.1, CAT, NOWHERE))
    second = found(1, (0.7, DOG, BOX), (0.65, DOG, FAR))
    best = thresholds(data, first, second)
    # Three cat detections find both cats: F1 4/5; the first alone 2/3.
    assert best.classes["cat"] == Best(0.25, 0.8, 0.6667, 1.0, 2)
    assert best.classes["dog"].threshold == pytest.approx(0.675, abs=1e-4)
    assert best.classes["dog"].f1 == 1.0
    assert best.classes.keys() == {"cat", "dog"}
    # Together: 0.9 right, 0.7 right, 0.65 wrong, 0.6 wrong, 0.4 right: 4/5 after two, 6/8 after five.
    assert best.all.f1 == 0.8
    assert 0.65 < best.all.threshold < 0.7
    assert best.all.boxes == 3


def test_it_is_the_best_of_all_cuts():
    rng = np.random.default_rng(0)
    pictures, predicted = [], []
    for picture in range(20):
        corners = rng.uniform(0, 60, (4, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(15, 40, (4, 2))], axis=1)
        labels = rng.integers(0, 4, 4)
        pictures.append(record(boxes, labels, image_id=picture))
        seen = [
            (float(s), int(k), b + rng.normal(0, 3, 4)) for s, k, b in zip(rng.random(4), labels, boxes, strict=True)
        ]
        noise = [(float(s), int(rng.integers(4)), boxes[0] + 30) for s in rng.random(3) ** 2]
        predicted.append(found(picture, *sorted(seen + noise, key=lambda detection: -detection[0])))
    data = dataset(*pictures)
    best = thresholds(data, *predicted)
    for label, name in enumerate(CLASS_NAMES):
        own = [[d for d in zip(*p[1:4], strict=True) if d[1] == label] for p in predicted]

        def f1(cut, own=own, label=label):
            kept = [found(i, *[(s, k, b) for s, k, b in detections if s > cut]) for i, detections in enumerate(own)]
            counts = evaluate(kept, Truth.of(data), threshold=0.0).confusion
            precision, recall = counts.precision[label], counts.recall[label]
            return 2 * precision * recall / (precision + recall) if precision > 0 else 0.0

        cuts = [0.0, *(float(s) for detections in own for s, _, _ in detections)]
        assert best.classes[name].f1 == pytest.approx(max(map(f1, cuts)), abs=1e-3), name
        assert f1(best.classes[name].threshold) == pytest.approx(best.classes[name].f1, abs=1e-3), name


def test_a_box_found_twice_counts_once_and_crowds_count_nothing():
    data = dataset(record([BOX], [CAT], [FAR], [CAT]))
    best = thresholds(data, found(0, (0.9, CAT, BOX), (0.8, CAT, BOX), (0.95, CAT, FAR)))
    assert best.classes["cat"] == Best(0.85, 1.0, 1.0, 1.0, 1)


def test_equal_scores_are_not_torn_apart():
    data = dataset(record([BOX], [CAT]))
    best = thresholds(data, found(0, (0.5, CAT, BOX), (0.5, CAT, NOWHERE)))
    assert best.classes["cat"].f1 == pytest.approx(2 / 3, abs=1e-4)
    assert 0 <= best.classes["cat"].threshold < 0.5


def test_nothing_right_leaves_the_usual_threshold():
    data = dataset(record([BOX], [CAT]), record([FAR], [DOG]))
    best = thresholds(data, found(0, (0.9, CAT, FAR)), found(1))
    assert best.all == Best(0.5, 0.0, 0.0, 0.0, 2)
    assert best.classes["dog"].threshold == 0.5


OWN = Thresholds(
    Best(0.4, 0.8, 0.8, 0.8, 50), {"cat": Best(0.3, 0.9, 0.9, 0.9, 45), "dog": Best(0.9, 1.0, 1.0, 1.0, 5)}
)


def test_what_is_kept_in_a_folder_is_used_class_by_class(tmp_path):
    write_thresholds(OWN, tmp_path / FILE_NAME)
    again = read_thresholds(tmp_path)
    assert again == OWN
    assert [again.of_class(name) for name in ("cat", "dog", "bird")] == [0.3, 0.4, 0.4]  # five dogs are too few
    assert again.least() == 0.3
    assert str(again) == "cat 0.30, dog 0.40"
    detections = Detections(
        boxes=np.zeros((4, 4), np.float32),
        scores=np.array([0.5, 0.45, 0.35, 0.35], np.float32),
        label_ids=np.array([1, 0, 0, 1]),
        class_names=("cat", "dog"),
        size=(10, 10),
    )
    assert again.filter(detections).scores.tolist() == pytest.approx([0.5, 0.45, 0.35])


def test_other_models_have_none(tmp_path):
    assert read_thresholds(tmp_path) is None
    assert read_thresholds("nano-coco") is None


BEST = '{"threshold": 0.5, "f1": 1, "precision": 1, "recall": 1, "boxes": 3}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "can't be read as JSON"),
        ("[]", "expected a JSON object, found a list"),
        ("null", "expected a JSON object, found None"),
        ("\xff", "can't be read as JSON"),
        ('{"a":' * 10**5, "it is nested too deeply"),
        ('{"all": "' + "x" * LARGEST + '"}', "too many for a file of settings"),
        ("{}", "holds no thresholds (classes = null, expected an object)"),
        ('{"all": {}, "classes": {}}', "holds no thresholds (all lacks threshold, f1, precision, recall, boxes)"),
        ('{"all": [1], "classes": {}}', "holds no thresholds (all = [1], expected an object)"),
        (f'{{"all": {BEST}, "classes": {{"cat": 3}}}}', "holds no thresholds (classes.cat = 3, expected an object)"),
        (f'{{"all": {BEST.replace("0.5", "40")}, "classes": {{}}}}', "(all.threshold = 40, expected a number in 0..1)"),
        (f'{{"all": {BEST.replace("0.5", "NaN")}, "classes": {{}}}}', "(all.threshold = NaN, expected a number"),
        (f'{{"all": {BEST.replace("0.5", "true")}, "classes": {{}}}}', "(all.threshold = true, expected a number"),
        (f'{{"all": {BEST.replace("3", "-3")}, "classes": {{}}}}', "(all.boxes = -3, expected a whole number, 0 or"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, words):
    (tmp_path / FILE_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_thresholds(tmp_path)
    said = str(caught.value)
    assert said.startswith(str(tmp_path / FILE_NAME))
    assert words in said
    assert said.endswith(": delete it or give --threshold")
    assert "\n" not in said
    assert len(said) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("make", "words"), [(os.mkfifo, "is a named pipe, expected a file"), (os.mkdir, "is a folder, expected a file")]
)
def test_what_is_no_file_is_said_and_not_waited_for(tmp_path, make, words):
    make(tmp_path / FILE_NAME)
    with pytest.raises(InputError, match=words):
        read_thresholds(tmp_path)
