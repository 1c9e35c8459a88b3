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

AS_TRACK = "rows of six numbers after the class are read as a box, a score and a track, not as an outline"
AS_POSE = "rows are read as a box with key points, not as an outline with a score; kpt_shape in data.yaml would tell"
AS_OUTLINE = "rows are read as outlines and could be boxes with key points; kpt_shape in data.yaml would tell"
AS_SCORED = "rows with an odd number of values are read as an outline with a score"


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
            corners, doubt = _corners(numbers[1:], points)
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
            if doubt is not None:
                findings.doubt(doubt, file, line)
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


def _corners(numbers: Sequence[float], points: Points | None) -> tuple[Corners, str | None]:
    """The box of what follows the class, and how it was read if it could be read otherwise.

    It is a box, a box with key points, or an outline of at least three points. Programs that write what they found add
    a score, or a score and the number of a track.
    """
    pieces = [numbers]
    if len(numbers) > 4 and 0 <= numbers[-1] <= 1:
        pieces.append(numbers[:-1])
    if len(numbers) > 5 and 0 <= numbers[-2] <= 1 <= numbers[-1] and numbers[-1].is_integer():
        pieces.append(numbers[:-2])
    for piece in pieces:
        if len(piece) == 4:
            is_outline_too = len(numbers) == 6 and numbers[-1] == 1
            return _middle(piece), AS_TRACK if is_outline_too else None
        if points is not None and len(piece) - 4 == points.count * points.numbers:
            return _middle(piece), None
    may_be_outline = len(numbers) % 2 == 0 and max(numbers) < 2
    for piece in pieces:
        is_whole = len(piece) == len(numbers)
        if _is_pose(piece) and (is_whole or not may_be_outline):
            return _middle(piece), None
        if _holds_points(piece):
            if not _holds(piece, *piece[2:4]):
                return _middle(piece), None  # as an outline it would leap to its second point and back
            if not may_be_outline:
                return _middle(piece), AS_POSE
            if is_whole:
                return _around(piece), AS_OUTLINE
    if len(numbers) % 2 == 0 and len(numbers) >= 6:
        tracked = numbers[-1] >= 2 and len(numbers) >= 8 and len(pieces[-1]) == len(numbers) - 2
        return _around(numbers[:-2] if tracked else numbers), None
    if len(numbers) >= 7 and 0 <= numbers[-1] <= 1:
        return _around(numbers[:-1]), AS_SCORED
    raise ValueError("neither a box nor an outline")


def _middle(numbers: Sequence[float]) -> Corners:
    x, y, width, height = numbers[:4]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around(numbers: Sequence[float]) -> Corners:
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


def _holds_points(numbers: Sequence[float]) -> bool:
    """Whether numbers read as a box in the picture and key points of three in it, the third one a score."""
    if len(numbers) < 7 or len(numbers) % 3 != 1 or not all(0 <= score <= 1 for score in numbers[6::3]):
        return False
    corners = _middle(numbers)
    if not all(-0.01 <= side <= 1.01 for side in corners) or min(numbers[2:4]) <= 0:
        return False
    return all(
        _holds(numbers, px, py) or (px, py) == (0.0, 0.0) for px, py in zip(numbers[4::3], numbers[5::3], strict=True)
    )


def _holds(numbers: Sequence[float], x: float, y: float) -> bool:
    left, top, right, bottom = _middle(numbers)
    return left - 0.01 <= x <= right + 0.01 and top - 0.01 <= y <= bottom + 0.01
