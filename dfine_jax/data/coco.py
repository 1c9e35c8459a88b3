"""COCO's JSON: pictures, annotations and categories in one file, the pictures in a folder near it."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dfine_jax.data import values
from dfine_jax.data.checks import MOST_BOXES, Category, Stated, StatedBox, StatedPicture
from dfine_jax.data.coco_files import folder_around, folders_beside, part_names, part_of
from dfine_jax.data.folders import folders_in, split_named
from dfine_jax.data.json_lines import Entry, read_entries, sniff
from dfine_jax.data.outlines import outline_box
from dfine_jax.data.references import PictureIndex, Reference, remark_on_names
from dfine_jax.data.samples import DataError, Findings, ProblemKind
from dfine_jax.data.values import shortened, shown, some

NAME_KEYS = ("file_name", "filename", "fileName", "path", "name", "coco_url", "url")
ENTRY_KEYS = frozenset({"id", "image_id", "bbox", "file_name", "name"})
"""What tells an entry from an object of entries."""
NO_GROUP = ("", "none", "null")
"""Supercategories that are none."""


class _Image(NamedTuple):
    image_id: int | str
    """As written: predictions must repeat it."""
    name: str
    size: tuple[int, int] | None
    line: int


class _Class(NamedTuple):
    key: Hashable
    category_id: int | str
    name: str
    group: str


def read_coco(annotations: Path, root: Path | None = None) -> Stated:
    """Reads a COCO file.

    Ids may be numbers or any text; labels count from 0 in the order of the ids. A category no annotation refers to
    keeps its label, unless it only groups others (see `_without_groups`). Annotations with `iscrowd` are kept apart
    (`Record.crowd_boxes`). Where an annotation has no box, that of its outline is taken.

    Args:
        annotations: the JSON file.
        root: the folder of the data set, in which pictures are looked for that aren't where the file says; where the
            file lies if not given, or beside that if it lies in a folder of labels only.

    Raises:
        DataError: the file isn't what it should be, or none of its pictures is there.
    """
    reader = _Reader(annotations)
    reader.read()
    reader.check_complete()
    reader.leave_out_ambiguous()
    index = PictureIndex(root or folder_around(annotations), [] if root else [annotations.parent.parent])
    folder = find_folder(annotations, [image.name for image in reader.images.values()], index, reader.findings)
    located = index.locate([Reference((image.name,), folder) for image in reader.images.values()])
    remark_on_names(reader.findings, located)
    pictures = [
        StatedPicture(
            path=place.path,
            image_id=image.image_id,
            file=annotations,
            line=image.line,
            boxes=reader.boxes.pop(key, []),
            size=image.size,
            rivals=place.rivals,
        )
        for (key, image), place in zip(reader.images.items(), located, strict=True)
    ]
    used = {box.category for picture in pictures for box in picture.boxes}
    for image_id, strays in reader.boxes.items():
        for box in strays:
            message = f"annotation of image {shown(image_id)}, which is not listed; left out"
            reader.findings.add(ProblemKind.BROKEN_LABEL, annotations, box.line, message)
    return Stated(_without_groups(reader.ordered_classes(used), used, reader.findings), pictures, reader.findings)


class _Reader:
    """Takes in the entries of a file one by one."""

    def __init__(self, file: Path):
        self.file = file
        self.findings = Findings()
        self.classes: dict[Hashable, _Class] = {}
        self.images: dict[Hashable, _Image] = {}
        self.boxes: dict[Hashable, list[StatedBox]] = {}
        self._seen: set[str] = set()
        self._ambiguous: set[Hashable] = set()
        self._image_keys = ""
        self._passed_over = 0

    def read(self) -> None:
        for whole in read_entries(self.file):
            self._seen.add(whole.key)
            for entry in _singly(whole) if whole.key in ("categories", "images", "annotations") else ():
                self._take(entry)
                if self._passed_over > Findings.MOST_BROKEN:
                    raise DataError(
                        f"{self.file}:{entry.line}: {self._passed_over:,} annotations of pictures that have over "
                        f"{MOST_BOXES:,} already, this one of image_id {shown(entry.value['image_id'])}: no labels of "
                        "pictures; mend the ids"
                    )

    def _take(self, entry: Entry) -> None:
        takers = {"categories": self._take_class, "images": self._take_image, "annotations": self._take_box}
        try:
            if not isinstance(entry.value, dict):
                raise ValueError(f"{shown(entry.value)} is no object")
            takers[entry.key](entry)
        except KeyError as error:
            self._refuse(entry, f"no {error}")
        except ValueError as error:
            self._refuse(entry, str(error))

    def leave_out_ambiguous(self) -> None:
        """Leaves out pictures that share an id, and the id's boxes: these could be any one's, and none has no box."""
        for key in self._ambiguous:
            if boxes := self.boxes.pop(key, None):
                image = self.images.pop(key)
                message = (
                    f"{len(boxes):,} boxes of image id {shown(image.image_id)}, which is there twice; left out with "
                    "its pictures"
                )
                self.findings.add(ProblemKind.BROKEN_LABEL, self.file, boxes[0].line, message)

    def check_complete(self) -> None:
        missing = "images" if self.classes else "categories"
        if not self.images or not (self.classes or self.boxes):
            keys = some(sorted(self._seen), 6, 30) or "nothing"
            sniffed = sniff(self.file)
            lines = "; it is JSON Lines, an object a line" if sniffed is not None and sniffed.is_lines else ""
            raise DataError(f"{self.file} has no {missing}: not a COCO detection file (it has {keys}){lines}")
        if "annotations" not in self._seen and not self.boxes:
            self.findings.remark(f"{self.file} has no annotations: its images have {self._image_keys}")
        if not self.classes:
            self.findings.remark(f"{self.file} has no categories: classes are called by their numbers")

    def ordered_classes(self, used: set[Hashable]) -> list[_Class]:
        """By their ids; ids that aren't numbers come last, in the file's order."""
        unnamed = sorted(used, key=str) if not self.classes else ()
        classes = [*self.classes.values(), *(_Class(key, key, str(key), "") for key in unnamed)]
        numbered = sorted((one for one in classes if isinstance(one.key, int)), key=lambda one: one.key)
        return numbered + [one for one in classes if not isinstance(one.key, int)]

    def _refuse(self, entry: Entry, reason: str) -> None:
        which = f" {shown(entry.value['id'])}" if isinstance(entry.value, dict) and "id" in entry.value else ""
        message = f"entry{which} of {entry.key} can't be read ({reason}); left out"
        self.findings.broken(self.file, entry.line, message)

    def _take_class(self, entry: Entry) -> None:
        key, written = _ids(entry.value["id"])
        group = str(entry.value.get("supercategory") or "").strip()
        try:
            name = values.name(entry.value.get("name"))
        except ValueError as error:
            name = str(key)
            message = f"category {shown(written)} has no name ({error}); it is called {name}"
            self.findings.broken(self.file, entry.line, message)
        if key in self.classes:
            raise ValueError("its id is there twice")
        self.classes[key] = _Class(key, written, name, "" if group.lower() in NO_GROUP else group)

    def _take_image(self, entry: Entry) -> None:
        key, written = _ids(entry.value["id"])
        name = values.first_of(entry.value, *NAME_KEYS)
        if not isinstance(name, str | int | float) or not str(name).strip():
            raise ValueError("no 'file_name'" if name is None else f"file_name {shown(name)} is no name")
        self._image_keys = self._image_keys or some(entry.value, 8, 30)
        if key in self.images:
            first = self.images[key].name
            if first != str(name):
                self._ambiguous.add(key)
            message = f"image id {shown(written)} is there twice, for {some((first, name))}; the second is left out"
            self.findings.add(ProblemKind.DUPLICATE_PICTURE, self.file, entry.line, message)
            return
        size = values.size(entry.value.get("width"), entry.value.get("height"))
        self.images[key] = _Image(written, str(name), size, entry.line)
        nested = entry.value.get("annotations")
        for part in nested if isinstance(nested, list) else ():
            self._take(Entry("annotations", {"image_id": key, **part} if isinstance(part, dict) else part, entry.line))

    def _take_box(self, entry: Entry) -> None:
        image, value = values.identity(entry.value["image_id"], "image_id"), entry.value
        if len(self.boxes.get(image, ())) > MOST_BOXES:
            self._passed_over += 1  # `checks` says so
            return
        category = values.first_of(value, "category_id", "category")
        if category is None:
            raise KeyError("category_id")
        box = StatedBox(
            xyxy=_corners(value),
            category=values.identity(category, "category_id"),
            line=entry.line,
            file=self.file,
            area=self._area(entry),
            crowd=values.truth(value.get("iscrowd")),
        )
        self.boxes.setdefault(image, []).append(box)

    def _area(self, entry: Entry) -> float | None:
        area = entry.value.get("area")
        try:
            return None if area is None or area == "" else values.number(area)
        except ValueError as error:
            message = f"area of annotation {shown(entry.value.get('id'))}: {error}; that of its box is taken"
            self.findings.broken(self.file, entry.line, message)
            return None


def _singly(entry: Entry) -> Iterator[Entry]:
    """The entry itself; or those of an object, whose keys are the ids of its values (pictures' ids for annotations)."""
    value = entry.value
    may_be_keyed = isinstance(value, dict) and value and ENTRY_KEYS.isdisjoint(value)
    if not may_be_keyed or not all(isinstance(one, dict | list) for one in value.values()):
        yield entry
        return
    for key, one in value.items():
        for part in one if isinstance(one, list) else [one]:
            if isinstance(part, dict):
                id_key = "image_id" if entry.key == "annotations" and isinstance(one, list) else "id"
                part = {id_key: key, **part}
            yield Entry(entry.key, part, entry.line)


def _ids(value: Any) -> tuple[int | str, int | str]:
    """An id to look things up by, and as it is written."""
    key = values.identity(value)
    return key, value if isinstance(value, str) else key


def _corners(annotation: Mapping[str, Any]) -> values.Corners:
    """The box of an annotation; where it has none, that of its outline."""
    box, outline = annotation.get("bbox"), annotation.get("segmentation")
    if box not in (None, [], "", {}, [0, 0, 0, 0]):
        return values.box(box, annotation.get("bbox_mode"))
    if outline not in (None, [], "", {}):
        return outline_box(outline)
    if box is None:
        raise KeyError("bbox")
    return values.box(box)


def _without_groups(classes: Sequence[_Class], used: set[Hashable], findings: Findings) -> list[Category]:
    """All classes but those that only group others: named as the group of another, without boxes or group."""
    members: dict[str, set[Hashable]] = {}
    for one in classes:
        members.setdefault(one.group, set()).add(one.key)
    kept = []
    for one in classes:
        others = members.get(one.name, set()) - {one.key}
        if others and one.group in ("", one.name) and used.isdisjoint((one.key, one.name)):
            findings.remark(f"category {one.name} ({one.category_id}) has no boxes and groups others: it is no class")
        else:
            kept.append(Category(one.key, one.category_id, one.name))
    return kept


def find_folder(annotations: Path, names: Sequence[str], index: PictureIndex, findings: Findings) -> Path:
    """The folder to which the names of pictures are relative: where most of some are found, beside the file or near it.

    What lies outside of the data set's folder counts only if nothing in it does, and is remarked on.

    Raises:
        DataError: none of them is anywhere near.
    """
    if not names:  # all were left out
        return annotations.parent
    near = [annotations.parent, annotations.parent.parent]
    stem = annotations.stem.removeprefix("instances_").removeprefix("_annotations.coco")
    parts = list(dict.fromkeys((stem, *part_names(annotations), stem.rstrip("0123456789"))))
    below = [".", "images", *(folder for part in parts for folder in (part, f"images/{part}"))]
    folders = list(dict.fromkeys(parent / child for parent in near for child in below))
    folders += [child for parent in near for child in folders_in(parent) if child not in folders]
    folders = [folder for folder in folders if folder.is_relative_to(index.root)]
    some_names = names[:: max(1, len(names) // 20)]

    def best(places: Sequence[Path]) -> Path | None:
        counts = [sum(index.holds(folder, name) for name in some_names) for folder in places]
        return places[counts.index(max(counts))] if max(counts, default=0) else None

    if (found := best(folders)) is not None:
        own = part_of(annotations)
        if own is not None and split_named(found.name) not in (None, own):
            findings.remark(f"the pictures of {annotations.name} are taken from {found}, which is named after another")
        return found
    located = index.locate([Reference((name,), annotations.parent) for name in names])
    if any(place.by_name or place.rivals for place in located):
        return annotations.parent
    beside = [] if annotations.parent != index.root else folders_beside(annotations)
    if (found := best(beside)) is not None:
        findings.remark(f"{annotations.parent} has none of the pictures; they are taken from {found}")
        return found
    looked = some([folder for folder in (*folders, *beside) if folder.is_dir()], 3, 120)
    raise DataError(f"no picture of {annotations} found (such as {shortened(names[0], 80)}); looked in {looked}")
