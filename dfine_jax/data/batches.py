"""Samples padded into batches of a static shape."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from dfine_jax.data.samples import Sample

NO_PICTURE = -1
PLACES_STEP = 8


class Batch(NamedTuple):
    """Pictures of one size with their boxes, of which each picture has `N` places and `mask` tells the real ones."""

    images: UInt8[np.ndarray, "B S S 3"]
    boxes: Float32[np.ndarray, "B N 4"]
    """cx, cy, w, h in fractions of the picture; zeros where there is no box."""
    labels: Int32[np.ndarray, "B N"]
    mask: Bool[np.ndarray, "B N"]
    left_out: Int32[np.ndarray, " B"]
    """How many boxes of each picture found no place."""
    indices: Int32[np.ndarray, " B"]
    """Each picture's place in `Dataset.records`; `NO_PICTURE` for rows that only fill up the batch (they are black)."""


def places_for(most_boxes: int) -> int:
    """Places for pictures of up to that many boxes: rounded up, so that similar data share a compilation."""
    return max(PLACES_STEP, -(-most_boxes // PLACES_STEP) * PLACES_STEP)


def collate(samples: Sequence[Sample | None], indices: Sequence[int], size: int, max_boxes: int) -> Batch:
    """One batch from samples of `size` by `size` pixels; None fills up a row.

    A picture with more than `max_boxes` boxes keeps the largest, which are the likeliest to be visible at `size`;
    `Batch.left_out` counts the others.
    """
    count = len(samples)
    batch = Batch(
        images=np.zeros((count, size, size, 3), np.uint8),
        boxes=np.zeros((count, max_boxes, 4), np.float32),
        labels=np.zeros((count, max_boxes), np.int32),
        mask=np.zeros((count, max_boxes), bool),
        left_out=np.zeros(count, np.int32),
        indices=np.full(count, NO_PICTURE, np.int32),
    )
    for row, (sample, index) in enumerate(zip(samples, indices, strict=True)):
        if sample is None:
            continue
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        kept = np.sort(np.argsort(-sides.prod(axis=1), kind="stable")[:max_boxes])
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        batch.images[row] = sample.picture
        batch.boxes[row, : len(kept)] = np.concatenate([centres, sides], axis=1)[kept] / size
        batch.labels[row, : len(kept)] = sample.labels[kept]
        batch.mask[row, : len(kept)] = True
        batch.left_out[row] = len(sides) - len(kept)
        batch.indices[row] = index
    return batch
