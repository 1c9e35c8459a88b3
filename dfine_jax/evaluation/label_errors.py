"""Which labels are likely wrong, by how much a trained model disagrees with them.

Every labelled box is paired with the detection of its class that fits it best, one to one. Its loss is what a training
would have it cost: the negative logarithm of the score, and 1 - GIoU twice. A detection that no label accounts for has
the loss of a false alarm, the negative logarithm of 1 - score. Labels and such detections are ranked together: labels
of the wrong place or name, labels of nothing, and objects without a label. A model that was not trained on the labels
tells best. The norm of the loss's gradient by the last heads finds fewer (`python -m benchmarks.label_errors`).
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dfine_jax.evaluation.confusion import NOTHING, OVERLAP, overlaps, rows_by_picture
from dfine_jax.evaluation.error_kinds import BESIDE
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth

GIOU_WEIGHT = 2.0
LEAST_SCORE = 1e-3
"""Lower scores say no more than this."""
UNPAIRED = GIOU_WEIGHT - float(np.log(LEAST_SCORE))
"""The loss of a label beside which no detection of its class is, or one that fits worse than this."""
LEAST_SEEN = 0.1
"""What scores less is not taken for an object without a label."""


class Doubt(StrEnum):
    """What is likely wrong with a label."""

    PLACE = "place"
    """An object of its class was found, but in a box that fits it badly."""
    NAME = "name"
    """What was found in its place is of another class."""
    NO_OBJECT = "no object"
    """Nothing was found in its place, or nothing that scores well."""
    NO_LABEL = "no label"
    """An object was found that has no label."""


class Seen(NamedTuple):
    """What the model would have instead."""

    label: int
    score: float
    box: Float[np.ndarray, "4"]
    """x0, y0, x1, y1 in pixels."""


class Suspect(NamedTuple):
    """A label, or an object without one, and how likely it is wrong compared with others."""

    loss: float
    doubt: Doubt
    """What would be wrong if it is."""
    picture: int
    """Its place in `Dataset.records`."""
    row: int
    """The label's row of `Truth`; `NOTHING` for an object without a label."""
    seen: Seen | None
    """None where nothing was found."""


def rank_labels(predicted: Iterable[Predicted], truth: Truth) -> list[Suspect]:
    """All labels of the predicted pictures and all objects without one, the most suspicious first.

    Crowds are no suspects, and neither is what was found in them.
    """
    rows_of = rows_by_picture(truth)
    suspects = [suspect for p in predicted for suspect in _suspects(p, truth, rows_of[p.picture])]
    return sorted(suspects, key=lambda suspect: -suspect.loss)


def _suspects(predicted: Predicted, truth: Truth, rows: Int[np.ndarray, " R"]) -> Iterable[Suspect]:
    objects, crowds = rows[~truth.crowds[rows]], rows[truth.crowds[rows]]
    boxes, labels = truth.boxes[objects], truth.labels[objects]
    iou = overlaps(predicted.boxes, boxes, crowd=False)
    of_class = -np.log(np.maximum(predicted.scores, LEAST_SCORE))
    of_place = GIOU_WEIGHT * (1 - _giou(predicted.boxes, boxes, iou))
    meant = (predicted.labels[:, None] == labels) & (iou >= BESIDE)
    loss = np.where(meant, of_class[:, None] + of_place, np.inf)
    pairs = _paired(loss)
    for column, row in enumerate(objects.tolist()):
        pair = pairs.get(column)
        if pair is not None and of_place[pair, column] > of_class[pair]:
            doubt, seen = Doubt.PLACE, pair
        else:
            other = _other_name(predicted, iou[:, column], int(labels[column]), pair)
            doubt, seen = (Doubt.NO_OBJECT, pair) if other is None else (Doubt.NAME, other)
        value = UNPAIRED if pair is None else float(loss[pair, column])
        yield Suspect(value, doubt, predicted.picture, row, None if seen is None else _seen(predicted, seen))
    accounted = [*boxes, *predicted.boxes[list(pairs.values())]]
    in_crowd = (overlaps(predicted.boxes, truth.boxes[crowds], crowd=True) >= OVERLAP).any(axis=1)
    for i in np.argsort(-predicted.scores, kind="stable").tolist():
        if predicted.scores[i] < LEAST_SEEN:
            break
        box = predicted.boxes[i : i + 1]
        others = np.array(accounted, np.float32).reshape(-1, 4)
        if in_crowd[i] or overlaps(box, others, crowd=False).max(initial=0.0) >= OVERLAP:
            continue
        accounted.append(box[0])
        value = -float(np.log(np.maximum(1 - predicted.scores[i], LEAST_SCORE)))
        yield Suspect(value, Doubt.NO_LABEL, predicted.picture, NOTHING, _seen(predicted, i))


def _paired(loss: Float[np.ndarray, "N M"]) -> dict[int, int]:
    """For each label the detection that it is paired with: those that fit best first, one to one."""
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    candidates = np.argwhere(loss < UNPAIRED)
    for i, column in candidates[np.argsort(loss[tuple(candidates.T)], kind="stable")].tolist():
        if column not in pairs and i not in taken:
            pairs[column] = i
            taken.add(i)
    return pairs


def _other_name(predicted: Predicted, iou: Float[np.ndarray, " N"], label: int, pair: int | None) -> int | None:
    """The best detection of another class in a label's place, if it scores more than the label's own, `pair`."""
    scores = np.where((iou >= OVERLAP) & (predicted.labels != label), predicted.scores, 0.0)
    least = LEAST_SEEN if pair is None else max(LEAST_SEEN, predicted.scores[pair])
    return int(scores.argmax()) if scores.max(initial=0.0) > least else None


def _seen(predicted: Predicted, i: int) -> Seen:
    return Seen(int(predicted.labels[i]), float(predicted.scores[i]), predicted.boxes[i])


def _giou(
    a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"], iou: Float[np.ndarray, "N M"]
) -> Float[np.ndarray, "N M"]:
    """Generalised IoU of every pair, from its IoU."""
    low = np.minimum(a[:, None, :2], b[None, :, :2])
    high = np.maximum(a[:, None, 2:], b[None, :, 2:])
    enclosing = (high - low).prod(axis=-1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = areas / (1 + iou)
    return iou - np.where(enclosing > 0, (enclosing - union) / np.maximum(enclosing, 1e-9), 0.0)
