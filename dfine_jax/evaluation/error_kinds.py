"""What went wrong in kinds, and how much AP each costs: TIDE (Bolya et al. 2020, arXiv 2008.08115).

A detection that finds no box is of the first kind that fits, seen from the labelled boxes that it lies on. A kind costs
what AP would gain if only that kind were mended: detections of the wrong class or place are put right, unless their box
is found already or by a better one of them; other wrong detections go; missed boxes are no longer looked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dfine_jax.evaluation.coco_metrics import RECALLS
from dfine_jax.evaluation.confusion import IGNORED, NOTHING, OVERLAP, overlaps, rows_by_picture
from dfine_jax.evaluation.matching import found_boxes
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth

BESIDE = 0.1
"""Least IoU at which a detection is taken to be meant for a box."""
MOST_DETECTIONS = 100
"""Of a class in a picture, the best, count for AP."""


class Kind(StrEnum):
    """What can be wrong. IoU is with labelled boxes; "on" is at least 0.5, "beside" at least 0.1."""

    CLASS = "class"
    """On a box of another class."""
    PLACE = "place"
    """Beside a box of its class, and on none."""
    BOTH = "both"
    """Beside a box of another class, and on none."""
    DUPLICATE = "duplicate"
    """On a box of its class that a better-scoring detection finds."""
    BACKGROUND = "background"
    """Beside nothing."""
    MISSED = "missed"
    """A box that is not found, nor would be by putting a detection's class or place right."""


class Error(NamedTuple):
    """One thing that went wrong."""

    kind: Kind
    picture: int
    """Its place in `Dataset.records`."""
    row: int
    """The row of `Truth` of the labelled box concerned; `NOTHING` where there is none."""
    label: int
    """Of the detection, or of the box that was missed."""
    score: float
    """0 for a box that was missed."""
    box: Float[np.ndarray, "4"]
    """x0, y0, x1, y1 in pixels: of the detection, or the one that was missed."""


@dataclass(frozen=True)
class Errors:
    """What went wrong in some predictions."""

    ap: float
    """Average precision at the IoU of `overlap`, the mean over classes; NaN if there is no box."""
    costs: Mapping[Kind, float]
    """What `ap` would gain if a kind were mended. Detections of any score count, as for AP."""
    overlap: float
    threshold: float
    found: tuple[Error, ...]
    """Those there are when detections up to `threshold` are not shown: by kind, in each the worst first."""

    def of_kind(self, kind: Kind) -> tuple[Error, ...]:
        """Those of one kind, the worst first."""
        return tuple(error for error in self.found if error.kind is kind)


def find_errors(
    predicted: Iterable[Predicted], truth: Truth, *, threshold: float = 0.5, overlap: float = OVERLAP
) -> Errors:
    """Sorts what is wrong into kinds.

    The worst are the best-scoring wrong detections, and the missed boxes that are the largest share of their picture.
    Pictures that no `Predicted` names are left out, their boxes with them.
    """
    predicted, rows_of = tuple(predicted), rows_by_picture(truth)
    counted = [_judged(_best_of_class(picture), truth, rows_of[picture.picture], overlap) for picture in predicted]
    shown = [_judged(picture.above(threshold), truth, rows_of[picture.picture], overlap) for picture in predicted]
    costs = _Costs(counted, truth)
    found = [error for judged in shown for error in judged.errors()]
    area = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1) / truth.sizes[truth.pictures].prod(axis=1)
    kinds = list(Kind)
    found.sort(key=lambda e: (kinds.index(e.kind), -area[e.row] if e.kind is Kind.MISSED else -e.score))
    return Errors(costs.ap, {kind: costs.of(kind) for kind in Kind}, overlap, threshold, tuple(found))


def average_precision(scores: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], boxes: int) -> float:
    """COCO's average precision of detections of one class, of which `right` find one of so many boxes each."""
    if not boxes:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.append(precision, 0.0)[np.searchsorted(hits / boxes, RECALLS)].mean())


class _Judged(NamedTuple):
    """What became of one picture's detections and boxes."""

    predicted: Predicted
    truth: Truth
    found: Int[np.ndarray, " N"]
    """As `found_boxes` gives it."""
    kinds: tuple[Kind | None, ...]
    """Of each detection; None where nothing is wrong with it."""
    meant: Int[np.ndarray, " N"]
    """The row of `Truth` of the box that a wrong one is on or beside; `NOTHING` where there is none."""
    unfound: tuple[int, ...]
    """Rows of `Truth` that are not found."""

    def mended(self) -> dict[int, int]:
        """For each box that is not found the best detection that would find it if its class or place were right."""
        best: dict[int, int] = {}
        for i in np.argsort(-self.predicted.scores, kind="stable").tolist():
            if self.kinds[i] in (Kind.CLASS, Kind.PLACE) and self.meant[i] in self.unfound:
                best.setdefault(int(self.meant[i]), i)
        return best

    def missed(self) -> list[int]:
        """Rows of the boxes that are not found even so."""
        mended = self.mended()
        return [row for row in self.unfound if row not in mended]

    def errors(self) -> Iterable[Error]:
        p = self.predicted
        for i, kind in enumerate(self.kinds):
            if kind is not None:
                row, label, score = int(self.meant[i]), int(p.labels[i]), float(p.scores[i])
                yield Error(kind, p.picture, row, label, score, p.boxes[i])
        for row in self.missed():
            yield Error(Kind.MISSED, p.picture, row, int(self.truth.labels[row]), 0.0, self.truth.boxes[row])


