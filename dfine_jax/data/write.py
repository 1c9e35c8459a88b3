"""Writing a data set to disk in any of the formats it could be read from."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from dfine_jax.data.samples import Dataset, Record, Split
from dfine_jax.data.shapes import COUNTS, shapes

FileFormat = Literal["coco", "yolo", "voc"]


def write_shapes(
    folder: Path,
    format: FileFormat = "coco",
    *,
    size: int = 192,
    seed: int = 0,
    counts: Mapping[Split, int] = COUNTS,
) -> None:
    """Draws `shapes` into a folder that `open_dataset` and other tools can read; pictures as PNG."""
    for split, count in counts.items():
        write_dataset(shapes(count, size=size, seed=seed, split=split), folder, format, split)


def write_dataset(dataset: Dataset, folder: Path, format: FileFormat, split: Split) -> None:
    """Writes one split; `open_dataset(folder, split)` reads it back.

    Pictures are copied, drawn ones saved as PNG, all under new names. COCO keeps everything but ids of pictures that
    aren't numbers; VOC keeps crowds as difficult objects; YOLO can't express crowds and leaves them out. VOC and YOLO
    number classes anew.
    """
    writers: dict[FileFormat, Callable[[Dataset, Path, Split], None]] = {
        "coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc,
    }  # fmt: skip
    writers[format](dataset, folder, split)


class _Written(NamedTuple):
    record: Record
    path: Path


def _write_pictures(dataset: Dataset, folder: Path, split: Split) -> list[_Written]:
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _Written(record, _write_picture(record, folder / f"{split}_{number:06d}"))
        for number, record in enumerate(dataset.records, start=1)
    ]


def _write_picture(record: Record, stem: Path) -> Path:
    if isinstance(record.picture, Path) and not record.as_stored:
        return Path(shutil.copyfile(record.picture, stem.with_suffix(record.picture.suffix.lower())))
    path = stem.with_suffix(".png")
    Image.fromarray(record.pixels()).save(path)
    return path


def _write_coco(dataset: Dataset, folder: Path, split: Split) -> None:
    images, annotations = [], []
    for number, (record, path) in enumerate(_write_pictures(dataset, folder / split, split), start=1):
        image_id = record.image_id if isinstance(record.image_id, int) else number
        images.append({"id": image_id, "file_name": path.name, "width": record.width, "height": record.height})
        for crowd, boxes, labels, areas in (
            (0, record.boxes, record.labels, record.areas),
            (1, record.crowd_boxes, record.crowd_labels, record.crowd_areas),
        ):
            for (left, top, right, bottom), label, area in zip(
                boxes.astype(np.float64).tolist(), labels.tolist(), areas.tolist(), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": dataset.category_ids[label],
                        "bbox": [left, top, right - left, bottom - top],
                        "area": area,
                        "iscrowd": crowd,
                    }
                )
    categories = [
        {"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    file = folder / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    rows = {"images": images, "annotations": annotations, "categories": categories}
    # One entry a line, so that a line number in a message leads to it.
    parts = (f'"{key}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n]" for key, entries in rows.items())
    file.write_text("{" + ",\n".join(parts) + "}\n")


def _write_yolo(dataset: Dataset, folder: Path, split: Split) -> None:
    labels_folder = folder / "labels" / split
    labels_folder.mkdir(parents=True, exist_ok=True)
    for record, path in _write_pictures(dataset, folder / "images" / split, split):
        sides = np.array([record.width, record.height], np.float64)
        centres = (record.boxes[:, :2] + record.boxes[:, 2:]) / 2 / sides
        sizes = (record.boxes[:, 2:] - record.boxes[:, :2]) / sides
        rows = [
            " ".join([str(label), *(f"{value:.8g}" for value in (*centre, *size))])
            for label, centre, size in zip(record.labels, centres, sizes, strict=True)
        ]
        (labels_folder / path.name).with_suffix(".txt").write_text("".join(f"{row}\n" for row in rows))
    splits = {part: f"images/{part}" for part in COUNTS if (folder / "images" / part).is_dir()}
    description = {**splits, "names": dict(enumerate(dataset.class_names))}
    (folder / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True), "utf-8")


def _write_voc(dataset: Dataset, folder: Path, split: Split) -> None:
    annotations, lists = folder / "Annotations", folder / "ImageSets" / "Main"
    annotations.mkdir(parents=True, exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    written = _write_pictures(dataset, folder / "JPEGImages", split)
    for record, path in written:
        _write_voc_annotation(dataset, record, path, annotations / f"{path.stem}.xml")
    (lists / f"{split}.txt").write_text("".join(f"{path.stem}\n" for _, path in written))


def _write_voc_annotation(dataset: Dataset, record: Record, picture: Path, file: Path) -> None:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = picture.name
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", record.width), ("height", record.height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    for difficult, boxes, labels in ((0, record.boxes, record.labels), (1, record.crowd_boxes, record.crowd_labels)):
        for box, label in zip(boxes.tolist(), labels, strict=True):
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = dataset.class_names[label]
            ElementTree.SubElement(item, "difficult").text = str(difficult)
            corners = ElementTree.SubElement(item, "bndbox")
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                ElementTree.SubElement(corners, side).text = f"{value:.8g}"
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(file, encoding="utf-8")
