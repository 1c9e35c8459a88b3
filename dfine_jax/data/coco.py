"""COCO's JSON: pictures, annotations and categories in one file, the pictures in a folder near it."""

from collections.abc import Sequence
from pathlib import Path

from dfine_jax.data.checks import Category, StatedBox, StatedPicture, usable
from dfine_jax.data.json_lines import Entry, read_entries
from dfine_jax.data.samples import DataError, Dataset, Problem, ProblemKind


def read_coco(annotations: Path, pictures: Path | None = None) -> Dataset:
    """Reads a COCO file.

    Category ids may be anything; labels count from 0 in the order of the ids. A category no annotation refers to keeps
    its label. Annotations with `iscrowd` are kept apart (`Record.crowd_boxes`).

    Args:
        annotations: the JSON file.
        pictures: the folder its file names are relative to; looked for beside the file if not given.

    Raises:
        DataError: the file isn't what it should be, or no picture can be used.
    """
    categories: list[Category] = []
    images: list[Entry] = []
    boxes: dict[int | str, list[StatedBox]] = {}
    problems: list[Problem] = []
    seen = set()
    for entry in read_entries(annotations):
        seen.add(entry.key)
        try:
            if entry.key == "categories":
                categories.append(_category(entry))
            elif entry.key == "images":
                images.append(_image(entry))
            elif entry.key == "annotations":
                boxes.setdefault(entry.value["image_id"], []).append(_box(entry, annotations))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(_broken(entry, annotations, error))
    if not categories or not images:
        missing = "categories" if not categories else "images"
        raise DataError(
            f"{annotations} has no {missing}: not a COCO detection file (it has {', '.join(sorted(seen)) or 'nothing'})"
        )
    categories.sort(key=lambda category: category.category_id)
    folder = pictures or find_pictures(annotations, [image.value["file_name"] for image in images])
    stated = _pictures(images, boxes, folder, annotations, problems)
    problems += [
        Problem(
            ProblemKind.BROKEN_LABEL,
            annotations,
            box.line,
            f"annotation of image {image_id!r}, which is not listed; left out",
        )
        for image_id, strays in boxes.items()
        for box in strays
    ]
    return usable(categories, stated, problems, source=annotations)


def _category(entry: Entry) -> Category:
    number = int(entry.value["id"])
    return Category(number, number, str(entry.value["name"]))


def _image(entry: Entry) -> Entry:
    """Only what is needed of an image's entry."""
    value = entry.value
    size = (int(value["width"]), int(value["height"])) if value.get("width") and value.get("height") else None
    return Entry(entry.key, {"id": value["id"], "file_name": str(value["file_name"]), "size": size}, entry.line)


def _box(entry: Entry, file: Path) -> StatedBox:
    left, top, width, height = (float(value) for value in entry.value["bbox"])
    area = entry.value.get("area")
    return StatedBox(
        xyxy=(left, top, left + width, top + height),
        category=entry.value["category_id"],
        line=entry.line,
        file=file,
        area=float(area) if area is not None else None,
        crowd=bool(entry.value.get("iscrowd", 0)),
    )


def _broken(entry: Entry, file: Path, error: Exception) -> Problem:
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    name = f" {entry.value['id']}" if isinstance(entry.value, dict) and "id" in entry.value else ""
    message = f"entry{name} of {entry.key} can't be read ({what}); left out"
    return Problem(ProblemKind.BROKEN_LABEL, file, entry.line, message)


def _pictures(
    images: Sequence[Entry], boxes: dict[int | str, list[StatedBox]], folder: Path, file: Path, problems: list[Problem]
) -> list[StatedPicture]:
    """The listed pictures, each with its boxes, which are taken out of `boxes`."""
    pictures, ids = [], set()
    for image in images:
        image_id = image.value["id"]
        if image_id in ids:
            message = f"image id {image_id!r} is there twice; the second is left out"
            problems.append(Problem(ProblemKind.DUPLICATE_PICTURE, file, image.line, message))
            continue
        ids.add(image_id)
        pictures.append(
            StatedPicture(
                path=folder / image.value["file_name"],
                image_id=image_id,
                file=file,
                line=image.line,
                boxes=boxes.pop(image_id, []),
                size=image.value["size"],
            )
        )
    return pictures


def find_pictures(annotations: Path, file_names: Sequence[str]) -> Path:
    """The folder in which most of some file names are found: beside the JSON file, or in one near it.

    Raises:
        DataError: none of them is anywhere near.
    """
    name = annotations.stem.removeprefix("instances_").removeprefix("_annotations.coco")
    near = [annotations.parent, annotations.parent.parent]
    below = [".", "images", name, f"images/{name}", name.rstrip("0123456789"), f"images/{name.rstrip('0123456789')}"]
    folders = list(dict.fromkeys(parent / child for parent in near for child in below))
    folders += [
        child for parent in near for child in sorted(parent.iterdir()) if child.is_dir() and child not in folders
    ]
    some = file_names[:: max(1, len(file_names) // 20)]
    counts = [sum((folder / file_name).is_file() for file_name in some) for folder in folders]
    if max(counts) == 0:
        looked = ", ".join(str(folder) for folder in folders if folder.is_dir())
        raise DataError(f"no picture of {annotations} found (such as {file_names[0]}); looked in {looked}")
    return folders[counts.index(max(counts))]
