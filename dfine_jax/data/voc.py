"""Pascal VOC: one XML file a picture, and lists of the pictures of each split."""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from dfine_jax.data import values
from dfine_jax.data.checks import Category, Stated, StatedBox, StatedPicture
from dfine_jax.data.label_files import (
    Layout,
    files_of,
    find_layout,
    listed_files,
    references,
    remark_on_unlabelled,
)
from dfine_jax.data.references import PictureIndex, remark_on_names
from dfine_jax.data.samples import Findings, ProblemKind, Split
from dfine_jax.data.texts import TextError, decode_xml, read_bytes, start_of
from dfine_jax.data.values import Corners, enclosing, number, some

LINE = "line"
"""The attribute under which each parsed element carries its line."""
MOST_BYTES = 64 * 2**20
MOST_ELEMENTS = 200_000
DEEPEST = 100
PLACES = {tag: order for order, tag in enumerate(("bndbox", "polygon", "robndbox", "points"))}
"""The elements that say where an object is, the best first."""
ABOUT = ("name", "difficult", "pose", "truncated", "occluded", "part", "attributes", "actions", "id", "deleted")
"""Elements that say something else of it."""


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root element, in which every element has a tag in small letters and its line as the attribute `LINE`.

    Raises:
        expat.ExpatError: it isn't valid XML.
        OSError: it is in no known encoding, larger or deeper than any label file, or declares entities.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    count = depth = 0

    def start(tag: str, _) -> None:
        nonlocal count, depth
        count, depth = count + 1, depth + 1
        if count > MOST_ELEMENTS or depth > DEEPEST:
            raise TextError("more or deeper elements than labels of one picture have")
        builder.start(tag.lower(), {LINE: str(parser.CurrentLineNumber)})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.lower())

    def refuse(*_) -> None:
        raise TextError("declares entities, which labels don't need")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.Parse(decode_xml(content).encode("utf-8"), True)
    return builder.close()


def find_voc(folder: Path) -> Layout | None:
    """The layout of a VOC data set, or None if the folder is none."""
    return find_layout(folder, ".xml", _is_voc)


def _is_voc(path: Path) -> bool:
    try:
        start = start_of(path, 4096).replace(b"\0", b"")
    except OSError:
        return False
    return re.search(rb"<annotation[\s/>]", start, re.IGNORECASE) is not None


class _Read(NamedTuple):
    """What is taken from one XML file."""

    filename: str
    size: tuple[int, int] | None
    boxes: list[StatedBox]


def read_voc(layout: Layout, split: Split | None) -> Stated:
    """Reads one split of a VOC data set, or all of one that has no splits.

    Classes are the names found in the XML files of all splits, in alphabetical order. Coordinates are taken as
    written, as edges in pixels, which is what labelling tools write (VOC's own files count from 1: at most a pixel
    away). Objects marked as difficult are treated as crowds: neither trained on nor counted. Where there is an outline
    or a rotated box instead of a `bndbox`, the box around it is taken.

    Raises:
        DataError: a list can't be read.
    """
    findings, swapped = Findings(), []
    all_files = cache(lambda piece: files_of(piece, layout.ending))
    names: set[str] = set()
    read: dict[Path, _Read | None] = {}
    places = [
        (piece, place)
        for piece in layout.parts[split]
        for place in listed_files(piece, layout.ending, all_files(piece))
    ]
    for _, place in places:
        if place.labels not in read:
            read[place.labels] = _read(place.labels, findings, swapped)
    for pieces in layout.parts.values():
        for piece in pieces:
            for path in all_files(piece):
                if path not in read:  # another split's: only its classes count
                    found = _read(path, Findings(), [])
                    names |= {box.category for box in found.boxes} if found else set()
    there = [(piece, place, found) for piece, place in places if (found := read[place.labels]) is not None]
    names |= {box.category for _, _, found in there for box in found.boxes}
    located = PictureIndex(layout.root).locate(
        references([(piece, place.labels, found.filename) for piece, place, found in there])
    )
    remark_on_names(findings, located)
    remark_on_unlabelled(findings, layout.parts[split], located)
    if swapped:
        findings.remark(
            f"boxes with left and right or top and bottom swapped: {len(swapped):,}, such as in {swapped[0]}"
        )
    pictures = [
        StatedPicture(
            path=at.path,
            image_id=count,
            file=place.file,
            line=place.line,
            boxes=found.boxes,
            size=found.size,
            rivals=at.rivals,
        )
        for count, ((_, place, found), at) in enumerate(zip(there, located, strict=True), start=1)
    ]
    categories = [Category(name, count, name) for count, name in enumerate(sorted(names), start=1)]
    return Stated(categories, pictures, findings)


