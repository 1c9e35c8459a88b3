"""The recipe's augmentations, each a function from a random generator and a sample to a sample.

They follow the definitions of torchvision's transforms of the same purpose (named with each), on uint8 pictures and
boxes in pixels. None changes the arrays it is given.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from PIL import Image, ImageEnhance

from dfine_jax.data.samples import Sample

BRIGHTNESS = (0.875, 1.125)
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = (-0.05, 0.05)
"""In turns of the colour circle."""
SMALLEST_BOX = 1.0
"""Boxes with a side under this many pixels are dropped."""
CROP_SCALES = (0.3, 1.0)
CROP_RATIOS = (0.5, 2.0)
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
CROP_TRIALS = 40


def photometric(rng: np.random.Generator, sample: Sample, probability: float = 0.5) -> Sample:
    """Changes brightness, contrast, saturation and hue and shuffles the channels, each with the given probability.

    torchvision's RandomPhotometricDistort. Contrast comes second or, as often, after the hue.
    """
    picture = Image.fromarray(sample.picture)
    brightness, contrast, saturation, hue = (
        rng.uniform(*bounds) if rng.random() < probability else None
        for bounds in (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    )
    contrast_early = rng.random() < 0.5
    channels = rng.permutation(3) if rng.random() < probability else None
    if brightness is not None:
        picture = _scale_levels(picture, 0.0, brightness)
    if contrast is not None and contrast_early:
        picture = _scale_levels(picture, _mean_grey(picture), contrast)
    if saturation is not None:
        picture = ImageEnhance.Color(picture).enhance(saturation)
    if hue is not None:
        picture = _turn_hue(picture, hue)
    if contrast is not None and not contrast_early:
        picture = _scale_levels(picture, _mean_grey(picture), contrast)
    pixels = np.asarray(picture)
    return sample._replace(picture=pixels if channels is None else pixels[..., channels])


def _scale_levels(picture: Image.Image, about: float, factor: float) -> Image.Image:
    """Moves every level away from the level `about` (or towards it), which is one table for all pixels."""
    levels = np.clip(about + factor * (np.arange(256) - about), 0, 255).astype(np.uint8)
    return picture.point(levels.tolist() * 3)


def _mean_grey(picture: Image.Image) -> float:
    return float(np.asarray(picture.convert("L")).mean())


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    steps = round(turn * 255)
    turned = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def zoom_out(rng: np.random.Generator, sample: Sample, most: float = 4.0) -> Sample:
    """Puts the picture somewhere on a black ground of up to `most` times its sides (torchvision's RandomZoomOut)."""
    height, width = sample.picture.shape[:2]
    factor = rng.uniform(1.0, most)
    ground_width, ground_height = int(width * factor), int(height * factor)
    left, top = int((ground_width - width) * rng.random()), int((ground_height - height) * rng.random())
    ground = np.zeros((ground_height, ground_width, 3), np.uint8)
    ground[top : top + height, left : left + width] = sample.picture
    return Sample(ground, sample.boxes + np.array([left, top, left, top], np.float32), sample.labels)


def iou_crop(rng: np.random.Generator, sample: Sample) -> Sample:
    """Cuts out a part that overlaps with some box as much as a random choice demands (torchvision's RandomIoUCrop).

    Of the boxes those stay whose centre lies in the part. One choice in seven, and any picture without boxes, leaves
    everything as it is; a choice that none of 40 random parts meets is made again.
    """
    height, width = sample.picture.shape[:2]
    while len(sample.boxes) and (overlap := CROP_OVERLAPS[rng.integers(len(CROP_OVERLAPS))]) < 1.0:
        parts = _random_parts(rng, width, height)
        overlaps = np.where(centres_inside(sample.boxes, parts), _ious(sample.boxes, parts), -1.0)
        fitting = parts[overlaps.max(axis=1) >= overlap]
        if len(fitting):
            return crop(sample, fitting[0])
    return sample


def _random_parts(rng: np.random.Generator, width: int, height: int) -> Int64[np.ndarray, "T 4"]:
    """Up to 40 parts of a picture, `xyxy`, none of them narrow."""
    sides = (rng.uniform(*CROP_SCALES, (CROP_TRIALS, 2)) * (width, height)).astype(np.int64)
    corners = ((np.array([width, height]) - sides) * rng.random((CROP_TRIALS, 2))).astype(np.int64)
    part_widths, part_heights = sides.T
    usable = (part_widths >= CROP_RATIOS[0] * part_heights) & (part_widths <= CROP_RATIOS[1] * part_heights)
    return np.concatenate([corners, corners + sides], axis=1)[usable & (sides > 0).all(axis=1)]


def _ious(boxes: Float32[np.ndarray, "N 4"], parts: Int64[np.ndarray, "T 4"]) -> Float64[np.ndarray, "T N"]:
    parts = parts[:, None]
    shared = np.minimum(boxes[:, 2:], parts[..., 2:]) - np.maximum(boxes[:, :2], parts[..., :2])
    intersection = np.prod(np.maximum(shared, 0), axis=-1)
    areas = [np.prod(corners[..., 2:] - corners[..., :2], axis=-1) for corners in (boxes, parts)]
    return intersection / (areas[0] + areas[1] - intersection)


def centres_inside(boxes: Float32[np.ndarray, "N 4"], parts: Int64[np.ndarray, "T 4"]) -> Bool[np.ndarray, "T N"]:
    """Which boxes have their centre strictly inside of each part of the picture, given as `xyxy`."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > parts[:, None, :2]) & (centres < parts[:, None, 2:])).all(axis=-1)


def crop(sample: Sample, part: Int64[np.ndarray, "4"]) -> Sample:
    """A part of the picture, `xyxy` in whole pixels, with the boxes whose centre lies in it, clipped to it."""
    left, top, right, bottom = part
    kept = centres_inside(sample.boxes, part[None])[0]
    corners = np.clip(sample.boxes[kept], part[[0, 1, 0, 1]], part[[2, 3, 2, 3]])
    boxes = (corners - part[[0, 1, 0, 1]]).astype(np.float32)
    return Sample(sample.picture[top:bottom, left:right], boxes, sample.labels[kept])


def drop_small(sample: Sample) -> Sample:
    """Clips boxes to the picture and drops those with a side under a pixel (torchvision's SanitizeBoundingBoxes)."""
    height, width = sample.picture.shape[:2]
    boxes = np.clip(sample.boxes, 0, np.array([width, height, width, height], np.float32))
    kept = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_BOX).all(axis=1)
    return Sample(sample.picture, boxes[kept], sample.labels[kept])


def flip(sample: Sample) -> Sample:
    """Left becomes right."""
    width = sample.picture.shape[1]
    left, top, right, bottom = sample.boxes.T
    boxes = np.stack([width - right, top, width - left, bottom], axis=1)
    return Sample(sample.picture[:, ::-1], boxes, sample.labels)


def resize(sample: Sample, width: int, height: int) -> Sample:
    """Resizes picture and boxes (Pillow's bilinear, which averages when shrinking)."""
    old_height, old_width = sample.picture.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(sample.picture)).resize((width, height), Image.Resampling.BILINEAR)
    scale = np.array([width / old_width, height / old_height] * 2, np.float32)
    return Sample(np.asarray(picture), sample.boxes * scale, sample.labels)


def stretch(sample: Sample, size: int) -> Sample:
    """Resizes to `size` by `size` pixels without keeping proportions, as inference does."""
    return resize(sample, size, size)
