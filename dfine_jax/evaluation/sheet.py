"""Pictures with what was found in them, right or wrong, and what was missed, on one page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfine_jax.data.samples import Dataset, UnreadablePictureError
from dfine_jax.display import printable
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.confusion import IGNORED, NOTHING, Verdict, judge, rows_by_picture
from dfine_jax.evaluation.truth import Truth

PAPER, INK = (250, 250, 248), (40, 42, 46)
RIGHT, WRONG, MISSED, IN_CROWD = (30, 130, 245), (240, 100, 0), (250, 205, 0), (150, 150, 150)
LEGEND = (
    ("right", RIGHT, False),
    ("wrong class or place", WRONG, False),
    ("missed", MISSED, True),
    ("in a crowd", IN_CROWD, False),
)
GAP, TAG_SIZE, LEGEND_SIZE = 10, 11, 15
LONGEST_NAME = 40
DASH = 5


class _Frame(NamedTuple):
    """A box to draw; edges in pixels of the original picture."""

    box: np.ndarray
    tag: str
    colour: tuple[int, int, int]
    dashed: bool


def comparison_sheet(
    dataset: Dataset, evaluation: Evaluation, count: int = 12, *, columns: int = 4, tile: int = 320
) -> Image.Image:
    """Draws some pictures with the detections above the evaluation's threshold, each compared with the labels.

    The pictures are evenly spaced through the data set, so they are the same for any model. Those that can't be
    decoded are passed over.

    Args:
        dataset: the one that was evaluated on.
        evaluation: its result.
        count: how many to show; fewer if there are no more.
        columns: pictures a row.
        tile: width and height a picture gets at most, in pixels.
    """
    truth, rows_of = evaluation.truth, rows_by_picture(evaluation.truth)
    count = min(count, len(evaluation.predicted))
    tiles = []
    for predicted in (evaluation.predicted[i * len(evaluation.predicted) // count] for i in range(count)):
        verdict = judge(predicted, truth, rows_of[predicted.picture], evaluation.confusion.threshold)
        try:
            pixels = dataset.records[predicted.picture].pixels()
        except UnreadablePictureError:
            continue
        tiles.append(_tile(pixels, _frames(verdict, truth), tile))
    return _page(tiles, columns, tile)


def _frames(verdict: Verdict, truth: Truth) -> list[_Frame]:
    """What was missed, then what was found from the worst to the best, so that the best lies on top."""
    names = [printable(name)[:LONGEST_NAME] for name in truth.class_names]
    frames = [_Frame(truth.boxes[row], names[truth.labels[row]], MISSED, True) for row in verdict.missed]
    predicted = verdict.predicted
    for i in reversed(range(len(predicted.scores))):
        row, label = verdict.found[i], predicted.labels[i]
        right = row not in (NOTHING, IGNORED) and truth.labels[row] == label
        colour = RIGHT if right else IN_CROWD if row == IGNORED else WRONG
        frames.append(_Frame(predicted.boxes[i], f"{names[label]} {predicted.scores[i]:.2f}", colour, False))
    return frames


def _tile(pixels: np.ndarray, frames: Sequence[_Frame], tile: int) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(TAG_SIZE)
    limits = np.array(size * 2) - 1
    for frame in frames:
        box = np.clip((frame.box * scale).round().astype(int), 0, limits).tolist()
        if frame.dashed:
            _dashes(pen, box, frame.colour)
        else:
            pen.rectangle(box, outline=frame.colour, width=2)
    for frame in frames:
        left, top = (frame.box[:2] * scale).round().astype(int).tolist()
        _tag(pen, frame, left, top, font, size)
    return picture


def _tag(
    pen: ImageDraw.ImageDraw, frame: _Frame, left: int, top: int, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> None:
    """The text above its box's corner, moved into the picture."""
    width, height = math.ceil(font.getlength(frame.tag)) + 4, TAG_SIZE + 3
    left = max(0, min(left, size[0] - width))
    top = max(0, min(top - height, size[1] - height))
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=frame.colour)
    ink = INK if frame.colour == MISSED else (255, 255, 255)
    pen.text((left + 2, top + height / 2), frame.tag, fill=ink, font=font, anchor="lm")


def _dashes(pen: ImageDraw.ImageDraw, box: Sequence[int], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    for x in range(left, right, 2 * DASH):
        for y in (top, bottom):
            pen.line((x, y, min(x + DASH, right), y), fill=colour, width=2)
    for y in range(top, bottom, 2 * DASH):
        for x in (left, right):
            pen.line((x, y, x, min(y + DASH, bottom)), fill=colour, width=2)


def _page(tiles: Sequence[Image.Image], columns: int, tile: int) -> Image.Image:
    columns = max(1, min(columns, len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    legend = _legend()
    width = max(columns * (tile + GAP) + GAP, legend.width)
    page = Image.new("RGB", (width, sum(heights) + (len(rows) + 1) * GAP + legend.height), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (tile + GAP) + (tile - picture.width) // 2
            page.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + GAP
    page.paste(legend, (0, top))
    return page


def _legend() -> Image.Image:
    font = ImageFont.load_default(LEGEND_SIZE)
    entries = [math.ceil(font.getlength(text)) + 3 * LEGEND_SIZE for text, _, _ in LEGEND]
    legend = Image.new("RGB", (sum(entries) + 2 * GAP, 2 * LEGEND_SIZE), PAPER)
    pen = ImageDraw.Draw(legend)
    left = GAP
    for (text, colour, dashed), entry in zip(LEGEND, entries, strict=True):
        box = (left + 1, 3, left + LEGEND_SIZE + 1, LEGEND_SIZE + 3)
        if dashed:
            _dashes(pen, box, colour)
        else:
            pen.rectangle(box, outline=colour, width=2)
        pen.text((left + round(1.6 * LEGEND_SIZE), 1), text, fill=INK, font=font)
        left += entry
    return legend
