"""Small data sets for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dfine_jax.data.samples import Record


def make_record(number: int, boxes, labels, *, size=(64, 48), **others) -> Record:
    """A picture of one colour, `size` wide and high, with boxes."""
    width, height = size
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    picture = np.full((height, width, 3), (number * 7 % 256, 50, 200), np.uint8)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return Record(picture, number, width, height, boxes, np.array(labels, np.int32), areas, **others)


def write_picture(path: Path, size=(64, 48), colour=(10, 200, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_coco(path: Path, images=None, annotations=(), categories=None) -> Path:
    """A COCO file with one picture of 64 x 48 if not told otherwise, an entry a line."""
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}] if images is None else images
    categories = [{"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}] if categories is None else categories
    rows = {"images": images, "annotations": list(annotations), "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f'"{key}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n]" for key, entries in rows.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}")
    return path


def write_text(path: Path, text: str, encoding="utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def boxes_of(dataset) -> dict[str, list]:
    """The boxes of each picture by its name, rounded, with the name of the class."""
    return {
        Path(record.name).name: [
            (dataset.class_names[label], *(round(side) for side in box))
            for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
        ]
        for record in dataset.records
    }
