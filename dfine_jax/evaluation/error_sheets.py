"""What went wrong as pages of pictures: each tile is cut out around one error and shows what is found and labelled."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfine_jax.data.samples import Dataset, UnreadablePictureError
from dfine_jax.display import printable
from dfine_jax.evaluation.confusion import NOTHING
from dfine_jax.evaluation.error_kinds import Error, Kind
from dfine_jax.evaluation.label_errors import Suspect
from dfine_jax.evaluation.tiles import INK, ORANGE, PAPER, YELLOW, Entry, Frame, draw_tile, page_with_legend
from dfine_jax.evaluation.truth import Truth

COUNT, COLUMNS, TILE = 20, 5, 240
"""Tiles of a page, of a row, and pixels of a tile's longer side."""
AROUND = 0.6
"""What is shown on each side of what a tile is about, in its longer sides."""
LEAST_SHOWN = 0.15
"""A tile shows no less of its picture than this, in the picture's longer sides."""
CAPTION_SIZE = 12
LONGEST_NAME = 24
LEGEND = (Entry("found", ORANGE), Entry("labelled", YELLOW, dashed=True))


def error_sheet(dataset: Dataset, truth: Truth, errors: Sequence[Error]) -> Image.Image:
    """Draws the first of some errors of one kind, each named by its picture; an empty page says that there is none."""

    def tiles() -> Iterable[tuple[int, list[Frame], str]]:
        for error in errors:
            frames = [] if error.row == NOTHING else [_labelled(truth, error.row)]
            if error.kind is not Kind.MISSED:
                frames.append(_found(truth, error.label, error.score, error.box))
            yield error.picture, frames, ""

    return _sheet(dataset, tiles())


def label_sheet(dataset: Dataset, truth: Truth, suspects: Sequence[Suspect]) -> Image.Image:
    """Draws the first of some likely label errors, each with what is in doubt."""

    def tiles() -> Iterable[tuple[int, list[Frame], str]]:
        for suspect in suspects:
            frames = [] if suspect.row == NOTHING else [_labelled(truth, suspect.row)]
            if suspect.seen is not None:
                frames.append(_found(truth, *suspect.seen))
            yield suspect.picture, frames, f"{suspect.doubt}: "

    return _sheet(dataset, tiles())


def _sheet(dataset: Dataset, tiles: Iterable[tuple[int, list[Frame], str]]) -> Image.Image:
    """Pictures that can't be decoded are passed over."""
    drawn: list[Image.Image] = []
    for picture, frames, about in tiles:
        record = dataset.records[picture]
        try:
            tile = _cut_out(record.pixels(), frames)
        except UnreadablePictureError:
            continue
        name = printable(record.name).replace("\\", "/").rsplit("/", 1)[-1]
        drawn.append(_captioned(tile, f"{len(drawn) + 1}. {about}{name}"))
        if len(drawn) == COUNT:
            break
    if not drawn:
        drawn.append(_captioned(Image.new("RGB", (TILE, CAPTION_SIZE), PAPER), "none"))
    return page_with_legend(drawn, COLUMNS, TILE, LEGEND)


def _labelled(truth: Truth, row: int) -> Frame:
    return Frame(truth.boxes[row], _name(truth, int(truth.labels[row])), YELLOW, dashed=True)


def _found(truth: Truth, label: int, score: float, box: np.ndarray) -> Frame:
    return Frame(box, f"{_name(truth, label)} {score:.2f}", ORANGE)


def _name(truth: Truth, label: int) -> str:
    return printable(truth.class_names[label])[:LONGEST_NAME]


def _cut_out(pixels: np.ndarray, frames: Sequence[Frame]) -> Image.Image:
    """What is around the frames, as a square where the picture is large enough."""
    height, width = pixels.shape[:2]
    sides = np.array([width, height])
    corners = np.array([frame.box for frame in frames])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    side = max((1 + 2 * AROUND) * (high - low).max(), LEAST_SHOWN * max(width, height), 8)
    start = np.clip((low + high - side) / 2, 0, np.maximum(sides - side, 0))
    left, top = np.minimum(start.astype(int), sides - 1)
    right, bottom = np.minimum(np.ceil(start + side).astype(int), sides)
    moved = [frame._replace(box=frame.box - np.array([left, top, left, top])) for frame in frames]
    return draw_tile(pixels[top:bottom, left:right], moved, TILE)


def _captioned(tile: Image.Image, text: str) -> Image.Image:
    font = ImageFont.load_default(CAPTION_SIZE)
    while font.getlength(text) > TILE and len(text) > 4:
        text = f"{text[:-4]}..."
    page = Image.new("RGB", (TILE, tile.height + CAPTION_SIZE + 6), PAPER)
    page.paste(tile, ((TILE - tile.width) // 2, 0))
    ImageDraw.Draw(page).text((0, tile.height + 2), text, fill=INK, font=font)
    return page
