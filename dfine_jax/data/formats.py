"""Opening a data set by its path alone."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from dfine_jax.data.coco import read_coco
from dfine_jax.data.samples import SPLITS, DataError, Dataset, Split
from dfine_jax.data.shapes import SHAPES, parse_shapes
from dfine_jax.data.voc import find_layout, read_voc
from dfine_jax.data.yolo import find_description, read_yolo, yolo_splits

Format = Literal["coco", "yolo", "voc", "shapes"]
COCO_NAME = re.compile(r"(?:instances_)?(?P<split>[a-z]+)(?:\d{4})?", re.IGNORECASE)


class Source(NamedTuple):
    """A data set that has been recognised but not read."""

    path: str
    format: Format
    splits: tuple[Split, ...]
    """Those it has; none if it is in one piece."""
    read: Callable[[Split | None], Dataset]

    def open(self, split: Split | None) -> Dataset:
        """Reads a split; None stands for a data set in one piece. Raises DataError as `open_dataset` does."""
        if split is None and self.splits:
            raise DataError(f"{self.path} has the splits {', '.join(self.splits)}: name one")
        if split is not None and split not in self.splits:
            there = ", ".join(self.splits) or "none: it is in one piece"
            raise DataError(f"{self.path} has no {split} split (it has: {there})")
        return self.read(split)


def open_dataset(path: str | Path, split: Split | None = "train") -> Dataset:
    """Reads a split of a data set in any of the known formats.

    Args:
        path: a folder or file as `recognise` takes it.
        split: which part; None for a data set that is in one piece.

    Raises:
        DataError: the path is no known data set, doesn't have that split, or has no usable picture.
    """
    return recognise(path).open(split)


def recognise(path: str | Path) -> Source:
    """Tells the format of a data set by what lies where.

    - COCO: a JSON file; or a folder with `annotations/instances_train2017.json` and the like (also without year or
      prefix, or beside the pictures' folders); or with a folder for each split that holds pictures and one JSON file.
    - YOLO: a folder with `data.yaml`, or the YAML file itself.
    - VOC: a folder with `Annotations`, `JPEGImages` and lists in `ImageSets/Main`; or with XML files beside the
      pictures, in one folder or in one for each split.
    - `shapes`, `shapes:size=320,count=5000,seed=1`: the drawn data set (`dfine_jax.data.shapes`), which needs no files.

    Raises:
        DataError: nothing is there, or it is none of these.
    """
    name, path = str(path), Path(path)
    if not path.exists():
        if name.split(":")[0] == SHAPES:
            return Source(name, "shapes", tuple(SPLITS), parse_shapes(name))
        raise DataError(f"{name} does not exist")
    if path.is_file():
        return _recognise_file(path)
    if (description := find_description(path)) is not None:
        return Source(name, "yolo", yolo_splits(description), partial(read_yolo, description))
    if files := _coco_files(path):
        splits = tuple(split for split in SPLITS if split in files)
        return Source(name, "coco", splits, lambda split: read_coco(files[split]))
    if (layout := find_layout(path)) is not None:
        return Source(name, "voc", layout.splits, partial(read_voc, layout))
    entries = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{path} is no known data set: no annotations/*.json (COCO), data.yaml (YOLO) or Annotations/*.xml (VOC) "
        f"in it, but {entries}"
    )


def _recognise_file(path: Path) -> Source:
    if path.suffix.lower() == ".json":
        return Source(str(path), "coco", (), lambda _: read_coco(path))
    if path.suffix.lower() in (".yaml", ".yml"):
        return Source(str(path), "yolo", yolo_splits(path), partial(read_yolo, path))
    raise DataError(f"{path} is neither a COCO .json nor a YOLO .yaml file; give one of these or a folder")


def _coco_files(folder: Path) -> dict[Split | None, Path]:
    """The JSON file of each split, or under None the only one there is."""
    together = [*sorted((folder / "annotations").glob("*.json")), *sorted(folder.glob("*.json"))]
    files: dict[Split | None, Path] = {}
    for split, names in SPLITS.items():
        apart = [file for name in names for file in sorted((folder / name).glob("*.json"))]
        named = [
            file for file in together if (match := COCO_NAME.fullmatch(file.stem)) and match["split"].lower() in names
        ]
        if len(named or apart) > 1 and not named:
            raise DataError(
                f"{folder} has several JSON files for {split}: {', '.join(map(str, apart))}; give one of them"
            )
        if named or apart:
            files[split] = (named or apart)[-1]
    if not files and len(together) == 1:
        files[None] = together[0]
    return files
