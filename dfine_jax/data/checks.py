"""From labels as a file states them to what can be used, with every doubt written down.

The readers of each format only parse; all of them hand their findings to `usable`, so one set of rules holds for all.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dfine_jax.data.samples import DataError, Dataset, Problem, ProblemKind, Record

TOLERANCE = 1.0
"""Pixels a box may reach out of its picture without remark: rounding in the file. Training clips it all the same."""
SWAPS_SIDES = (5, 6, 7, 8)
"""EXIF orientations that turn a picture by a quarter."""
HEADER_THREADS = 8


class Category(NamedTuple):
    """One class as the data set's files name it."""

    key: Hashable
    """What a label refers to it by: an id (COCO, YOLO) or the name itself (VOC)."""
    category_id: int
    name: str


Corners = tuple[float, float, float, float]


class StatedBox(NamedTuple):
    """A box as written."""

    xyxy: Corners
    """Pixels, or fractions of the picture where `fractions` is set on the picture."""
    category: Hashable
    line: int
    file: Path
    area: float | None = None
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class StatedPicture:
    """A picture as listed, with its boxes."""

    path: Path
    image_id: int | str
    file: Path
    line: int | None
    boxes: Sequence[StatedBox] = field(default_factory=list)
    size: tuple[int, int] | None = None
    """Width and height the labels were made for, if stated."""
    fractions: bool = False


class Header(NamedTuple):
    """What a picture's file says before it is decoded."""

    width: int
    height: int
    turned: bool
    """Its EXIF orientation swaps width and height."""
    oriented: bool
    """It has an EXIF orientation other than upright."""


def read_header(path: Path) -> Header:
    """Size and orientation of a picture without decoding it; raises OSError or ValueError if it has none."""
    with Image.open(path) as image:
        orientation = image.getexif().get(0x0112, 1) if "exif" in image.info else 1
        return Header(*image.size, orientation in SWAPS_SIDES, orientation != 1)


def usable(
    categories: Sequence[Category], pictures: Iterable[StatedPicture], found: Iterable[Problem] = (), *, source: Path
) -> Dataset:
    """The data set of all pictures and boxes that can be used; the others become `problems`.

    `found` are problems the reader has met already. A box that reaches out of its picture is clipped, one without
    area or wholly outside is left out, as are unknown classes, exact repetitions of a box, pictures listed twice, and
    pictures that are missing or aren't pictures. Only headers are read: a file that breaks off in the middle is found
    by `report`, and by the loader when it comes to it.

    Raises:
        DataError: no picture is left.
    """
    problems = list(found)
    label_of = {category.key: label for label, category in enumerate(categories)}
    pictures = _without_repetitions(pictures, problems)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        headers = list(pool.map(lambda picture: _header_or_problem(picture), pictures))
    records = []
    for picture, header in zip(pictures, headers, strict=True):
        if isinstance(header, Problem):
            problems.append(header)
        else:
            records.append(_record(picture, header, label_of, problems))
    if not records:
        first = f"; the first problem is {problems[0]}" if problems else ""
        raise DataError(f"{source} has no usable picture{first}")
    names = tuple(category.name for category in categories)
    category_ids = tuple(category.category_id for category in categories)
    return Dataset(names, category_ids, records, max(len(record.boxes) for record in records), tuple(problems))


def _without_repetitions(pictures: Iterable[StatedPicture], problems: list[Problem]) -> list[StatedPicture]:
    kept: list[StatedPicture] = []
    paths: set[Path] = set()
    for picture in pictures:
        if picture.path in paths:
            message = f"{picture.path} is listed a second time; the second is left out"
            problems.append(Problem(ProblemKind.DUPLICATE_PICTURE, picture.file, picture.line, message))
        else:
            paths.add(picture.path)
            kept.append(picture)
    return kept


def _header_or_problem(picture: StatedPicture) -> Header | Problem:
    try:
        return read_header(picture.path)
    except FileNotFoundError:
        message = f"{picture.path} does not exist; left out"
        return Problem(ProblemKind.MISSING_PICTURE, picture.file, picture.line, message)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Problem(ProblemKind.UNREADABLE_PICTURE, picture.path, None, f"{error}; left out")


