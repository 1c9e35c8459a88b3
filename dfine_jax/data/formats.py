"""Opening a data set by its path alone."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dfine_jax.data.coco import read_coco
from dfine_jax.data.coco_files import JsonFiles, find_json, folder_around
from dfine_jax.data.folders import folders_in, shows
from dfine_jax.data.imagefolder import find_imagefolder, read_imagefolder
from dfine_jax.data.json_lines import sniff
from dfine_jax.data.json_lists import read_list
from dfine_jax.data.labelme import find_labelme, is_labelme, read_labelme
from dfine_jax.data.samples import SPLITS, DataError, Dataset, Split
from dfine_jax.data.shapes import SHAPES, parse_shapes
from dfine_jax.data.sources import Source
from dfine_jax.data.values import some
from dfine_jax.data.voc import find_voc, read_voc
from dfine_jax.data.yolo import read_yolo
from dfine_jax.data.yolo_sets import YoloSet, find_darknet, find_descriptions, find_folders, read_description

LEVELS = 3
"""Folders down from the given one that are looked at if it is no data set itself."""
MOST_LOOKED_AT = 300


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
    - YOLO: a folder with `data.yaml`, or the YAML file itself; one with Darknet's `obj.data`; or pictures with text
      files of labels in `labels` or beside them, and maybe `classes.txt`.
    - VOC: a folder with `Annotations`, `JPEGImages` and lists in `ImageSets/Main`, or with such folders for several
      years; or with XML files beside the pictures, in one folder or in one for each split.
    - image folders: `metadata.jsonl` or `metadata.csv` beside the pictures, in one folder or in one for each split.
    - CreateML's JSON, and others that are a list with an entry for each picture.
    - labelme's JSON files beside the pictures, in one folder or in one for each split.
    - `shapes`, `shapes:size=320,count=5000,seed=1`: the drawn data set (`dfine_jax.data.shapes`), which needs no files.

    A folder that is none of these, and in which just one folder is, stands for that one.

    Raises:
        DataError: nothing is there, or it is none of these.
    """
    name = os.fspath(path)
    path = Path(name)
    if not os.path.exists(path):
        if name.split(":")[0] == SHAPES:
            return Source(name, "shapes", tuple(SPLITS), parse_shapes(name))
        raise DataError(f"{name} does not exist")
    if not path.is_dir():
        return _recognise_file(path)
    return _recognise_folder(path) or _below(path) or _guessed(path) or _unknown(path)


def _recognise_folder(folder: Path) -> Source | None:
    name = str(folder)
    descriptions = find_descriptions(folder)
    if len(descriptions) == 1:
        return _yolo(name, read_description(descriptions[0]))
    files = find_json(folder)
    if files is not None and files.certain:
        return _json(name, files, folder)
    if (voc := find_voc(folder)) is not None:
        return Source(name, "voc", voc.splits, partial(read_voc, voc))
    if descriptions:
        named = some((path.name for path in descriptions), 4)
        raise DataError(f"{folder} has several descriptions: {named}; give one of them")
    if (darknet := find_darknet(folder)) is not None:
        return _yolo(name, darknet)
    if (folders := find_imagefolder(folder)) is not None:
        splits = tuple(split for split in SPLITS if split in folders.files)
        return Source(name, "imagefolder", splits, partial(read_imagefolder, folders))
    if (labelme := find_labelme(folder)) is not None:
        return Source(name, "labelme", labelme.splits, partial(read_labelme, labelme))
    found = find_folders(folder)
    return _yolo(name, found) if found is not None else None


def _guessed(folder: Path) -> Source | None:
    """A JSON file that doesn't look like labels, where there is nothing else: reading it tells what is wrong."""
    files = find_json(folder)
    return _json(str(folder), files, folder) if files is not None else None


def _yolo(name: str, described: YoloSet) -> Source:
    return Source(name, "yolo", described.splits, partial(read_yolo, described))


def _json(name: str, files: JsonFiles, root: Path | None) -> Source:
    paths, splits = files.paths, tuple(split for split in SPLITS if split in files.paths)
    remarks = ()
    if files.passed_over:
        remarks = (f"JSON files that are read as no part: {some((path.name for path in files.passed_over), 4)}",)
    if files.is_list:
        every = tuple(paths.values())
        return Source(
            name,
            "json list",
            splits,
            lambda split: read_list(paths[split], root or folder_around(paths[split]), every),
            remarks,
        )
    return Source(name, "coco", splits, lambda split: read_coco(paths[split], root), remarks)


def _recognise_file(path: Path) -> Source:
    ending = path.suffix.lower()
    if ending == ".json":
        if is_labelme(path):
            raise DataError(f"{path} is labelme's JSON of one picture; give the folder, {path.parent}")
        sniffed = sniff(path)
        is_list = sniffed is not None and sniffed.is_list
        return _json(str(path), JsonFiles({None: path}, is_list, certain=True), None)
    if ending in (".yaml", ".yml"):
        return _yolo(str(path), read_description(path))
    if ending == ".data" and (darknet := find_darknet(path.parent)) is not None:
        return _yolo(str(path), darknet)
    raise DataError(f"{path} is neither a COCO .json nor a YOLO .yaml file; give one of these or a folder")


def _below(folder: Path) -> Source | None:
    """The only data set in a folder, a few levels down; raises DataError, and says where, if there are several."""
    found: list[Source] = []
    failed: list[DataError] = []
    for place in _folders_below(folder):
        if any(place.is_relative_to(other.path) for other in found):
            continue
        try:
            source = _recognise_folder(place)
        except DataError as error:
            failed.append(error)
            continue
        if source is not None:
            found.append(source)
    if len(found) > 1:
        raise DataError(
            f"{folder} holds several data sets: {some((one.path for one in found), 3, 120)}; give one of them"
        )
    if not found:
        if failed:
            raise failed[0]
        return None
    source = found[0]
    return Source(source.path, source.format, source.splits, source.read, (f"read from {source.path}", *source.remarks))


def _folders_below(folder: Path) -> Iterator[Path]:
    """Folders a few levels down, the upper ones first."""
    level, looked_at = [folder], 0
    for _ in range(LEVELS):
        level = [child for parent in level for child in folders_in(parent)]
        for child in level:
            looked_at += 1
            if looked_at > MOST_LOOKED_AT:
                return
            yield child


def _unknown(folder: Path) -> Source:
    try:
        entries = some(sorted(entry for entry in os.listdir(folder) if shows(entry)), 5) or "nothing"
    except OSError as error:
        raise DataError(f"can't look into {folder}: {error.strerror}; check its permissions") from error
    raise DataError(
        f"{folder} is no known data set: no annotations/*.json (COCO), data.yaml or labels/*.txt (YOLO) or "
        f"Annotations/*.xml (VOC) in it, but {entries}"
    )
