"""YOLO data sets: pictures, and for each a text file of labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dfine_jax.data.checks import Category, Stated, StatedPicture
from dfine_jax.data.folders import pictures_below
from dfine_jax.data.references import Located, PictureIndex, Reference, remark_on_names
from dfine_jax.data.samples import DataError, Findings, ProblemKind, Split
from dfine_jax.data.texts import read_paths
from dfine_jax.data.yolo_labels import LabelFiles
from dfine_jax.data.yolo_rows import read_labels
from dfine_jax.data.yolo_sets import YoloSet


class _Place(NamedTuple):
    located: Located
    file: Path
    line: int | None


def read_yolo(described: YoloSet, split: Split | None) -> Stated:
    """Reads one part of a YOLO data set.

    A part is a folder (searched with all folders in it), a text file listing pictures, or several of these; `path`, if
    there, is what they are relative to. Where their labels are says `LabelFiles`. No file of labels means no boxes. A
    row is a class and a box (centre, width, height as fractions), maybe with a score or key points after it, or a
    class and an outline, of which the enclosing box is taken.

    Raises:
        DataError: a place that the description names isn't there, or a list can't be read.
    """
    findings = Findings()
    for remark in described.remarks:
        findings.remark(remark)
    pictures = _pictures(described, split, findings)
    if described.names is not None:
        named = described.names
    else:
        others = [_pictures(described, other, Findings()) for other in described.parts if other != split]
        numbers = {box.category for part in (pictures, *others) for picture in part for box in picture.boxes}
        named = {number: str(number) for number in sorted(numbers)}
        findings.remark(f"{described.description} names no classes: they are called by their numbers")
    categories = [Category(number, number, name) for number, name in sorted(named.items())]
    return Stated(categories, pictures, findings)


def _pictures(described: YoloSet, split: Split | None, findings: Findings) -> list[StatedPicture]:
    index = PictureIndex(described.root, [described.description.parent])
    places = [place for part in described.parts[split] for place in _listed(part, described, index, findings)]
    remark_on_names(findings, [place.located for place in places])
    paths = [place.located.path for place in places]
    pictures = []
    for number, (place, labels) in enumerate(zip(places, LabelFiles(index).of(paths, findings), strict=True), start=1):
        try:
            boxes = [] if labels is None else read_labels(labels, described.points, findings)
        except OSError as error:
            message = f"{error.strerror or error}; {place.located.path.name} is left out"
            findings.add(ProblemKind.BROKEN_LABEL, labels, None, message)
            continue
        located = place.located
        pictures.append(
            StatedPicture(located.path, number, place.file, place.line, boxes, fractions=True, rivals=located.rivals)
        )
    return pictures


def _listed(part: str, described: YoloSet, index: PictureIndex, findings: Findings) -> Iterator[_Place]:
    """The pictures of one entry of a part, with where each is listed."""
    found = described.place(part)
    if found.is_dir():
        for path in pictures_below(found):
            yield _Place(Located(path), path, None)
        return
    try:
        listed = read_paths(found)
    except OSError as error:
        raise DataError(f"can't read {found}: {error.strerror or error}") from error
    lines: dict[str, int] = {}
    for line, row in listed:
        if lines.setdefault(row, line) != line:
            message = f"{row} is listed a second time; the second is left out"
            findings.add(ProblemKind.DUPLICATE_PICTURE, found, line, message)
    del listed
    beside, root = found.parent, described.root

    def reference(row: str) -> Reference:
        return Reference((row,), beside if row.startswith("./") or index.holds(beside, row) else root)

    index.require_some(list(lines), reference)
    for line, located in zip(lines.values(), index.locate([reference(row) for row in lines]), strict=True):
        yield _Place(located, found, line)
