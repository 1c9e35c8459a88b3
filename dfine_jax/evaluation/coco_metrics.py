"""COCO's figures for a set of predictions (cocodataset.org/#detection-eval), by faster-coco-eval.

That library gives pycocotools' numbers to the last bits, several times as fast, and needs only numpy.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float64

from dfine_jax.evaluation.confusion import Confusion, confusion
from dfine_jax.evaluation.predictions import Predicted, coco_results, xywh
from dfine_jax.evaluation.truth import Truth

IOUS = np.linspace(0.5, 0.95, 10)
"""The IoUs from which a detection counts as right, over which AP is a mean."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Where precision is read off."""
IOU_50, IOU_75 = 0, 5
ALL_AREAS, MOST_DETECTIONS = 0, -1


class Figures(NamedTuple):
    """COCO's twelve, from 0 to 1, each a mean over classes; NaN where there is no box to be found."""

    ap: float
    """Average precision, the mean over IoUs of 0.50, 0.55, ... 0.95: the figure to compare detectors by."""
    ap50: float
    """Average precision at an IoU of 0.5."""
    ap75: float
    """Average precision at an IoU of 0.75."""
    ap_small: float
    """Of boxes under 32 x 32 pixels."""
    ap_medium: float
    ap_large: float
    """Of boxes over 96 x 96 pixels."""
    ar1: float
    """Average recall, over the same IoUs, with the best detection of each class and picture."""
    ar10: float
    """With the ten best."""
    ar100: float
    """With the hundred best, as for all other figures."""
    ar_small: float
    ar_medium: float
    ar_large: float


class ClassFigures(NamedTuple):
    """The figures of one class; NaN if it has no boxes, and then it is no part of any mean."""

    name: str
    category_id: int
    boxes: int
    """How many there are to be found."""
    ap: float
    ap50: float
    ap75: float
    ar100: float
    precision: float
    """Share of its detections above the threshold that are right (`Confusion`); NaN if there are none."""
    recall: float
    """Share of its boxes that these find."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good some predictions are, and all it was computed from."""

    truth: Truth
    predicted: tuple[Predicted, ...]
    figures: Figures
    classes: tuple[ClassFigures, ...]
    precisions: Float64[np.ndarray, "T R K"]
    """Best precision at each of `IOUS` with at least each of `RECALLS`, by class; NaN for a class without boxes."""
    scores: Float64[np.ndarray, "T R K"]
    """The threshold that gives that recall; 0 where none does."""
    confusion: Confusion

    @property
    def ap(self) -> float:
        """`Figures.ap`, the figure to compare detectors by."""
        return self.figures.ap


def evaluate(predicted: Iterable[Predicted], truth: Truth, *, threshold: float = 0.5) -> Evaluation:
    """Compares predictions with the labels.

    Pictures of the data set that no `Predicted` names are left out, their boxes with them. `threshold` is only that of
    the confusion matrix and of each class's precision and recall: AP looks at detections of any score.

    Raises:
        ValueError: predictions for a picture or class that isn't there, or twice for one picture.
    """
    predicted = tuple(predicted)
    _check(predicted, truth)
    scored = _scored(predicted, truth)
    precisions = scored.eval["precision"][..., ALL_AREAS, MOST_DETECTIONS]
    recalls = scored.eval["recall"][..., ALL_AREAS, MOST_DETECTIONS]
    table = confusion(predicted, truth, threshold)
    counted = ~truth.crowds & np.isin(truth.pictures, [found.picture for found in predicted])
    boxes = np.bincount(truth.labels[counted], minlength=len(truth.class_names))
    classes = tuple(
        ClassFigures(
            name=name,
            category_id=truth.category_ids[k],
            boxes=int(boxes[k]),
            ap=_mean(precisions[:, :, k]),
            ap50=_mean(precisions[IOU_50, :, k]),
            ap75=_mean(precisions[IOU_75, :, k]),
            ar100=_mean(recalls[:, k]),
            precision=float(table.precision[k]),
            recall=float(table.recall[k]),
        )
        for k, name in enumerate(truth.class_names)
    )
    return Evaluation(
        truth=truth,
        predicted=predicted,
        figures=Figures(*(_defined(value) for value in scored.stats[: len(Figures._fields)])),
        classes=classes,
        precisions=np.where(precisions < 0, np.nan, precisions),
        scores=np.maximum(scored.eval["scores"][..., ALL_AREAS, MOST_DETECTIONS], 0.0),
        confusion=table,
    )


def _scored(predicted: tuple[Predicted, ...], truth: Truth) -> COCOeval_faster:
    """The library's result for boxes. Within it ids count from 1: a data set's own may be text, or repeat."""
    images = range(1, len(truth.image_ids) + 1)
    categories = range(1, len(truth.class_names) + 1)
    columns = (truth.pictures, truth.labels, xywh(truth.boxes), truth.areas, truth.crowds)
    annotations = [
        {"id": i, "image_id": images[picture], "category_id": categories[label],
         "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (picture, label, box, area, crowd) in enumerate(zip(*map(np.ndarray.tolist, columns), strict=True), 1)
    ]  # fmt: skip
    labelled = COCO(
        {
            "images": [{"id": image} for image in images],
            "categories": [{"id": category, "name": str(category)} for category in categories],
            "annotations": annotations,
        }
    )
    found = labelled.loadRes(coco_results(predicted, images, categories))
    scoring = COCOeval_faster(labelled, found, "bbox")
    scoring.params.imgIds = sorted(images[picture.picture] for picture in predicted)
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()
    return scoring


def _check(predicted: tuple[Predicted, ...], truth: Truth) -> None:
    seen: set[int] = set()
    for found in predicted:
        if not 0 <= found.picture < len(truth.image_ids):
            raise ValueError(f"predictions for picture {found.picture}, but there are {len(truth.image_ids)} pictures")
        if found.picture in seen:
            raise ValueError(f"predictions for picture {found.picture} are there twice; give each picture once")
        seen.add(found.picture)
        if len(found.labels) and not 0 <= found.labels.min() <= found.labels.max() < len(truth.class_names):
            raise ValueError(
                f"predictions for picture {found.picture} have labels from {found.labels.min()} to "
                f"{found.labels.max()}, but there are {len(truth.class_names)} classes"
            )


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined, which the library writes as -1 where it is not."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _defined(value: float) -> float:
    return float(value) if value > -1 else math.nan
