import math

import numpy as np
import pytest
from evaluation_data import dataset, found, record

from dfine_jax.evaluation.confusion import NOTHING
from dfine_jax.evaluation.label_errors import UNPAIRED, Doubt, rank_labels
from dfine_jax.evaluation.truth import Truth

CAT, DOG = 0, 1
BOX = [0, 0, 10, 10]
FAR = [100, 50, 110, 60]


def suspects_of(records, *pictures):
    return rank_labels([found(i, *picture) for i, picture in enumerate(pictures)], Truth.of(dataset(*records)))


def test_a_label_that_fits_has_the_loss_of_its_score():
    (suspect,) = suspects_of([record([BOX], [CAT])], [(0.9, CAT, BOX)])
    assert suspect.loss == pytest.approx(-math.log(0.9))
    assert (suspect.picture, suspect.row) == (0, 0)


def test_a_moved_label():
    """IoU 1/3 of boxes that their common rectangle holds no more than: twice 1 - 1/3."""
    (suspect,) = suspects_of([record([[5, 0, 15, 10]], [CAT])], [(0.9, CAT, BOX)])
    assert suspect.loss == pytest.approx(-math.log(0.9) + 2 * (1 - 1 / 3))
    assert suspect.doubt is Doubt.PLACE
    np.testing.assert_array_equal(suspect.seen.box, BOX)


def test_a_moved_label_askew():
    """Moved by half its sides both ways: IoU 25/175, and of the 225 around both 50 are in neither."""
    (suspect,) = suspects_of([record([[5, 5, 15, 15]], [CAT])], [(0.9, CAT, BOX)])
    assert suspect.loss == pytest.approx(-math.log(0.9) + 2 * (1 - (25 / 175 - 50 / 225)))


def test_a_renamed_label():
    (suspect,) = suspects_of([record([BOX], [DOG])], [(0.9, CAT, BOX), (0.02, DOG, BOX)])
    assert suspect.loss == pytest.approx(-math.log(0.02))
    assert suspect.doubt is Doubt.NAME
    assert (suspect.seen.label, suspect.seen.score) == (CAT, pytest.approx(0.9))


def test_an_invented_label():
    beyond = [9.5, 0, 19.5, 10]  # IoU 1/39
    suspect, _ = suspects_of([record([BOX], [CAT])], [(0.02, DOG, BOX), (0.3, CAT, beyond)])
    assert suspect.loss == UNPAIRED
    assert (suspect.doubt, suspect.seen) == (Doubt.NO_OBJECT, None)


def test_a_dropped_label():
    kept, dropped = sorted(
        suspects_of([record([BOX], [CAT])], [(0.9, CAT, FAR), (0.8, CAT, BOX), (0.7, DOG, FAR)]), key=lambda s: s.loss
    )
    assert kept.row == 0
    assert (dropped.row, dropped.doubt) == (NOTHING, Doubt.NO_LABEL)
    assert dropped.loss == pytest.approx(-math.log(0.1))
    assert dropped.seen.label == CAT  # the weaker one in the same place is the same object


def test_a_box_labelled_twice_has_one_detection():
    pair, other = sorted(suspects_of([record([BOX, BOX], [CAT, CAT])], [(0.9, CAT, BOX)]), key=lambda s: s.loss)
    assert pair.loss == pytest.approx(-math.log(0.9))
    assert other.loss == UNPAIRED


def test_the_ranking_goes_over_all_pictures_and_leaves_crowds_out():
    records = [record([BOX], [CAT], [FAR], [CAT]), record([BOX], [CAT]), record()]
    ranking = suspects_of(records, [(0.9, CAT, BOX), (0.8, CAT, FAR)], [(0.4, CAT, BOX)], [(0.7, DOG, BOX)])
    assert [(s.picture, s.row) for s in ranking] == [(2, NOTHING), (1, 2), (0, 0)]


def test_scores_too_low_are_no_objects():
    assert suspects_of([record()], [(0.09, CAT, BOX)]) == []


def test_most_corrupted_labels_come_first():
    """A hundred pictures with a good detector; one label in twenty is wrong, in four ways."""
    rng = np.random.default_rng(0)
    records, pictures, wrong = [], [], set()
    for i in range(100):
        boxes = np.array([[10, 10, 50, 60], [80, 20, 120, 80], [130, 10, 190, 90], [20, 70, 50, 95]], float)
        labels = rng.integers(0, 4, 4)
        scores = rng.uniform(0.7, 0.95, 4)
        near = boxes + rng.normal(0, 1, boxes.shape)
        pictures.append(list(zip(scores, labels, near, strict=True)))
        boxes, labels = boxes.copy(), labels.copy()
        if i % 5 == 0:
            kind = i // 5 % 4
            wrong.add((i, kind))
            if kind == 0:
                boxes[0] += [15, 15, 15, 15]
            elif kind == 1:
                labels[0] = (labels[0] + 1) % 4
            elif kind == 2:
                boxes, labels = boxes[1:], labels[1:]
            else:
                boxes, labels = np.concatenate([[[55, 10, 75, 30]], boxes]), np.append(0, labels)
        records.append(record(boxes, labels, image_id=i))
    ranking = suspects_of(records, *pictures)
    truth = Truth.of(dataset(*records))
    places = {(i, NOTHING if kind == 2 else int(np.searchsorted(truth.pictures, i))) for i, kind in wrong}
    assert len(places & {(s.picture, s.row) for s in ranking[: len(wrong)]}) >= 0.9 * len(wrong)
