"""What is in a data set, in numbers."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dfine_jax.data.samples import Dataset, Problem, ProblemKind, Record, UnreadablePictureError

SMALL, MEDIUM = 32**2, 96**2
"""Areas in square pixels that part small from medium and medium from large boxes, as COCO's metric has it."""
THREADS = 4


class Spread(NamedTuple):
    """Least, middle and greatest of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(float(min(values)), float(np.median(values)), float(max(values)))


class ClassCount(NamedTuple):
    """How often a class occurs."""

    name: str
    category_id: int
    boxes: int
    pictures: int


class SizeCounts(NamedTuple):
    """Boxes by area: under 32 x 32 pixels, up to 96 x 96, larger."""

    small: int
    medium: int
    large: int


class Report(NamedTuple):
    """What `report` finds; the numbers are those of what can be used."""

    pictures: int
    without_boxes: int
    boxes: int
    crowds: int
    widths: Spread
    heights: Spread
    boxes_per_picture: Spread
    box_sizes: SizeCounts
    classes: tuple[ClassCount, ...]
    problems: tuple[Problem, ...]
    """All there are, those of decoding every picture included."""
    remarks: tuple[str, ...]


def report(dataset: Dataset) -> Report:
    """Counts what is in a data set and looks at every picture: can it be decoded, and is it there twice?"""
    boxes_of: list[int] = []
    areas: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    crowds = 0
    box_counts = np.zeros(len(dataset.class_names), np.int64)
    picture_counts = np.zeros_like(box_counts)
    for record in dataset.records:
        boxes_of.append(len(record.boxes))
        sizes.append((record.width, record.height))
        areas.append(record.areas)
        crowds += len(record.crowd_boxes)
        counts = np.bincount(record.labels, minlength=len(box_counts))
        box_counts += counts
        picture_counts += counts > 0
    widths, heights = zip(*sizes, strict=True)
    all_areas = np.concatenate(areas)
    small, large = int((all_areas < SMALL).sum()), int((all_areas > MEDIUM).sum())
    return Report(
        pictures=len(dataset),
        without_boxes=boxes_of.count(0),
        boxes=len(all_areas),
        crowds=crowds,
        widths=Spread.of(widths),
        heights=Spread.of(heights),
        boxes_per_picture=Spread.of(boxes_of),
        box_sizes=SizeCounts(small, len(all_areas) - small - large, large),
        classes=tuple(
            ClassCount(name, category_id, int(boxes), int(pictures))
            for name, category_id, boxes, pictures in zip(
                dataset.class_names, dataset.category_ids, box_counts, picture_counts, strict=True
            )
        ),
        problems=(*dataset.problems, *unreadable_pictures(dataset), *same_pictures([dataset])),
        remarks=(*dataset.remarks, *([] if len(all_areas) else ["no picture has a box"])),
    )


def _files(dataset: Dataset) -> list[Record]:
    """The records that have a file: drawn ones can't be broken. A drawn data set is not drawn for that."""
    if not isinstance(dataset.records[0].picture, Path):
        return []
    return [record for record in dataset.records if isinstance(record.picture, Path)]


def unreadable_pictures(dataset: Dataset) -> list[Problem]:
    """Decodes every picture and tells which can't be."""

    def check(record: Record) -> Problem | None:
        try:
            record.check()
        except UnreadablePictureError as error:
            message = f"{error.reason}; training takes another picture instead"
            return Problem(ProblemKind.UNREADABLE_PICTURE, error.picture, None, message)
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return [problem for problem in pool.map(check, _files(dataset)) if problem is not None]


def same_pictures(datasets: Iterable[Dataset]) -> list[Problem]:
    """Files that are in several data sets, such as to train and to test on, or have the very same content."""
    by_size: dict[int, dict[Path, list[Record]]] = {}
    for dataset in datasets:
        for record in _files(dataset):
            try:
                size = record.picture.stat().st_size
            except OSError:  # gone since it was listed
                continue
            by_size.setdefault(size, {}).setdefault(record.picture, []).append(record)
    first_of: dict[bytes, Path] = {}
    problems = []
    for places in by_size.values():
        for path, records in places.items():
            if len(records) > 1:
                where = ", ".join(str(record.file) for record in records)
                problems.append(_duplicate(path, f"is in several parts: {where}"))
            if len(places) > 1:
                first = first_of.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
                if first != path:
                    problems.append(_duplicate(path, f"the same picture as {first}"))
    return problems


def _duplicate(path: Path, message: str) -> Problem:
    return Problem(ProblemKind.DUPLICATE_PICTURE, path, None, message)
