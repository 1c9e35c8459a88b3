"""labelme's JSON: one file beside each picture."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfine_jax.data import label_files, values
from dfine_jax.data.checks import MOST_BOXES, Category, Stated, StatedBox, StatedPicture
from dfine_jax.data.json_lines import lenient_number, sniff
from dfine_jax.data.label_files import Layout, find_layout
from dfine_jax.data.outlines import outline_box
from dfine_jax.data.references import PictureIndex, remark_on_names
from dfine_jax.data.samples import Findings, ProblemKind, Split
from dfine_jax.data.texts import read_text

MOST_BYTES = 256 * 2**20
"""A file may hold its picture, too."""


def find_labelme(folder: Path) -> Layout | None:
    """The layout of a data set labelled with labelme, or None if the folder is none."""
    return find_layout(folder, ".json", is_labelme)


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is of labelme's kind."""
    sniffed = sniff(path)
    return sniffed is not None and not sniffed.is_list and "shapes" in sniffed.keys


def read_labelme(layout: Layout, split: Split | None) -> Stated:
    """Reads one split, or all of what has none: of each shape the box around it. Shapes without an area are problems.

    Classes are the names found in the files of all splits, in alphabetical order.
    """
    findings, names, pictures, places = Findings(), set(), [], []
    for part, pieces in layout.parts.items():
        for piece in pieces:
            found = findings if part == split else Findings()
            for place in label_files.listed_files(piece, layout.ending, label_files.files_of(piece, layout.ending)):
                if (read := _read(place.labels, found)) is None:
                    continue
                names |= {box.category for box in read[1]}
                if part == split:
                    places.append((piece, place, *read))
    located = PictureIndex(layout.root).locate(
        label_files.references(
            [(piece, place.labels, str(content.get("imagePath") or "")) for piece, place, content, _ in places]
        )
    )
    remark_on_names(findings, located)
    label_files.remark_on_unlabelled(findings, layout.parts[split], located)
    for count, ((_, place, content, boxes), at) in enumerate(zip(places, located, strict=True), start=1):
        size = values.size(content.get("imageWidth"), content.get("imageHeight"))
        pictures.append(StatedPicture(at.path, count, place.file, place.line, boxes, size=size, rivals=at.rivals))
    categories = [Category(name, count, name) for count, name in enumerate(sorted(names), start=1)]
    return Stated(categories, pictures, findings)


def _read(path: Path, findings: Findings) -> tuple[Mapping[str, Any], list[StatedBox]] | None:
    try:
        content = json.loads(read_text(path, MOST_BYTES), parse_int=lenient_number)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise ValueError("no object with a list of shapes")
    except (OSError, ValueError, RecursionError) as error:
        line, reason = getattr(error, "lineno", None), " ".join(str(error).split())
        findings.add(ProblemKind.BROKEN_LABEL, path, line, f"{reason}; its picture is left out")
        return None
    boxes = []
    for shape in content["shapes"]:
        if len(boxes) > MOST_BOXES:
            break  # what comes next is said by `checks`
        try:
            boxes.append(StatedBox(_corners(shape), values.name(shape.get("label")), None, path))
        except ValueError as error:
            findings.add(ProblemKind.BROKEN_LABEL, path, None, f"a shape can't be read ({error}); left out")
    # Everything else may hold a whole picture.
    return {key: content.get(key) for key in ("imagePath", "imageWidth", "imageHeight")}, boxes


def _corners(shape: Any) -> values.Corners:
    if not isinstance(shape, dict):
        raise ValueError(f"{values.shown(shape)} is no object")
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind in ("point", "line", "linestrip", "points"):
        raise ValueError(f"a {kind} has no box")
    if kind == "circle" and isinstance(points, list) and len(points) == 2:
        if any(not isinstance(point, list) or len(point) != 2 for point in points):
            raise ValueError(f"{values.shown(points)} is no circle")
        (x, y), (at_x, at_y) = ([values.number(side) for side in point] for point in points)
        radius = math.hypot(at_x - x, at_y - y)
        return x - radius, y - radius, x + radius, y + radius
    return outline_box(points)
