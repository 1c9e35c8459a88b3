"""TIDE's kinds and costs on boxes few enough to be worked out by hand."""

import numpy as np
import pytest
from evaluation_data import dataset, found, record

from dfine_jax.evaluation.coco_metrics import evaluate
from dfine_jax.evaluation.confusion import NOTHING
from dfine_jax.evaluation.error_kinds import Kind, average_precision, find_errors
from dfine_jax.evaluation.truth import Truth

CAT, DOG = 0, 1
BOX = [0, 0, 10, 10]
HALF = [0, 0, 10, 4]  # IoU 0.4 with BOX
FAR = [100, 50, 110, 60]


def errors_of(records, *pictures, **options):
    truth = Truth.of(dataset(*records))
    return find_errors([found(i, *picture) for i, picture in enumerate(pictures)], truth, **options)


@pytest.mark.parametrize(
    ("detection", "kind", "row"),
    [
        ((0.8, DOG, BOX), Kind.CLASS, 0),
        ((0.8, DOG, [0, 0, 10, 5]), Kind.CLASS, 0),  # IoU 0.5 is on it
        ((0.8, CAT, HALF), Kind.PLACE, 0),
        ((0.8, CAT, [0, 0, 10, 1]), Kind.PLACE, 0),  # IoU 0.1 is beside it
        ((0.8, DOG, HALF), Kind.BOTH, 0),
        ((0.8, CAT, [0, 0, 9, 1]), Kind.BACKGROUND, NOTHING),  # 0.09 is not
        ((0.8, DOG, FAR), Kind.BACKGROUND, NOTHING),
    ],
)
def test_kind_of_a_single_detection(detection, kind, row):
    errors = errors_of([record([BOX], [CAT])], [detection])
    wrong = [error for error in errors.found if error.kind is not Kind.MISSED]
    assert [(error.kind, error.row, error.score) for error in wrong] == [(kind, row, pytest.approx(0.8))]
    # What would be right after mending its class or place does not leave its box missed.
    assert len(errors.of_kind(Kind.MISSED)) == (0 if kind in (Kind.CLASS, Kind.PLACE) else 1)


def test_a_box_found_twice_is_a_duplicate_of_the_best():
    errors = errors_of([record([BOX], [CAT])], [(0.9, CAT, BOX), (0.8, CAT, BOX)])
    assert [(error.kind, error.row) for error in errors.found] == [(Kind.DUPLICATE, 0)]
    assert errors.found[0].score == pytest.approx(0.8)


def test_place_goes_before_class():
    """Beside a cat and on a dog: TIDE says of a cat that it is in the wrong place."""
    errors = errors_of([record([BOX, HALF], [CAT, DOG])], [(0.8, CAT, HALF)])
    assert [error.kind for error in errors.found] == [Kind.PLACE, Kind.MISSED]


def test_what_lies_in_a_crowd_is_not_wrong():
    errors = errors_of([record([BOX], [CAT], [FAR], [CAT])], [(0.9, CAT, BOX), (0.8, CAT, FAR)])
    assert errors.found == ()
    assert errors.ap == 1.0


def test_costs_of_one_class():
    """Two cats. A better-scoring false alarm, one cat found, one in the wrong place.

    As it is, precision is 1/2 up to a recall of 1/2 (51 of the 101 recalls) and 0 beyond. Without the false alarm it is
    1 there. With the place put right there are two right ones in third place: 2/3 everywhere.
    """
    records = [record([BOX, [50, 50, 60, 60]], [CAT, CAT])]
    picture = [(0.9, CAT, FAR), (0.8, CAT, BOX), (0.7, CAT, [50, 50, 60, 54])]
    errors = errors_of(records, picture)
    assert errors.ap == pytest.approx(51 / 101 / 2)
    assert errors.costs[Kind.BACKGROUND] == pytest.approx(51 / 101 - 51 / 202)
    assert errors.costs[Kind.PLACE] == pytest.approx(2 / 3 - 51 / 202)
    for kind in (Kind.CLASS, Kind.BOTH, Kind.DUPLICATE, Kind.MISSED):
        assert errors.costs[kind] == 0


def test_a_class_put_right_counts_for_the_true_class():
    """A dog taken for a cat: dogs gain an AP of 1, and cats, of whom one is found behind it, go from 1/2 to 1."""
    records = [record([BOX, FAR], [CAT, DOG])]
    errors = errors_of(records, [(0.9, CAT, FAR), (0.8, CAT, BOX)])
    assert errors.ap == pytest.approx((1 / 2 + 0) / 2)
    assert errors.costs[Kind.CLASS] == pytest.approx(1 - 1 / 4)


def test_only_the_best_of_several_is_put_right():
    """Two detections beside one box: mending puts the better one right and takes the other away."""
    errors = errors_of([record([BOX], [CAT])], [(0.9, CAT, HALF), (0.8, CAT, HALF)])
    assert errors.ap == 0
    assert errors.costs[Kind.PLACE] == 1
    found_already = errors_of([record([BOX], [CAT])], [(0.9, CAT, HALF), (0.8, CAT, BOX)])
    assert found_already.ap == pytest.approx(1 / 2)
    assert found_already.costs[Kind.PLACE] == pytest.approx(1 / 2)


def test_missed_boxes_are_no_longer_looked_for():
    """One of two is found: 51 of 101 recalls; without the other all of them."""
    errors = errors_of([record([BOX, FAR], [CAT, CAT])], [(0.9, CAT, BOX)])
    assert errors.ap == pytest.approx(51 / 101)
    assert errors.costs[Kind.MISSED] == pytest.approx(50 / 101)
    assert [(error.kind, error.row) for error in errors.found] == [(Kind.MISSED, 1)]


def test_the_threshold_is_for_what_is_shown_and_not_for_costs():
    records = [record([BOX], [CAT])]
    errors = errors_of(records, [(0.4, CAT, BOX)], threshold=0.5)
    assert errors.ap == 1
    assert [error.kind for error in errors.found] == [Kind.MISSED]
    assert errors_of(records, [(0.4, CAT, BOX)], threshold=0.3).found == ()


def test_the_worst_come_first():
    records = [record([BOX, [0, 0, 50, 50], FAR], [CAT, CAT, CAT]), record()]
    away = [150, 10, 160, 20]
    errors = errors_of(records, [(0.6, DOG, away), (0.9, DOG, away)], [(0.7, CAT, BOX)])
    assert [round(error.score, 1) for error in errors.of_kind(Kind.BACKGROUND)] == [0.9, 0.7, 0.6]
    assert [error.row for error in errors.of_kind(Kind.MISSED)] == [1, 0, 2]


def test_average_precision_is_the_metrics(many):
    """With crowds, ties and a class without boxes."""
    data, predicted = many
    evaluation = evaluate(predicted, Truth.of(data))
    errors = find_errors(predicted, evaluation.truth)
    assert errors.ap == pytest.approx(evaluation.figures.ap50, abs=1e-12)
    assert all(cost > -1e-12 for cost in errors.costs.values())
    assert {error.kind for error in errors.found} == set(Kind)


def test_nothing_labelled_and_nothing_found():
    assert np.isnan(errors_of([record()], []).ap)
    assert errors_of([record([BOX], [CAT])], []).ap == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
