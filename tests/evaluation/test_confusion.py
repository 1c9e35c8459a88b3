import numpy as np
import pytest
from evaluation_data import dataset, found, record

from dfine_jax.evaluation.confusion import IGNORED, NOTHING, confusion, judge, rows_by_picture
from dfine_jax.evaluation.truth import Truth

BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (100.0, 20.0, 140.0, 60.0)
NOWHERE = (150.0, 70.0, 190.0, 95.0)
CAT, DOG, LIGHT, BIRD, NONE = range(5)


def table(data, *predicted, threshold=0.5):
    return confusion(predicted, Truth.of(data), threshold)


def cells(result):
    """The cells that aren't zero, as {(labelled, found): count}."""
    return {tuple(map(int, cell)): int(result.counts[tuple(cell)]) for cell in np.argwhere(result.counts)}


def test_each_kind_of_outcome():
    data = dataset(record([BOX, FAR], [CAT, DOG]), record([BOX, FAR], [DOG, BIRD]))
    first = found(0, (0.9, CAT, BOX), (0.8, LIGHT, FAR), (0.7, LIGHT, NOWHERE), (0.5, DOG, NOWHERE))
    second = found(1, (0.6, DOG, BOX))
    result = table(data, first, second)
    assert cells(result) == {(CAT, CAT): 1, (DOG, LIGHT): 1, (NONE, LIGHT): 1, (DOG, DOG): 1, (BIRD, NONE): 1}
    np.testing.assert_array_equal(result.precision, [1, 1, 0, np.nan])
    np.testing.assert_array_equal(result.recall, [1, 0.5, np.nan, 0])


def test_a_box_found_twice_counts_by_its_own_class():
    data = dataset(record([BOX], [CAT]))
    shifted = (12.0, 10.0, 52.0, 50.0)
    result = table(data, found(0, (0.9, DOG, BOX), (0.6, CAT, shifted)))
    assert cells(result) == {(CAT, CAT): 1, (NONE, DOG): 1}


def test_one_detection_for_one_box():
    data = dataset(record([BOX], [CAT]))
    assert cells(table(data, found(0, (0.9, CAT, BOX), (0.8, CAT, BOX)))) == {(CAT, CAT): 1, (NONE, CAT): 1}


def test_overlap_of_less_than_a_half_is_none():
    nearly = (10.0, 10.0, 30.0, 50.0)  # half of the box, just enough
    less = (10.0, 10.0, 29.0, 50.0)
    data = dataset(record([BOX], [CAT]))
    assert cells(table(data, found(0, (0.9, CAT, nearly)))) == {(CAT, CAT): 1}
    assert cells(table(data, found(0, (0.9, CAT, less)))) == {(NONE, CAT): 1, (CAT, NONE): 1}


def test_detections_in_a_crowd_of_their_class_are_ignored():
    data = dataset(record([BOX], [CAT], [(90, 10, 200, 100)], [CAT]))
    result = table(data, found(0, (0.9, CAT, FAR), (0.8, CAT, NOWHERE), (0.7, DOG, FAR)))
    assert cells(result) == {(CAT, NONE): 1, (NONE, DOG): 1}


def test_verdict_names_rows_of_the_truth():
    data = dataset(record([FAR], [DOG]), record([FAR, BOX], [CAT, CAT], [(140, 60, 200, 100)], [CAT]))
    truth = Truth.of(data)
    rows = rows_by_picture(truth)
    assert [r.tolist() for r in rows] == [[0], [1, 2, 3]]
    predicted = found(1, (0.9, CAT, BOX), (0.8, CAT, NOWHERE), (0.7, DOG, NOWHERE), (0.1, CAT, FAR))
    verdict = judge(predicted, truth, rows[1], threshold=0.5)
    assert verdict.found.tolist() == [2, IGNORED, NOTHING]
    assert verdict.missed.tolist() == [1]
    assert verdict.predicted.labels.tolist() == [CAT, CAT, DOG]


@pytest.mark.parametrize("data", [dataset(), dataset(record()), dataset(record([BOX], [CAT]))])
def test_nothing_found(data):
    result = table(data, *[found(i) for i in range(len(data))])
    assert result.counts.shape == (5, 5)
    assert result.counts.sum() == sum(len(r.boxes) for r in data.records)


def test_counts_add_up(many):
    data, predicted = many
    result = confusion(predicted, Truth.of(data), 0.6)
    boxes = np.concatenate([r.labels for r in data.records])
    np.testing.assert_array_equal(result.counts[:-1].sum(axis=1), np.bincount(boxes, minlength=4))
    above = sum((p.scores > 0.6).sum() for p in predicted)
    assert 0.8 * above < result.counts[:, :-1].sum() < above  # the rest are in crowds
