"""The rows of YOLO's label files: a class and a box, an outline or a pose."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dfine_jax.data.checks import MOST_BOXES, StatedBox
from dfine_jax.data.samples import Findings, ProblemKind
from dfine_jax.data.texts import rows
from dfine_jax.data.values import Corners, enclosing

MOST_BROKEN = 1_000
"""Rows of one file that are no labels, before the rest of it is left out."""
VISIBLE = frozenset({0.0, 1.0, 2.0})
"""A key point's third number: not labelled, hidden, to be seen."""


class Points(NamedTuple):
    """How many key points a pose has, and how many numbers each."""

    count: int
    numbers: int


def read_labels(file: Path, points: Points | None, findings: Findings) -> list[StatedBox]:
    """The boxes of a label file; what are no labels becomes problems. Raises OSError if it can't be read as text."""
    boxes, broken = [], 0
    for line, row in rows(file):
        if len(boxes) > MOST_BOXES:
            break  # what comes next is said by `checks`
        try:
            numbers = parse_row(row)
            corners = _corners(numbers[1:], points)
        except ValueError:
            broken += 1
            if broken > MOST_BROKEN:
                message = f"more than {MOST_BROKEN:,} rows are no labels; the rest of the file is left out"
                findings.add(ProblemKind.BROKEN_LABEL, file, line, message)
                break
            message = f"{row[:60]!r} is not `class x y width height` nor `class x1 y1 x2 y2 x3 y3 ...`; left out"
            findings.add(ProblemKind.BROKEN_LABEL, file, line, message)
        else:
            boxes.append(StatedBox(corners, int(numbers[0]), line, file))
    return boxes


def parse_row(row: str) -> list[float]:
    """The numbers of a row, class first; raises ValueError if it is none. Commas may part numbers or be in them."""
    if "," in row or ";" in row:
        pieces = row.split()
        decimal = len(pieces) > 4 and not any("." in piece or piece.endswith((",", ";")) for piece in pieces)
        row = row.replace(",", ".") if decimal else row.replace(",", " ").replace(";", " ")
    if "_" in row:
        raise ValueError("Python's own way of writing numbers")
    numbers = [float(value) for value in row.split()]
    if len(numbers) < 5 or not all(map(math.isfinite, numbers)) or numbers[0] != int(numbers[0]):
        raise ValueError("not a class and four numbers")
    return numbers


def _corners(numbers: Sequence[float], points: Points | None) -> Corners:
    """The box of what follows the class: a box, maybe with a score, a box with key points, or an outline."""
    count = len(numbers)
    posed = points is not None and count - 4 in (points.count * points.numbers, points.count * points.numbers + 1)
    scored = count == 5 and 0 <= numbers[4] <= 1
    if count == 4 or scored or posed or _is_pose(numbers):
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if count % 2 and count > 6 and 0 <= numbers[-1] <= 1:
        numbers = numbers[:-1]  # an outline with a score
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError("neither a box nor an outline")
    return enclosing(list(zip(numbers[0::2], numbers[1::2], strict=True)))


def _is_pose(numbers: Sequence[float]) -> bool:
    """Whether numbers read as a box and key points of three: each third one says visible or not, the points are near.

    An outline has no reason to look so: all of these would be on the picture's edge.
    """
    if len(numbers) < 7 or len(numbers) % 3 != 1 or not VISIBLE.issuperset(numbers[6::3]):
        return False
    x, y, width, height = numbers[:4]
    for px, py, flag in zip(numbers[4::3], numbers[5::3], numbers[6::3], strict=True):
        near = abs(px - x) <= 0.6 * width + 0.01 and abs(py - y) <= 0.6 * height + 0.01
        if not near and (flag or (px, py) != (0.0, 0.0)):
            return False
    return True
