"""Pascal VOC: one XML file a picture, and lists of the pictures of each split."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from dfine_jax.data.checks import Category, StatedBox, StatedPicture, usable
from dfine_jax.data.samples import PICTURE_ENDINGS, SPLITS, DataError, Dataset, Problem, ProblemKind, Split

LINE = "line"
"""The attribute under which each parsed element carries its line."""
LIST_FOLDERS = ("ImageSets/Main", "ImageSets", ".")


def parse_xml(text: bytes) -> ElementTree.Element:
    """The root element, in which every element has its line as the attribute `LINE`; raises expat.ExpatError."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, _: builder.start(tag, {LINE: str(parser.CurrentLineNumber)})
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(text, True)
    return builder.close()


class VocLayout(NamedTuple):
    """Where the parts of a VOC data set are: `Annotations` and lists, or XML beside the pictures of each split."""

    root: Path
    annotations: Path
    pictures: Path
    lists: dict[Split, Path]
    """The list of each split, for the first kind."""
    folders: dict[Split, Path]
    """The folder of each split, for the second."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """Which of train, val and test there are; none if everything is in one."""
        return tuple(split for split in SPLITS if split in self.lists or split in self.folders)


def find_layout(folder: Path) -> VocLayout | None:
    """The layout of a VOC data set, or None if the folder is none."""
    folders = {
        split: folder / name
        for split, names in SPLITS.items()
        for name in names
        if next((folder / name).glob("*.xml"), None) is not None
    }
    if (folder / "Annotations").is_dir():
        annotations = folder / "Annotations"
    elif folders or next(folder.glob("*.xml"), None) is not None:
        return VocLayout(folder, folder, folder, {}, folders)
    else:
        return None
    pictures = next((folder / name for name in ("JPEGImages", "images", "Images") if (folder / name).is_dir()), folder)
    lists = {
        split: folder / place / f"{split}.txt"
        for place in reversed(LIST_FOLDERS)
        for split in SPLITS
        if (folder / place / f"{split}.txt").is_file()
    }
    return VocLayout(folder, annotations, pictures, lists, {})


def read_voc(layout: VocLayout, split: Split | None) -> Dataset:
    """Reads one split of a VOC data set, or all of one that has no splits.

    Classes are the names found in the XML files of all splits, in alphabetical order. Coordinates are taken as
    written, as edges in pixels, which is what labelling tools write (VOC's own files count from 1: at most a pixel
    away). Objects marked as difficult are treated as crowds: neither trained on nor counted.

    Raises:
        DataError: the split isn't there, or no picture can be used.
    """
    if split is not None and split not in layout.splits:
        there = ", ".join(layout.splits) or "none"
        raise DataError(f"{layout.root} has no {split} split (it has: {there})")
    problems: list[Problem] = []
    listed = _listed(layout, split)
    xml_files = sorted({*_all_xml(layout), *(place.xml for place in listed)})
    parsed = {path: _parse(path) for path in xml_files}
    names = sorted({name for tree in parsed.values() if isinstance(tree, ElementTree.Element) for name in _names(tree)})
    pictures = []
    for number, place in enumerate(listed, start=1):
        tree = parsed[place.xml]
        if isinstance(tree, Problem):
            problems.append(tree)
        else:
            pictures.append(_picture(tree, place, number, layout, problems))
    categories = [Category(name, number, name) for number, name in enumerate(names, start=1)]
    return usable(categories, pictures, problems, source=layout.root)


class _Place(NamedTuple):
    xml: Path
    file: Path
    line: int | None


def _all_xml(layout: VocLayout) -> list[Path]:
    folders = [layout.annotations, *layout.folders.values()]
    return [path for folder in folders for path in folder.glob("*.xml")]


def _listed(layout: VocLayout, split: Split | None) -> list[_Place]:
    """The XML files of a split, with where each is listed."""
    if split is None or split in layout.folders:
        folder = layout.annotations if split is None else layout.folders[split]
        return [_Place(path, path, None) for path in sorted(folder.glob("*.xml"))]
    file = layout.lists[split]
    rows = enumerate(file.read_text().splitlines(), start=1)
    return [_Place(layout.annotations / f"{row.split()[0]}.xml", file, line) for line, row in rows if row.strip()]


def _parse(path: Path) -> ElementTree.Element | Problem:
    try:
        return parse_xml(path.read_bytes())
    except expat.ExpatError as error:
        message = f"not valid XML: {expat.errors.messages[error.code]}; its picture is left out"
        return Problem(ProblemKind.BROKEN_LABEL, path, error.lineno, message)
    except OSError as error:
        return Problem(ProblemKind.BROKEN_LABEL, path, None, f"{error.strerror}; its picture is left out")


def _names(tree: ElementTree.Element) -> list[str]:
    return [name for name in ((item.findtext("name") or "").strip() for item in tree.iter("object")) if name]


def _picture(
    tree: ElementTree.Element, place: _Place, number: int, layout: VocLayout, problems: list[Problem]
) -> StatedPicture:
    boxes = []
    for item in tree.iter("object"):
        try:
            boxes.append(_box(item, place.xml))
        except (TypeError, ValueError) as error:
            message = f"object without a name and four numbers ({error}); left out"
            problems.append(Problem(ProblemKind.BROKEN_LABEL, place.xml, int(item.get(LINE)), message))
    folder = layout.pictures if layout.folders == {} else place.xml.parent
    stated = [tree.findtext(f"size/{side}", "0") for side in ("width", "height")]
    width, height = (int(side) if side.strip().isdigit() else 0 for side in stated)
    return StatedPicture(
        path=_picture_file(folder, place.xml.stem, (tree.findtext("filename") or "").strip()),
        image_id=number,
        file=place.file,
        line=place.line,
        boxes=boxes,
        size=(width, height) if width and height else None,
    )


def _box(item: ElementTree.Element, file: Path) -> StatedBox:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("no name")
    sides: Sequence[str | None] = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = (float(side) for side in sides)
    difficult = (item.findtext("difficult") or "0").strip() == "1"
    return StatedBox((left, top, right, bottom), name, int(item.get(LINE)), file, crowd=difficult)


def _picture_file(folder: Path, stem: str, stated: str) -> Path:
    """The picture of an XML file: the one it names, or the one that is called like it."""
    if stated and (folder / stated).is_file():
        return folder / stated
    by_name = (folder / f"{stem}{ending}" for ending in PICTURE_ENDINGS)
    return next((path for path in by_name if path.is_file()), folder / (stated or f"{stem}.jpg"))
