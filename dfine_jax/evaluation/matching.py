"""Which labelled box each detection is on, as COCO's metric has it: the best-scoring detections choose first."""

import numpy as np
from jaxtyping import Int, Int32

from dfine_jax.evaluation.confusion import IGNORED, NOTHING, OVERLAP, overlaps
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth


def found_boxes(
    predicted: Predicted, truth: Truth, rows: Int[np.ndarray, " R"], overlap: float = OVERLAP
) -> Int32[np.ndarray, " N"]:
    """The row of `truth` that each detection in a picture finds, of its own class and one to one.

    `NOTHING` where it finds none, `IGNORED` where it finds none and lies in a crowd of its class. `rows` are those of
    the picture, `overlap` the least IoU.
    """
    objects, crowds = rows[~truth.crowds[rows]], rows[truth.crowds[rows]]
    iou = overlaps(predicted.boxes, truth.boxes[objects], crowd=False)
    iou[predicted.labels[:, None] != truth.labels[objects]] = 0.0
    found = np.full(len(predicted.scores), NOTHING, np.int32)
    for detection in np.argsort(-predicted.scores, kind="stable"):
        if iou[detection].max(initial=0.0) >= overlap:
            column = len(objects) - 1 - iou[detection, ::-1].argmax()  # the metric takes the last of equals
            found[detection] = objects[column]
            iou[:, column] = 0.0
    in_crowd = overlaps(predicted.boxes, truth.boxes[crowds], crowd=True) >= overlap
    in_crowd &= predicted.labels[:, None] == truth.labels[crowds]
    found[(found == NOTHING) & in_crowd.any(axis=1)] = IGNORED
    return found
