"""Pictures with frames and tags on them, put together to a page with a legend."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfine_jax.data.page import GAP, INK, PAPER, page_of

BLUE, ORANGE, YELLOW, GREY = (30, 130, 245), (240, 100, 0), (250, 205, 0), (150, 150, 150)
TAG_SIZE, LEGEND_SIZE = 11, 15
DASH = 5


class Entry(NamedTuple):
    """One line of a legend."""

    text: str
    colour: tuple[int, int, int]
    dashed: bool = False


class Frame(NamedTuple):
    """A box to draw; edges in pixels of the original picture."""

    box: np.ndarray
    tag: str
    """Above the box, or below where it is `dashed`, so that two frames of one place can both be read."""
    colour: tuple[int, int, int]
    dashed: bool = False


def draw_tile(pixels: np.ndarray, frames: Sequence[Frame], tile: int) -> Image.Image:
    """A picture no wider or higher than `tile`, with frames on it, the last on top."""
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
        left, top, _, bottom = (frame.box * scale).round().astype(int).tolist()
        _tag(pen, frame, left, bottom + 1 if frame.dashed else top - TAG_SIZE - 3, font, size)
    return picture


def _tag(
    pen: ImageDraw.ImageDraw, frame: Frame, left: int, top: int, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> None:
    """The text at a place, moved into the picture."""
    width, height = math.ceil(font.getlength(frame.tag)) + 4, TAG_SIZE + 3
    left = max(0, min(left, size[0] - width))
    top = max(0, min(top, size[1] - height))
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=frame.colour)
    ink = INK if frame.colour == YELLOW else (255, 255, 255)
    pen.text((left + 2, top + height / 2), frame.tag, fill=ink, font=font, anchor="lm")


def _dashes(pen: ImageDraw.ImageDraw, box: Sequence[int], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    for x in range(left, right, 2 * DASH):
        for y in (top, bottom):
            pen.line((x, y, min(x + DASH, right), y), fill=colour, width=2)
    for y in range(top, bottom, 2 * DASH):
        for x in (left, right):
            pen.line((x, y, x, min(y + DASH, bottom)), fill=colour, width=2)


def page_with_legend(tiles: Sequence[Image.Image], columns: int, tile: int, entries: Sequence[Entry]) -> Image.Image:
    """Tiles in rows, and a legend below."""
    return page_of(tiles, columns, tile, lambda _: _legend(entries))


def _legend(lines: Sequence[Entry]) -> Image.Image:
    font = ImageFont.load_default(LEGEND_SIZE)
    entries = [math.ceil(font.getlength(text)) + 3 * LEGEND_SIZE for text, _, _ in lines]
    legend = Image.new("RGB", (sum(entries) + 2 * GAP, 2 * LEGEND_SIZE), PAPER)
    pen = ImageDraw.Draw(legend)
    left = GAP
    for (text, colour, dashed), entry in zip(lines, entries, strict=True):
        box = (left + 1, 3, left + LEGEND_SIZE + 1, LEGEND_SIZE + 3)
        if dashed:
            _dashes(pen, box, colour)
        else:
            pen.rectangle(box, outline=colour, width=2)
        pen.text((left + round(1.6 * LEGEND_SIZE), 1), text, fill=INK, font=font)
        left += entry
    return legend