def _read(path: Path, findings: Findings, swapped: list[Path]) -> _Read | None:
    """What an XML file says; None if it can't be read, which is a problem."""
    try:
        tree = parse_xml(read_bytes(path, MOST_BYTES))
    except expat.ExpatError as error:
        message = f"not valid XML: {expat.errors.messages[error.code]}; its picture is left out"
        findings.add(ProblemKind.BROKEN_LABEL, path, error.lineno, message)
        return None
    except OSError as error:
        findings.add(ProblemKind.BROKEN_LABEL, path, None, f"{error.strerror or error}; its picture is left out")
        return None
    boxes = []
    for item in tree.iter("object"):
        line = int(item.get(LINE))
        try:
            if values.truth(item.findtext("deleted")):  # LabelMe's tool only marks what was removed
                continue
            name = values.name(item.findtext("name"))
            left, top, right, bottom = _corners(item)
            crowd = values.truth(item.findtext("difficult"))
        except ValueError as error:
            message = f"object without a name and a box ({error}); left out"
            findings.add(ProblemKind.BROKEN_LABEL, path, line, message)
            continue
        if right < left or bottom < top:
            swapped.append(path)
            left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        boxes.append(StatedBox((left, top, right, bottom), name, line, path, crowd=crowd))
    size = values.size(tree.findtext("size/width"), tree.findtext("size/height"))
    return _Read((tree.findtext("filename") or "").strip(), size, boxes)


def _corners(item: ElementTree.Element) -> Corners:
    """The box of an object: its `bndbox`, or the box around what there is instead."""
    places = sorted(
        (part for part in item if part.tag not in ABOUT), key=lambda part: PLACES.get(part.tag, len(PLACES))
    )
    for place in places:
        inside = {part.tag for part in place}
        if "cx" in inside:
            return _rotated(place)
        if place.tag == "bndbox" or "xmin" in inside:
            return _plain(place)
        if place.tag in PLACES or not {"x1", "pt", "point"}.isdisjoint(inside):
            return _outline(place)
    raise ValueError(f"no bndbox, but {some(place.tag for place in places)}" if places else "no bndbox")


def _texts(place: ElementTree.Element) -> Mapping[str, str | None]:
    return {part.tag: part.text for part in place}


def _plain(place: ElementTree.Element) -> Corners:
    texts = _texts(place)
    for side in ("xmin", "ymin", "xmax", "ymax") if "xmin" in texts or not texts else ():
        if side not in texts:
            raise ValueError(f"bndbox without {side}")
    return values.box(texts)


def _outline(place: ElementTree.Element) -> Corners:
    """The box around points: `x1`, `y1`, `x2`, ...; or `pt` with `x` and `y`; or numbers in a row."""
    points = [
        (number(point.findtext("x")), number(point.findtext("y"))) for point in place if point.find("x") is not None
    ]
    if not points:
        texts = _texts(place)
        numbered = [name[1:] for name in texts if name.startswith("x")]
        points = [(number(texts[f"x{one}"]), number(texts.get(f"y{one}"))) for one in numbered]
    if not points:
        text = " ".join(place.itertext()).replace(",", " ").replace(";", " ")
        sides = [number(one) for one in text.split()]
        points = list(zip(sides[0::2], sides[1::2], strict=False))
    return enclosing(points)


def _rotated(place: ElementTree.Element) -> Corners:
    """The box around a box of `w` and `h` turned about its middle by `angle`: radians, or degrees if over a turn."""
    texts = _texts(place)
    x, y, width, height = (number(texts.get(name)) for name in ("cx", "cy", "w", "h"))
    angle = number(texts.get("angle") or 0)
    angle = math.radians(angle) if abs(angle) > 2 * math.pi else angle
    across = (abs(width * math.cos(angle)) + abs(height * math.sin(angle))) / 2
    down = (abs(width * math.sin(angle)) + abs(height * math.cos(angle))) / 2
    return x - across, y - down, x + across, y + down
