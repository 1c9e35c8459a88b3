"""What is to be found: the labels of a data set in columns, without its pictures."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32

from dfine_jax.data.samples import Dataset


@dataclass(frozen=True, eq=False)
class Truth:
    """All labelled boxes of a data set, gathered once for any number of evaluations."""

    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    """The id each label has in the data set's own files."""
    image_ids: tuple[int | str, ...]
    """The id each picture has there."""
    sizes: Int32[np.ndarray, "P 2"]
    """Height and width of each picture in pixels."""
    pictures: Int32[np.ndarray, " N"]
    """The picture each box is in: its place in `Dataset.records`."""
    boxes: Float32[np.ndarray, "N 4"]
    """x0, y0, x1, y1 in pixels."""
    labels: Int32[np.ndarray, " N"]
    areas: Float32[np.ndarray, " N"]
    """Square pixels, by which the metric tells small from large."""
    crowds: Bool[np.ndarray, " N"]
    """Regions in which finding something is neither right nor wrong."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Truth":
        """Gathers the labels; each record is asked for once, since drawn data sets draw it then."""
        image_ids, sizes, pictures, columns = [], [], [], []
        for index, record in enumerate(dataset.records):
            image_ids.append(record.image_id)
            sizes.append((record.height, record.width))
            objects, crowds = len(record.boxes), len(record.crowd_boxes)
            columns.append((record.boxes, record.labels, record.areas, np.zeros(objects, bool)))
            columns.append((record.crowd_boxes, record.crowd_labels, record.crowd_areas, np.ones(crowds, bool)))
            pictures.append(np.full(objects + crowds, index, np.int32))
        nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, bool))
        boxes, labels, areas, crowds = map(np.concatenate, zip(nothing, *columns, strict=True))
        return cls(
            class_names=dataset.class_names,
            category_ids=dataset.category_ids,
            image_ids=tuple(image_ids),
            sizes=np.array(sizes, np.int32).reshape(-1, 2),
            pictures=np.concatenate([np.zeros(0, np.int32), *pictures]),
            boxes=boxes,
            labels=labels,
            areas=areas,
            crowds=crowds,
        )