def _best_of_class(predicted: Predicted) -> Predicted:
    """Without what doesn't count for AP."""
    kept = np.zeros(len(predicted.scores), bool)
    for label in np.unique(predicted.labels):
        own = np.flatnonzero(predicted.labels == label)
        kept[own[np.argsort(-predicted.scores[own], kind="stable")[:MOST_DETECTIONS]]] = True
    return predicted.only(kept)


def _judged(predicted: Predicted, truth: Truth, rows: Int[np.ndarray, " R"], overlap: float) -> _Judged:
    found = found_boxes(predicted, truth, rows, overlap)
    objects = rows[~truth.crowds[rows]]
    iou = overlaps(predicted.boxes, truth.boxes[objects], crowd=False)
    same = predicted.labels[:, None] == truth.labels[objects]
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    kinds: list[Kind | None] = []
    meant = np.full(len(found), NOTHING)
    for i, row in enumerate(found):
        kind, on = None, NOTHING
        if row == NOTHING:
            kind, column = _kind(own[i], other[i], overlap)
            on = NOTHING if column is None else objects[column]
        kinds.append(kind)
        meant[i] = on
    unfound = tuple(row for row in objects.tolist() if row not in set(found.tolist()))
    return _Judged(predicted, truth, found, tuple(kinds), meant, unfound)


def _kind(own: Float[np.ndarray, " M"], other: Float[np.ndarray, " M"], overlap: float) -> tuple[Kind, int | None]:
    """The kind of a detection that finds nothing, and the box that it is on or beside, by its IoU with each."""
    if not len(own):
        return Kind.BACKGROUND, None
    nearest, nearest_other = int(own.argmax()), int(other.argmax())
    if BESIDE <= own[nearest] < overlap:
        return Kind.PLACE, nearest
    if other[nearest_other] >= overlap:
        return Kind.CLASS, nearest_other
    if own[nearest] >= overlap:
        return Kind.DUPLICATE, nearest
    if other[nearest_other] < BESIDE:
        return Kind.BACKGROUND, None
    return Kind.BOTH, nearest_other


class _Costs:
    """Average precision as it is, and as it would be without one kind of errors."""

    def __init__(self, judged: list[_Judged], truth: Truth):
        self._truth = truth
        self._kinds = [kind for picture in judged for kind in picture.kinds]
        self._scores = np.concatenate([np.zeros(0), *(picture.predicted.scores for picture in judged)])
        self._labels = np.concatenate([np.zeros(0, int), *(picture.predicted.labels for picture in judged)])
        found = np.concatenate([np.zeros(0, int), *(picture.found for picture in judged)])
        self._right, self._counted = found >= 0, found != IGNORED
        self._mended = np.full(len(found), NOTHING)
        """The box that a detection would find if it were put right."""
        start = 0
        for picture in judged:
            for row, i in picture.mended().items():
                self._mended[start + i] = row
            start += len(picture.found)
        present = ~truth.crowds & np.isin(truth.pictures, [picture.predicted.picture for picture in judged])
        self._boxes = np.bincount(truth.labels[present], minlength=len(truth.class_names))
        missed = [row for picture in judged for row in picture.missed()]
        self._missed = np.bincount(truth.labels[missed], minlength=len(truth.class_names))
        self.ap = self._mean(self._labels, self._right, self._counted, self._boxes)

    def of(self, kind: Kind) -> float:
        """What average precision gains without the kind."""
        if kind is Kind.MISSED:
            return self._mean(self._labels, self._right, self._counted, self._boxes - self._missed) - self.ap
        wrong = np.array([other is kind for other in self._kinds], bool)
        put_right = wrong & (self._mended >= 0) if kind in (Kind.CLASS, Kind.PLACE) else np.zeros(len(wrong), bool)
        labels = (
            np.where(put_right, self._truth.labels[self._mended], self._labels) if put_right.any() else self._labels
        )
        kept = self._counted & (~wrong | put_right)
        return self._mean(labels, self._right | put_right, kept, self._boxes) - self.ap

    def _mean(self, labels: np.ndarray, right: np.ndarray, counted: np.ndarray, boxes: np.ndarray) -> float:
        """Over all classes that had a box, and have one or a detection."""
        of_classes = []
        for label in np.flatnonzero(self._boxes):
            own = counted & (labels == label)
            if boxes[label] or own.any():
                of_classes.append(average_precision(self._scores[own], right[own], int(boxes[label])))
        return float(np.mean(of_classes)) if of_classes else float("nan")
