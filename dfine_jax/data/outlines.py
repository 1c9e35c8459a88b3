"""Boxes around outlines and masks as COCO's files write them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dfine_jax.data.values import Corners, enclosing, number, shown


def outline_box(segmentation: Any) -> Corners:
    """The box around an outline or a mask, in pixels.

    Args:
        segmentation: polygons (lists of x, y, x, y, ...), one polygon, a list of points, or a mask as run lengths
            (`{"size": [height, width], "counts": ...}`), compressed or not; or one of these as JSON's text.

    Raises:
        ValueError: it is none of these, or encloses nothing.
    """
    if isinstance(segmentation, str):
        try:
            segmentation = json.loads(segmentation)
        except (ValueError, RecursionError):
            raise ValueError(f"{shown(segmentation)} is no outline") from None
    if isinstance(segmentation, Mapping) and "counts" in segmentation:
        return _mask_box(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"{shown(segmentation)} is no outline")
    return enclosing(_points(segmentation, depth=4))


def _points(value: list, depth: int) -> list[tuple[float, float]]:
    """All points in polygons, however they are grouped."""
    if isinstance(value[0], Mapping):
        return [(number(point.get("x")), number(point.get("y"))) for point in value]
    if isinstance(value[0], list):
        if depth == 0:
            raise ValueError(f"{shown(value)} is no outline")
        return [point for part in value if isinstance(part, list) and part for point in _points(part, depth - 1)]
    if len(value) % 2:
        raise ValueError(f"an outline of {len(value)} numbers, which are no pairs")
    numbers = [number(one) for one in value]
    return list(zip(numbers[0::2], numbers[1::2], strict=True))


def _mask_box(mask: Mapping[str, Any]) -> Corners:
    """The box of run lengths, which go down one column after the other and begin outside of the mask."""
    size, counts = mask.get("size"), mask["counts"]
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise ValueError(f"a mask of the size {shown(size)}, which is not height and width")
    height, width = (int(number(side)) for side in size)
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or height <= 0:
        raise ValueError(f"a mask whose run lengths are {shown(counts)}")
    left, top, right, bottom = width, height, 0, 0
    place = 0
    for index, run in enumerate(runs):
        run = int(number(run))
        if run < 0 or place + run > height * width:
            raise ValueError(f"a mask with a run of {run:,}, which doesn't fit into {width}x{height}")
        if index % 2 and run:
            (first_column, first_row), (last_column, last_row) = divmod(place, height), divmod(place + run - 1, height)
            whole = first_column != last_column
            left, right = min(left, first_column), max(right, last_column + 1)
            top = 0 if whole else min(top, first_row)
            bottom = height if whole else max(bottom, last_row + 1)
        place += run
    if right <= left:
        raise ValueError("a mask with nothing in it")
    return float(left), float(top), float(right), float(bottom)


def _decompressed(text: str) -> list[int]:
    """Run lengths from COCO's text: five bits a character, low ones first; from the fourth on, the change over two."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"a mask whose run lengths have the character {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > 60:
                raise ValueError("a mask with a run length of more than 60 bits")
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
