"""JSON that is a list with an entry for each picture: CreateML's, and others of the kind."""

from pathlib import Path

from dfine_jax.data.checks import Stated, StatedPicture
from dfine_jax.data.json_lines import read_entries
from dfine_jax.data.objects import categories_of, entries_of, has_objects, read_boxes
from dfine_jax.data.references import PictureIndex, Reference, remark_on_names
from dfine_jax.data.samples import DataError, Findings
from dfine_jax.data.values import shown, size, some


def read_list(file: Path, root: Path, files: tuple[Path, ...] = ()) -> Stated:
    """Reads a JSON file that is a list of objects with the name of a picture and its objects.

    CreateML's entries have `image` and `annotations`, each with a `label` and `coordinates` of the box's middle; others
    have `name` and `labels` with a `category` and a `box2d` of corners, or a `bbox` of left, top, width and height.

    Args:
        file: the file.
        root: the folder of the data set, in which the pictures are.
        files: those of all parts, whose classes are this one's, too.

    Raises:
        DataError: it isn't such a file.
    """
    findings = Findings()
    used = set()
    for other in files:
        if other != file:
            for _, _, entry in entries_of([(one.line, one.value) for one in read_entries(other)], other, Findings()):
                used |= {box.category for box in read_boxes(entry, other, None, Findings())}
    entries = [(entry.line, entry.value) for entry in read_entries(file)]
    known = any(has_objects(entry) for _, entry in entries)
    listed = list(entries_of(entries, file, findings))
    if not known or not listed:
        first = entries[0][1] if entries else None
        keys = (
            f"of objects with {some(first, 6, 20)}" if isinstance(first, dict) else f"that begins with {shown(first)}"
        )
        raise DataError(
            f"{file} is a JSON list {keys if entries else 'without entries'}: not entries of pictures and boxes, "
            "and not COCO's object with images, annotations and categories; export the labels as COCO, YOLO or VOC"
        )
    located = PictureIndex(root).locate([Reference((name,), file.parent) for _, name, _ in listed])
    remark_on_names(findings, located)
    pictures = []
    for count, ((line, _, entry), place) in enumerate(zip(listed, located, strict=True), start=1):
        boxes = read_boxes(entry, file, line, findings)
        used |= {box.category for box in boxes}
        stated = size(entry.get("width"), entry.get("height"))
        pictures.append(StatedPicture(place.path, count, file, line, boxes, size=stated, rivals=place.rivals))
    return Stated(categories_of(used, None, findings), pictures, findings)
