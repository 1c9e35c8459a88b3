"""The score from which detections should be shown, so that F1 is best: for each class, and for all together."""

import numpy as np
from jaxtyping import Bool, Float

from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.confusion import IGNORED, rows_by_picture
from dfine_jax.evaluation.matching import found_boxes
from dfine_jax.thresholds import USUAL, Best, Thresholds


def best_thresholds(evaluation: Evaluation) -> Thresholds:
    """The thresholds with the best F1 at an IoU of 0.5.

    A detection is right if it is the best-scoring one of its class on a box of its class. Those in a crowd of their
    class are left out.
    """
    truth, classes = evaluation.truth, len(evaluation.truth.class_names)
    rows_of = rows_by_picture(truth)
    scores: list[list[float]] = [[] for _ in range(classes)]
    right: list[list[bool]] = [[] for _ in range(classes)]
    boxes = np.zeros(classes, np.int64)
    for predicted in evaluation.predicted:
        rows = rows_of[predicted.picture]
        boxes += np.bincount(truth.labels[rows[~truth.crowds[rows]]], minlength=classes)
        found = found_boxes(predicted, truth, rows)
        for label in np.unique(predicted.labels):
            counted = (predicted.labels == label) & (found != IGNORED)
            scores[label] += predicted.scores[counted].tolist()
            right[label] += (found[counted] >= 0).tolist()
    each = {
        name: _best(np.array(scores[label]), np.array(right[label], bool), int(boxes[label]))
        for label, name in enumerate(truth.class_names)
        if boxes[label]
    }
    together = _best(np.concatenate(scores), np.concatenate(right).astype(bool), int(boxes.sum()))
    return Thresholds(together, each)


def _best(scores: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], boxes: int) -> Best:
    """The best cut through detections in order of score; the usual threshold where none of them is right."""
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    if not len(scores) or not found[-1]:
        return Best(USUAL, 0.0, 0.0, 0.0, boxes)
    shown = np.arange(1, len(scores) + 1)
    lower = np.append(scores[1:], 0.0)
    f1 = np.where(scores > lower, 2 * found / (shown + boxes), -1.0)  # equal scores are shown together or not at all
    cut = int(f1.argmax())
    threshold = float((scores[cut] + lower[cut]) / 2)
    rounded = round(threshold, 4)
    return Best(
        rounded if lower[cut] <= rounded < scores[cut] else threshold,
        round(float(f1[cut]), 4),
        round(float(found[cut] / shown[cut]), 4),
        round(float(found[cut] / boxes), 4),
        boxes,
    )
