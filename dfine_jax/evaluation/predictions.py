"""What a model finds in the pictures of a data set, not yet cut at a threshold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from dfine_jax.data.samples import Dataset, UnreadablePictureError
from dfine_jax.data.values import plain_name
from dfine_jax.display import printable, storable
from dfine_jax.errors import InputError
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.edges import Edges
from dfine_jax.inference.pictures import PictureError

UNKNOWN = -1
"""Stands for a class of the model's that the data set doesn't have."""
DECIMALS = 3
"""Boxes are measured and written to a thousandth of a pixel."""


class Predicted(NamedTuple):
    """The detections in one picture, best first."""

    picture: int
    """Its place in `Dataset.records`."""
    scores: Float32[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]
    """As the data set counts them, not the model."""
    boxes: Float32[np.ndarray, "N 4"]
    """x0, y0, x1, y1 in pixels of the original picture."""
    edges: Edges | None = None
    """How sure each edge's place is, where the detector was asked for it."""

    def only(self, which: np.ndarray) -> "Predicted":
        """Some of them, by a mask or by indices."""
        edges = None if self.edges is None else self.edges[which]
        return Predicted(self.picture, self.scores[which], self.labels[which], self.boxes[which], edges)

    def above(self, threshold: float) -> "Predicted":
        """Those that score more."""
        return self.only(self.scores > threshold)


def predict(detector: Detector, dataset: Dataset) -> Iterator[Predicted | PictureError]:
    """What a detector finds in each picture of a data set, however low the score, as it comes.

    Classes are matched by name (`same_classes`); what is found of others is left out. In place of a picture that can't
    be read comes the error that says why.

    Raises:
        ValueError: detector and data set have no class in common.
    """
    label_of = same_classes(detector.config.class_names, dataset.class_names)
    sources = (_Source(dataset, index) for index in range(len(dataset)))
    for found in detector.stream(sources, threshold=0.0):
        if isinstance(found.outcome, PictureError):
            yield found.outcome
        else:
            outcome = found.outcome
            columns = (outcome.scores, outcome.label_ids, outcome.boxes)
            yield relabelled(found.source.index, *columns, label_of, outcome.edges)


def relabelled(
    picture: int,
    scores: Float32[np.ndarray, " N"],
    labels: Int32[np.ndarray, " N"],
    boxes: Float32[np.ndarray, "N 4"],
    label_of: Int32[np.ndarray, " K"],
    edges: Edges | None = None,
) -> Predicted:
    """A model's detections with the data set's labels, less those of classes it doesn't have."""
    labels = label_of[labels]
    return Predicted(picture, scores, labels, boxes, edges).only(labels != UNKNOWN)


def same_classes(model: Sequence[str], data: Sequence[str]) -> Int32[np.ndarray, " K"]:
    """The data set's label for each class of the model's, `UNKNOWN` where there is none.

    Names agree whatever their case and whether words are joined by spaces, hyphens or underscores.

    Raises:
        ValueError: no name agrees.
    """
    labels = {plain_name(name): label for label, name in reversed(list(enumerate(data)))}
    label_of = np.array([labels.get(plain_name(name), UNKNOWN) for name in model], np.int32)
    if (label_of == UNKNOWN).all():
        raise InputError(
            f"the model knows {_some(model)} and the data set has {_some(data)}: no class in common; "
            "choose a model that was trained on these classes"
        )
    return label_of


def coco_results(
    predicted: Iterable[Predicted], image_ids: Sequence[int | str], category_ids: Sequence[int]
) -> list[dict]:
    """Detections as COCO's result format has them, boxes as x, y, width, height."""
    return [
        {"image_id": image_ids[found.picture], "category_id": category_ids[label], "bbox": box, "score": score}
        for found in predicted
        for label, box, score in zip(
            found.labels.tolist(), xywh(found.boxes).tolist(), found.scores.tolist(), strict=True
        )
    ]


def own_ids(predicted: Iterable[Predicted], truth: Truth) -> list[dict]:
    """`coco_results` with the ids of the data set's own files, as `storable` text where they are text."""
    columns = (truth.image_ids, truth.category_ids)
    image_ids, category_ids = ([storable(x) if isinstance(x, str) else x for x in ids] for ids in columns)
    return coco_results(predicted, image_ids, category_ids)


def xywh(boxes: Float32[np.ndarray, "N 4"]) -> np.ndarray:
    """Corners to left, top, width and height, float64, rounded: the decimals of a COCO file, which corners lose."""
    corners = boxes.astype(np.float64)
    return np.round(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), DECIMALS)


@dataclass(frozen=True)
class _Source:
    """A picture of a data set that is read when the detector, in one of its threads, wants its pixels."""

    dataset: Dataset
    index: int

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        try:
            return self.dataset.records[self.index].pixels()
        except UnreadablePictureError as error:
            raise PictureError(str(error)) from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