def _record(
    picture: StatedPicture, header: Header, label_of: Mapping[Hashable, int], problems: list[Problem]
) -> Record:
    stored = (header.width, header.height)
    upright = stored[::-1] if header.turned else stored
    # Viewers and labelling tools show pictures upright; only a stated size can tell that this one's labels were not.
    as_stored = header.oriented and upright != stored and picture.size == stored
    width, height = stored if as_stored else upright
    if picture.size not in (None, (width, height)):
        stated = f"{picture.size[0]}x{picture.size[1]}"
        message = f"{picture.path} is {width}x{height}, its labels say {stated}; boxes taken as written"
        problems.append(Problem(ProblemKind.WRONG_SIZE, picture.file, picture.line, message))
    boxes: list[tuple[Corners, int, float, bool]] = []
    seen: set[tuple] = set()
    for box in picture.boxes:
        checked = _checked_box(box, picture, (width, height), label_of, seen)
        if checked.problem is not None:
            problems.append(checked.problem)
        if checked.xyxy is not None:
            left, top, right, bottom = checked.xyxy
            area = (right - left) * (bottom - top) if box.area is None else box.area
            boxes.append((checked.xyxy, label_of[box.category], area, box.crowd))
    objects = _columns([box for box in boxes if not box[3]])
    crowds = _columns([box for box in boxes if box[3]])
    return Record(
        picture.path, picture.image_id, width, height, *objects, *crowds,
        as_stored=as_stored, file=picture.file, line=picture.line,
    )  # fmt: skip


class _Checked(NamedTuple):
    xyxy: Corners | None
    problem: Problem | None


def _checked_box(
    box: StatedBox, picture: StatedPicture, size: tuple[int, int], label_of: Mapping[Hashable, int], seen: set[tuple]
) -> _Checked:
    """The box in pixels, or None if it can't be used, and what is wrong with it, if anything."""

    def problem(kind: ProblemKind, message: str) -> Problem:
        return Problem(kind, box.file, box.line, f"{message} ({picture.path.name})")

    def shown() -> str:
        return "box [" + ", ".join(f"{round(side, 2):g}" for side in (left, top, right, bottom)) + "]"

    if not all(map(math.isfinite, box.xyxy)):
        return _Checked(None, problem(ProblemKind.BROKEN_LABEL, f"box {box.xyxy} is not four numbers; left out"))
    if box.category not in label_of:
        known = ", ".join(str(key) for key in list(label_of)[:8]) + (", ..." if len(label_of) > 8 else "")
        return _Checked(None, problem(ProblemKind.UNKNOWN_CLASS, f"{box.category!r} is none of {known}; left out"))
    width, height = size
    left, top, right, bottom = box.xyxy
    if picture.fractions:
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
    if right <= left or bottom <= top:
        return _Checked(None, problem(ProblemKind.ZERO_SIZE_BOX, f"{shown()} has no area; left out"))
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        message = f"{shown()} is outside of the {width}x{height} picture; left out"
        return _Checked(None, problem(ProblemKind.OFF_IMAGE_BOX, message))
    key = (box.category, box.crowd, *box.xyxy)
    if key in seen:
        message = f"{shown()} is there twice; the second is left out"
        return _Checked(None, problem(ProblemKind.DUPLICATE_BOX, message))
    seen.add(key)
    if max(-left, -top, right - width, bottom - height) > TOLERANCE:
        clipped = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        message = f"{shown()} reaches out of the {width}x{height} picture; clipped"
        return _Checked(clipped, problem(ProblemKind.OFF_IMAGE_BOX, message))
    return _Checked((left, top, right, bottom), None)


NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32))
"""One object for all pictures without crowds: workers are sent it once."""


def _columns(boxes: Sequence[tuple[Corners, int, float, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not boxes:
        return NOTHING
    xyxy, labels, areas, _ = zip(*boxes, strict=True)
    return np.array(xyxy, np.float32), np.array(labels, np.int32), np.array(areas, np.float32)
