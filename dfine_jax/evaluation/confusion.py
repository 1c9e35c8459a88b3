"""What is taken for what, at the threshold at which a detector is used."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from faster_coco_eval import mask
from jaxtyping import Float, Float32, Float64, Int, Int32

from dfine_jax.evaluation.predictions import Predicted, xywh
from dfine_jax.evaluation.truth import Truth

OVERLAP = 0.5
"""Least IoU of a detection with the box it is on."""
NOTHING = -1
IGNORED = -2


class Confusion(NamedTuple):
    """Counts of labelled boxes and detections, matched one to one."""

    counts: Int[np.ndarray, "K+1 K+1"]
    """Row: the class that is labelled, in the last row nothing. Column: what was found, in the last column nothing."""
    threshold: float
    """Detections that score more than this were counted."""

    @property
    def precision(self) -> Float[np.ndarray, " K"]:
        """For each class, how many of its detections are right; NaN where there are none."""
        return _share(np.diag(self.counts)[:-1], self.counts.sum(axis=0)[:-1])

    @property
    def recall(self) -> Float[np.ndarray, " K"]:
        """For each class, how many of its boxes are found; NaN where there are none."""
        return _share(np.diag(self.counts)[:-1], self.counts.sum(axis=1)[:-1])


class Verdict(NamedTuple):
    """What became of one picture's detections above the threshold, and of its boxes."""

    predicted: Predicted
    """Those above the threshold."""
    found: Int32[np.ndarray, " N"]
    """The row of `Truth` of the box each is on; `NOTHING`, or `IGNORED` for one in a crowd of its class."""
    missed: Int32[np.ndarray, " M"]
    """Rows of `Truth` no detection is on."""


def judge(predicted: Predicted, truth: Truth, rows: Int[np.ndarray, " R"], threshold: float) -> Verdict:
    """Matches the detections of one picture with its labelled boxes, `rows` of `truth`.

    One to one, by IoU from the greatest down. Pairs of the same class come first, so that a box found twice, once by
    its right name, counts as found.
    """
    kept = predicted.above(threshold)
    objects, crowds = rows[~truth.crowds[rows]], rows[truth.crowds[rows]]
    same = kept.labels[:, None] == truth.labels[objects]
    iou = overlaps(kept.boxes, truth.boxes[objects], crowd=False)
    found = np.full(len(kept.scores), NOTHING, np.int32)
    free = np.ones(len(objects), bool)
    candidates = np.argwhere(iou >= OVERLAP)
    order = np.lexsort((-iou[tuple(candidates.T)], ~same[tuple(candidates.T)]))
    for detection, column in candidates[order]:
        if found[detection] == NOTHING and free[column]:
            found[detection], free[column] = objects[column], False
    in_crowd = overlaps(kept.boxes, truth.boxes[crowds], crowd=True) >= OVERLAP
    in_crowd &= kept.labels[:, None] == truth.labels[crowds]
    found[(found == NOTHING) & in_crowd.any(axis=1)] = IGNORED
    return Verdict(kept, found, objects[free].astype(np.int32))


def confusion(predicted: Iterable[Predicted], truth: Truth, threshold: float) -> Confusion:
    """Counts what is taken for what in all predicted pictures."""
    classes = len(truth.class_names)
    rows_of = rows_by_picture(truth)
    labels = np.append(truth.labels, classes)  # so that the row NOTHING, the last, has the last label
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for picture in predicted:
        verdict = judge(picture, truth, rows_of[picture.picture], threshold)
        counted = verdict.found != IGNORED
        np.add.at(counts, (labels[verdict.found[counted]], verdict.predicted.labels[counted]), 1)
        np.add.at(counts, (labels[verdict.missed], classes), 1)
    return Confusion(counts, threshold)


def rows_by_picture(truth: Truth) -> list[Int[np.ndarray, " R"]]:
    """For each picture the rows of `truth` with its boxes, crowds included."""
    order = np.argsort(truth.pictures, kind="stable")
    ends = np.cumsum(np.bincount(truth.pictures, minlength=len(truth.image_ids)))
    return np.split(order, ends[:-1]) if len(ends) else []


def overlaps(
    detections: Float32[np.ndarray, "N 4"], boxes: Float32[np.ndarray, "M 4"], *, crowd: bool
) -> Float64[np.ndarray, "N M"]:
    """The metric's own IoU; of crowds the share of the detection that lies within."""
    if not len(detections) or not len(boxes):
        return np.zeros((len(detections), len(boxes)))
    return np.asarray(mask.iou(xywh(detections), xywh(boxes), [int(crowd)] * len(boxes)))


def _share(part: Int[np.ndarray, " K"], whole: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
