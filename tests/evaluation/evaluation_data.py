"""Small data sets and predictions, made by hand."""

import numpy as np

from dfine_jax.data.samples import Dataset, Record
from dfine_jax.evaluation.predictions import Predicted

CLASS_NAMES = ("cat", "dog", "traffic light", "bird")
CATEGORY_IDS = (3, 7, 18, 90)


def record(boxes=(), labels=(), crowd_boxes=(), crowd_labels=(), *, image_id=1, width=200, height=100):
    """A grey picture with labels; areas are those of the boxes."""

    def columns(boxes, labels):
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return boxes, np.array(labels, np.int32), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)

    pixels = np.full((height, width, 3), 128, np.uint8)
    return Record(pixels, image_id, width, height, *columns(boxes, labels), *columns(crowd_boxes, crowd_labels))


def dataset(*records, class_names=CLASS_NAMES, category_ids=CATEGORY_IDS):
    return Dataset(class_names, category_ids, records, max([len(r.boxes) for r in records], default=0))


def found(picture, *detections):
    """Predictions for one picture from (score, label, box) triples."""
    scores, labels, boxes = zip(*detections, strict=True) if detections else ((), (), ())
    return Predicted(
        picture,
        np.array(scores, np.float32),
        np.array(labels, np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )
