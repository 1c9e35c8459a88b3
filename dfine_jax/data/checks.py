"""From labels as a file states them to what can be used, with every doubt written down.

The readers of each format only parse; all of them hand what they found to `usable`, so one set of rules holds for all.
"""

import math
import os
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dfine_jax.data.samples import DataError, Dataset, EmptyPartError, Findings, ProblemKind, Record
from dfine_jax.data.values import Corners, plain_name, shortened, shown, some
from dfine_jax.inference.pictures import open_image

TOLERANCE = 1.0
"""Pixels a box may reach out of its picture without remark: rounding in the file. Training clips it all the same."""
MOST_BOXES = 50_000
"""Boxes in one picture; the labels that follow are no picture's."""
SWAPS_SIDES = (5, 6, 7, 8)
"""EXIF orientations that turn a picture by a quarter."""
ORIENTATION = 0x0112
TELLS_ORIENTATION = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1")
HEADER_THREADS = 8


class Category(NamedTuple):
    """One class as the data set's files name it."""

    key: Hashable
    """What a label refers to it by: an id (COCO, YOLO) or the name itself (VOC)."""
    category_id: int | str
    name: str


class StatedBox(NamedTuple):
    """A box as written."""

    xyxy: Corners
    """Pixels, or fractions of the picture where `fractions` is set on the picture."""
    category: Hashable
    line: int | None
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
    rivals: tuple[Path, ...] = ()
    """The files it could be, if it isn't at `path` and several have its name."""


@dataclass(frozen=True)
class Stated:
    """What a reader found in one part of a data set."""

    categories: Sequence[Category]
    pictures: Sequence[StatedPicture]
    findings: Findings


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
    with open_image(path) as image:
        orientation = _orientation(image)
        return Header(*image.size, orientation in SWAPS_SIDES, orientation != 1)


def _orientation(image: Image.Image) -> int:
    if not any(key in image.info for key in TELLS_ORIENTATION):
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing about the rotation, as when the picture is decoded
        return 1


def usable(stated: Stated, source: Path | str) -> Dataset:
    """The data set of all pictures and boxes that can be used; the others become `problems`.

    A box that reaches out of its picture is clipped, one without area or wholly outside is left out, as are unknown
    classes, exact repetitions of a box, pictures listed twice, and pictures that are missing or aren't pictures. Only
    headers are read: a file that breaks off in the middle is found by `report`, and by the loader when it comes to it.
    Classes whose names differ only in case and joining of words become one, as evaluation and fine-tuning take them.

    Raises:
        EmptyPartError: no picture is left.
        DataError: all boxes are fractions of the picture, in a format of pixels.
    """
    findings = stated.findings
    labels = Labels(stated.categories, findings)
    _require_pixels(stated.pictures, source)
    pictures = _without_repetitions(stated.pictures, findings)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        headers = list(pool.map(lambda picture: _header_or_reason(picture), pictures))
    records = []
    for picture, header in zip(pictures, headers, strict=True):
        if isinstance(header, Header):
            records.append(_record(picture, header, labels, findings))
        else:
            findings.add(*header)
    problems = findings.problems
    if not records:
        first = f"; the first problem is {shortened(str(problems[0]), 300)}" if problems else ""
        raise EmptyPartError(f"{source} has no usable picture{first}")
    names = tuple(category.name for category in labels.kept)
    category_ids = tuple(category.category_id for category in labels.kept)
    most_boxes = max(len(record.boxes) for record in records)
    return Dataset(names, category_ids, records, most_boxes, problems, tuple(findings.remarks))


def _require_pixels(pictures: Sequence[StatedPicture], source: Path | str) -> None:
    boxes = [box for picture in pictures if not picture.fractions for box in picture.boxes]
    if boxes and all(map(_is_within_one, boxes)) and (first := next(filter(_is_fraction, boxes), None)) is not None:
        place = first.file if first.line is None else f"{first.file}:{first.line}"
        raise DataError(
            f"{source}: the boxes look like fractions of the picture, such as {place}, where this format has pixels; "
            "multiply them by the width and height of their pictures"
        )


def _is_within_one(box: StatedBox) -> bool:
    return all(-0.05 <= side <= 1.05 for side in box.xyxy)


def _is_fraction(box: StatedBox) -> bool:
    """Whether a box is within one pixel; the whole of that pixel may be meant."""
    return _is_within_one(box) and any(side != int(side) for side in box.xyxy)


class Labels:
    """The label of each class, whatever the labels refer to it by."""

    def __init__(self, categories: Sequence[Category], findings: Findings):
        self.kept: list[Category] = []
        """The classes that have a label of their own, in the order of these."""
        self.known = ", ".join(str(category.key) for category in categories[:8])
        self.known += ", ..." if len(categories) > 8 else ""
        self._of_key: dict[Hashable, int] = {}
        self._of_name: dict[str, int] = {}
        spellings: dict[int, list[str]] = {}
        for category in categories:
            label = self._of_name.setdefault(plain_name(category.name), len(self.kept))
            if label == len(self.kept):
                self.kept.append(category)
            self._of_key.setdefault(category.key, label)
            spellings.setdefault(label, []).append(f"{category.name} ({category.category_id})")
        for label, same in spellings.items():
            if len(same) > 1:
                name = self.kept[label].name
                findings.remark(f"{len(same)} classes of one name are taken for one, {name}: {some(same)}")

    def of(self, key: Hashable) -> int | None:
        """The label of a class by its key, or by its name where others have ids; None if there is no such class."""
        label = self._of_key.get(key)
        return self._of_name.get(plain_name(key)) if label is None and isinstance(key, str) else label


def _without_repetitions(pictures: Sequence[StatedPicture], findings: Findings) -> list[StatedPicture]:
    """Each picture once, with all boxes that any of its entries has."""
    kept: dict[str, StatedPicture] = {}
    more: dict[str, dict[tuple, StatedBox]] = {}
    joined: list[Path] = []
    for picture in pictures:
        first = kept.setdefault(key := os.path.normpath(picture.path), picture)
        if first is picture:
            continue
        there = more.setdefault(key, {})
        if not there:
            there.update((_as_drawn(box), box) for box in first.boxes)
        count = len(there)
        for box in picture.boxes:
            there.setdefault(_as_drawn(box), box)
        if len(there) > count:
            joined.append(picture.path)
        else:
            message = f"{picture.path} is listed a second time; the second is left out"
            findings.add(ProblemKind.DUPLICATE_PICTURE, picture.file, picture.line, message)
    for key in {os.path.normpath(path) for path in joined}:
        had = {id(box) for box in kept[key].boxes}
        new = [box for box in more[key].values() if id(box) not in had]
        kept[key] = replace(kept[key], boxes=[*kept[key].boxes, *new])
    if joined:
        count = f"{len(set(joined)):,}, such as {joined[0]}"
        findings.remark(f"pictures with several entries, whose boxes are joined: {count}")
    return list(kept.values())


def _as_drawn(box: StatedBox) -> tuple:
    return box.category, box.crowd, *box.xyxy


Found = tuple[ProblemKind, Path, int | None, str]


def _header_or_reason(picture: StatedPicture) -> Header | Found:
    try:
        return read_header(picture.path)
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):  # the last: no file can have that name
        message = f"{picture.path} does not exist; left out"
        if picture.rivals:
            message = f"{picture.path.name} could be any of {some(picture.rivals, 3, 120)}; left out"
        return ProblemKind.MISSING_PICTURE, picture.file, picture.line, message
    except Exception as error:  # damaged headers make decoders raise nearly anything
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its text names an object of Python
            reason = "not a picture, or of an unsupported kind"
        if picture.path.suffix.lower() in (".heic", ".heif"):
            reason = "HEIC pictures can't be read: convert it to JPEG or PNG"
        return ProblemKind.UNREADABLE_PICTURE, picture.path, None, f"{reason}; left out"


def _record(picture: StatedPicture, header: Header, labels: Labels, findings: Findings) -> Record:
    stored = (header.width, header.height)
    upright = stored[::-1] if header.turned else stored
    # Viewers and labelling tools show pictures upright; only a stated size can tell that this one's labels were not.
    as_stored = header.oriented and upright != stored and picture.size == stored
    width, height = stored if as_stored else upright
    if picture.size not in (None, (width, height)):
        stated = f"{picture.size[0]}x{picture.size[1]}"
        message = f"{picture.path} is {width}x{height}, its labels say {stated}; boxes taken as written"
        findings.add(ProblemKind.WRONG_SIZE, picture.file, picture.line, message)
    boxes: list[tuple[Corners, int, float, bool]] = []
    seen: set[tuple] = set()
    for box in picture.boxes:
        if len(boxes) == MOST_BOXES:
            message = f"more than {MOST_BOXES:,} boxes in one picture; the others are left out ({picture.path.name})"
            findings.add(ProblemKind.BROKEN_LABEL, box.file, box.line, message)
            break
        checked = _checked_box(box, picture, (width, height), labels, seen)
        if checked.kind is not None:
            findings.add(checked.kind, box.file, box.line, f"{checked.message} ({picture.path.name})")
        if checked.xyxy is not None:
            left, top, right, bottom = checked.xyxy
            # No outline has a larger area than its picture, whatever the file says.
            area = box.area if box.area is not None and 0 < box.area <= width * height else None
            area = (right - left) * (bottom - top) if area is None else area
            boxes.append((checked.xyxy, labels.of(box.category), area, box.crowd))
    objects = _columns([box for box in boxes if not box[3]])
    crowds = _columns([box for box in boxes if box[3]])
    return Record(
        picture.path, picture.image_id, width, height, *objects, *crowds,
        as_stored=as_stored, file=picture.file, line=picture.line,
    )  # fmt: skip


class _Checked(NamedTuple):
    xyxy: Corners | None
    kind: ProblemKind | None = None
    message: str = ""


def _checked_box(
    box: StatedBox, picture: StatedPicture, size: tuple[int, int], labels: Labels, seen: set[tuple]
) -> _Checked:
    """The box in pixels, or None if it can't be used, and what is wrong with it, if anything."""

    def as_text() -> str:
        return "box [" + ", ".join(f"{round(side, 2):g}" for side in (left, top, right, bottom)) + "]"

    if not all(map(math.isfinite, box.xyxy)):
        return _Checked(None, ProblemKind.BROKEN_LABEL, f"box {box.xyxy} is not four numbers; left out")
    label = labels.of(box.category)
    if label is None:
        message = f"{shown(box.category)} is none of {labels.known}; left out"
        return _Checked(None, ProblemKind.UNKNOWN_CLASS, message)
    width, height = size
    left, top, right, bottom = box.xyxy
    if picture.fractions:
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
    elif _is_fraction(box):
        message = f"{as_text()} looks like fractions of the picture, where pixels belong; left out"
        return _Checked(None, ProblemKind.BROKEN_LABEL, message)
    if right <= left or bottom <= top:
        return _Checked(None, ProblemKind.ZERO_SIZE_BOX, f"{as_text()} has no area; left out")
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        message = f"{as_text()} is outside of the {width}x{height} picture; left out"
        return _Checked(None, ProblemKind.OFF_IMAGE_BOX, message)
    key = (label, box.crowd, *box.xyxy)
    if key in seen:
        return _Checked(None, ProblemKind.DUPLICATE_BOX, f"{as_text()} is there twice; the second is left out")
    seen.add(key)
    if max(-left, -top, right - width, bottom - height) > TOLERANCE:
        clipped = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        message = f"{as_text()} reaches out of the {width}x{height} picture; clipped"
        return _Checked(clipped, ProblemKind.OFF_IMAGE_BOX, message)
    return _Checked((left, top, right, bottom))


NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32))
"""One object for all pictures without crowds: workers are sent it once."""


def _columns(boxes: Sequence[tuple[Corners, int, float, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not boxes:
        return NOTHING
    xyxy, labels, areas, _ = zip(*boxes, strict=True)
    return np.array(xyxy, np.float32), np.array(labels, np.int32), np.array(areas, np.float32)
