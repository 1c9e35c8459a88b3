"""From a labelled picture to one of the network's input size, as training and evaluation want it."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dfine_jax.data.mosaic import mixup, mosaic
from dfine_jax.data.samples import Dataset, Sample
from dfine_jax.data.transforms import drop_small, flip, iou_crop, photometric, resize, stretch, zoom_out
from dfine_jax.errors import InputError

LONGEST_SIDE = 2048
"""Larger pictures are shrunk to this before anything else: a zoom to four times 6,000 pixels would take gigabytes."""


DENSE = 0.5
"""Probability of a mosaic and of a mixture in the first half of a training with the preset ``dense``."""


@dataclass(frozen=True)
class Augmentation:
    """How often each change is made to a picture; the defaults are D-FINE's recipe for all but the last epochs."""

    photometric: float = 0.5
    """Probability of each change of colours: brightness, contrast, saturation, hue, order of the channels."""
    zoom_out: float = 0.5
    """Probability of putting the picture on a larger black ground."""
    zoom_out_most: float = 4.0
    """Largest ground, in sides of the picture."""
    iou_crop: float = 0.8
    """Probability of cutting out a part."""
    flip: float = 0.5
    """Probability of exchanging left and right."""
    mosaic: float = 0.0
    """Probability of joining four pictures to one (not in the original recipe)."""
    mixup: float = 0.0
    """Probability of showing two pictures through each other (not in the original recipe)."""

    preset: Literal["plain", "dense"] = "plain"
    """dense: in the first half of the training a mosaic and a mixture with the probability of a half each, so that a
    picture has more boxes (Dense One-to-One of DEIM, arXiv 2412.04234); in the second half what the others say."""

    def __post_init__(self):
        for name in ("photometric", "zoom_out", "iou_crop", "flip", "mosaic", "mixup"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is a probability: {getattr(self, name)} is not in 0..1")
        if self.zoom_out_most < 1.0:
            raise InputError(f"zoom_out_most must be at least 1, not {self.zoom_out_most}")

    @property
    def crowding(self) -> int:
        """How many pictures' boxes one should have places for."""
        return 2 if self.preset == "dense" else 1

    def at(self, share: float) -> "Augmentation":
        """What is done after a share (0 to 1) of the training."""
        if self.preset == "dense" and share < 0.5:
            return replace(self, mosaic=DENSE, mixup=DENSE)
        return self


LAST_PHASE = Augmentation(photometric=0.0, zoom_out=0.0, iou_crop=0.0)
"""The recipe's last epochs: only flipped and stretched."""


def augmented(dataset: Dataset, index: int, size: int, rng: np.random.Generator, augmentation: Augmentation) -> Sample:
    """Picture `index`, changed at random and stretched to `size` by `size` pixels.

    Raises:
        DataError: a picture can't be decoded.
    """
    sample = _augmented_one(dataset, index, size, rng, augmentation)
    if rng.random() < augmentation.mixup:
        other = _augmented_one(dataset, int(rng.integers(len(dataset))), size, rng, augmentation)
        sample = mixup(rng, sample, other)
    return sample


def _augmented_one(
    dataset: Dataset, index: int, size: int, rng: np.random.Generator, augmentation: Augmentation
) -> Sample:
    sample = _shrunk(dataset.sample(index))
    if rng.random() < augmentation.mosaic:
        others = [_shrunk(dataset.sample(int(other))) for other in rng.integers(len(dataset), size=3)]
        sample = mosaic(rng, (sample, *others), size)
    if augmentation.photometric > 0.0:
        sample = photometric(rng, sample, augmentation.photometric)
    if rng.random() < augmentation.zoom_out:
        sample = zoom_out(rng, sample, augmentation.zoom_out_most)
    if rng.random() < augmentation.iou_crop:
        sample = iou_crop(rng, sample)
    sample = drop_small(sample)
    if rng.random() < augmentation.flip:
        sample = flip(sample)
    return drop_small(stretch(sample, size))


def plain(dataset: Dataset, index: int, size: int) -> Sample:
    """Picture `index` stretched to `size` by `size` pixels, as inference sees it.

    Raises:
        DataError: the picture can't be decoded.
    """
    return stretch(dataset.sample(index), size)


def _shrunk(sample: Sample) -> Sample:
    height, width = sample.picture.shape[:2]
    factor = LONGEST_SIDE / max(height, width)
    if factor >= 1.0:
        return sample
    return resize(sample, max(1, round(width * factor)), max(1, round(height * factor)))
