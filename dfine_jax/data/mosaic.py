"""Augmentations that put several pictures into one; not part of the original recipe."""

import numpy as np

from dfine_jax.data.samples import Sample
from dfine_jax.data.transforms import crop, stretch

CENTRES = (0.25, 0.75)
"""Where the four pictures of a mosaic may meet, in sides of it."""
MIX = (0.4, 0.6)
"""The first picture's share of a mixture."""


def mosaic(rng: np.random.Generator, samples: tuple[Sample, Sample, Sample, Sample], size: int) -> Sample:
    """Four pictures around a random point of a square of `size` pixels.

    Each is stretched to two thirds of the square's side and cut off where its quarter ends (a quarter larger than
    that shows it whole, on black). Boxes stay if their centre does. After YOLOv4 (arXiv 2004.10934), section 3.3.
    """
    across, down = (int(size * rng.uniform(*CENTRES)) for _ in range(2))
    side = round(size * 2 / 3)
    ground = np.zeros((size, size, 3), np.uint8)
    boxes, labels = [], []
    for place, sample in enumerate(samples):
        rightmost, lower = place % 2, place // 2
        left = across if rightmost else across - side
        top = down if lower else down - side
        part = np.array([max(0, -left), max(0, -top), min(side, size - left), min(side, size - top)])
        cut = crop(stretch(sample, side), part)
        left, top = max(0, left), max(0, top)
        height, width = cut.picture.shape[:2]
        ground[top : top + height, left : left + width] = cut.picture
        boxes.append(cut.boxes + np.array([left, top, left, top], np.float32))
        labels.append(cut.labels)
    return Sample(ground, np.concatenate(boxes), np.concatenate(labels))


def mixup(rng: np.random.Generator, first: Sample, second: Sample) -> Sample:
    """Two pictures of one size shown through each other, with the boxes of both (arXiv 1710.09412, for detection).

    Raises:
        ValueError: the pictures differ in size.
    """
    if first.picture.shape != second.picture.shape:
        raise ValueError(f"mixup needs pictures of one size, not {first.picture.shape} and {second.picture.shape}")
    share = np.float32(rng.uniform(*MIX))
    picture = np.round(first.picture * share + second.picture * (1 - share)).astype(np.uint8)
    boxes = np.concatenate([first.boxes, second.boxes])
    return Sample(picture, boxes, np.concatenate([first.labels, second.labels]))
