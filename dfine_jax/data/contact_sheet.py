"""Many labelled pictures on one page."""

import colorsys
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfine_jax.data.page import GAP, INK, PAPER, page_of
from dfine_jax.data.samples import Dataset, Sample, UnreadablePictureError
from dfine_jax.display import printable

CROWD = (150, 150, 150)
TEXT_SIZE = 15
LOOKED_AT = 400
"""Pictures looked at to find some of every class."""


def contact_sheet(
    dataset: Dataset, count: int = 12, *, columns: int = 4, tile: int = 300, seed: int = 0
) -> Image.Image:
    """Draws some pictures with their boxes, coloured by class (crowd regions in grey), and a legend below.

    The choice is random, but shows every class if it can. Pictures that can't be decoded are passed over.

    Args:
        dataset: where the pictures are from.
        count: how many to show; fewer if there are no more.
        columns: pictures a row.
        tile: width and height a picture gets at most, in pixels.
        seed: of the choice.
    """
    tiles = []
    for index in _choice(dataset, count, seed):
        try:
            tiles.append(_tile(dataset, index, tile))
        except UnreadablePictureError:
            continue
    return page_of(tiles, columns, tile, partial(_legend, dataset.class_names))


def _choice(dataset: Dataset, count: int, seed: int) -> list[int]:
    """Random pictures, first of all some that bring in a class not shown yet."""
    order = np.random.default_rng(seed).permutation(len(dataset))[:LOOKED_AT].tolist()
    shown: set[int] = set()
    chosen = []
    for index in order:
        if len(chosen) == count or len(shown) == len(dataset.class_names):
            break
        labels = set(dataset.records[index].labels.tolist())
        if labels - shown:
            chosen.append(index)
            shown |= labels
    others = (index for index in order if index not in chosen)
    return sorted(chosen + [index for index, _ in zip(others, range(count - len(chosen)), strict=False)])


def class_colour(label: int) -> tuple[int, int, int]:
    """A colour for a class: neighbours in the list are far apart on the colour circle, and some are darker."""
    hue = (0.58 + label * 0.618034) % 1.0
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.85, (1.0, 0.85, 0.75)[label % 3]))


def _tile(dataset: Dataset, index: int, tile: int) -> Image.Image:
    record = dataset.records[index]
    sample = Sample(record.pixels(), record.boxes, record.labels)
    height, width = sample.picture.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(sample.picture).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    for box in record.crowd_boxes:
        _frame(pen, box * scale, CROWD)
    for box, label in zip(sample.boxes, sample.labels.tolist(), strict=True):
        _frame(pen, box * scale, class_colour(label))
    return picture


def _frame(pen: ImageDraw.ImageDraw, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = (round(float(value)) for value in box)
    right, bottom = max(left, right - 1), max(top, bottom - 1)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=PAPER, width=1)
    pen.rectangle((left, top, right, bottom), outline=colour, width=2)


def _legend(class_names: Sequence[str], width: int) -> Image.Image:
    """A coloured square and the name of each class, in columns."""
    class_names = [printable(name) for name in class_names] or ["no classes"]
    font = ImageFont.load_default(TEXT_SIZE)
    entry = max(math.ceil(font.getlength(name)) for name in class_names) + 3 * TEXT_SIZE
    line = round(1.6 * TEXT_SIZE)
    columns = max(1, (width - 2 * GAP) // entry)
    legend = Image.new("RGB", (width, math.ceil(len(class_names) / columns) * line + GAP), PAPER)
    pen = ImageDraw.Draw(legend)
    for label, name in enumerate(class_names):
        left, top = GAP + label % columns * entry, label // columns * line
        pen.rectangle((left, top + 3, left + TEXT_SIZE - 1, top + 3 + TEXT_SIZE - 1), fill=class_colour(label))
        pen.text((left + round(1.5 * TEXT_SIZE), top), name, fill=INK, font=font)
    return legend
