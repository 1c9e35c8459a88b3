"""Objects in JSON or CSV as many tools write them: a picture's name, and for each box a class and a place."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dfine_jax.data import values
from dfine_jax.data.checks import MOST_BOXES, Category, StatedBox
from dfine_jax.data.json_lines import lenient_number
from dfine_jax.data.outlines import outline_box
from dfine_jax.data.samples import Findings
from dfine_jax.data.values import Corners, first_of, number, plain_name, shown

PICTURE_KEYS = (
    "file_name",
    "filename",
    "fileName",
    "image",
    "imagefilename",
    "image_path",
    "imagePath",
    "path",
    "name",
)
OBJECT_KEYS = ("objects", "annotations", "annotation", "labels", "boxes")
CLASS_KEYS = ("category", "categories", "label", "labels", "category_id", "class", "classes", "class_name", "name")
BOX_KEYS = ("bbox", "bboxes", "box", "box2d", "boxes")
FLAT_KEYS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h"))
"""The columns of a box in tables with a row for each."""
OUTLINE_KEYS = ("segmentation", "poly2d", "polygon", "points")


def picture_name(entry: Any) -> str:
    """The name of an entry's picture; raises ValueError if it has none."""
    found = first_of(entry, *PICTURE_KEYS) if isinstance(entry, dict) else None
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"no name of a picture in {shown(entry)}")
    return found


def objects_of(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects of an entry, each by itself; they may come in a list, or as lists of boxes and of classes.

    Raises:
        ValueError: it has something else there.
    """
    if isinstance(detection := entry.get("detection"), dict) and isinstance(detection.get("instances"), list):
        # ODVG's boxes are corners.
        yield from ({**one, "bbox_mode": 0} if isinstance(one, dict) else one for one in detection["instances"])
        return
    if is_one_object(entry):
        yield entry
        return
    found = first_of(entry, *OBJECT_KEYS)
    if isinstance(found, str):
        found = _parsed(found)
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        yield from found
        return
    columns = found if isinstance(found, dict) else entry
    if found is None and first_of(entry, *BOX_KEYS) is None:
        return
    boxes, classes = first_of(columns, *BOX_KEYS), first_of(columns, *CLASS_KEYS)
    if boxes is None or not isinstance(boxes, list) or not isinstance(classes, list) or len(boxes) != len(classes):
        raise ValueError(f"{shown(boxes)} and {shown(classes)} are no boxes and as many classes")
    for place, (box, category) in enumerate(zip(boxes, classes, strict=True)):
        crowds = columns.get("iscrowd")
        yield {"bbox": box, "category": category, "iscrowd": crowds[place] if _has(crowds, place) else None}


def is_one_object(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has one box and its class beside the picture's name, as tables with a row a box do."""
    category, box = first_of(entry, *(key for key in CLASS_KEYS if key != "name")), first_of(entry, *BOX_KEYS)
    if isinstance(category, list | dict) or category in (None, ""):
        return False
    if box is None:
        return any(all(entry.get(key) not in (None, "") for key in keys) for keys in FLAT_KEYS)
    is_row = isinstance(box, list) and len(box) == 4 and not any(isinstance(side, list | dict) for side in box)
    return isinstance(box, dict) or is_row or (isinstance(box, str) and not box.lstrip().startswith("[["))


def has_objects(entry: Any) -> bool:
    """Whether an entry says anything of objects, be it that there are none."""
    return isinstance(entry, dict) and (any(key in entry for key in (*OBJECT_KEYS, *BOX_KEYS)) or is_one_object(entry))


def _parsed(text: str) -> Any:
    """JSON in a cell of a table; also with the quotes of Python, in which some tools write it."""
    for form in (text, text.replace("'", '"')):
        try:
            return json.loads(form, parse_int=lenient_number) if text.strip() else None
        except ValueError:
            continue
    raise ValueError(f"{shown(text)} is no JSON")


def _has(column: Any, place: int) -> bool:
    return isinstance(column, list) and place < len(column)


def read_boxes(entry: Mapping[str, Any], file: Path, line: int | None, findings: Findings) -> list[StatedBox]:
    """The boxes of an entry; what can't be read becomes problems."""
    boxes = []
    try:
        for found in objects_of(entry):
            if len(boxes) > MOST_BOXES:
                break  # what comes next is said by `checks`
            try:
                boxes.append(_box(found, file, line))
            except (ValueError, RecursionError) as error:
                message = f"an object can't be read ({error}); left out"
                findings.broken(file, line, message)
    except (ValueError, RecursionError) as error:
        findings.broken(file, line, f"the objects can't be read ({error}); left out")
    return boxes


def _box(found: Any, file: Path, line: int | None) -> StatedBox:
    if not isinstance(found, dict):
        raise ValueError(f"{shown(found)} is no object")
    category = values.identity(first_of(found, *CLASS_KEYS), "class")
    crowd = values.truth(first_of(found, "iscrowd", "crowd", "difficult"))
    return StatedBox(_corners(found), category, line, file, crowd=crowd)


def _corners(found: Mapping[str, Any]) -> Corners:
    if isinstance(middle := found.get("coordinates"), dict):  # CreateML's
        x, y, width, height = (number(middle.get(side)) for side in ("x", "y", "width", "height"))
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if (box := first_of(found, *BOX_KEYS)) is not None:
        return values.box(box, found.get("bbox_mode"))
    if (outline := first_of(found, *OUTLINE_KEYS)) is not None:
        return outline_box(outline)
    return values.box(found)


def categories_of(used: set[Hashable], names: Mapping[int, str] | None, findings: Findings) -> list[Category]:
    """The classes that labels use: names in alphabetical order, or numbers, with the names that a file has for them."""
    numbers = sorted(key for key in used if isinstance(key, int))
    texts = sorted(key for key in used if isinstance(key, str))
    if names is None:
        if numbers:
            findings.remark("the classes have numbers and no names: they are called by these")
        names = {number: str(number) for number in numbers}
    categories = [Category(number, number, name) for number, name in sorted(names.items())]
    known = {plain_name(name) for name in names.values()}
    next_id = max(names, default=0) + 1
    return categories + [
        Category(name, count, values.name(name))
        for count, name in enumerate((text for text in texts if plain_name(text) not in known), start=next_id)
    ]


def entries_of(rows: Iterable[tuple[int, Any]], file: Path, findings: Findings) -> Iterator[tuple[int, str, Any]]:
    """Of rows with their lines those that name a picture, with its name; the others become problems."""
    for line, entry in rows:
        try:
            yield line, picture_name(entry), entry
        except ValueError as error:
            findings.broken(file, line, f"{error}; left out")
