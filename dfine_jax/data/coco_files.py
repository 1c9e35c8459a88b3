"""Which JSON files of a folder hold the labels of which part."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from dfine_jax.data.folders import (
    PICTURE_FOLDERS,
    below,
    children,
    files_in,
    folders_in,
    has_pictures,
    split_folders,
    split_named,
)
from dfine_jax.data.json_lines import Sniffed, sniff
from dfine_jax.data.samples import SPLITS, DataError, Split
from dfine_jax.data.values import some

LABEL_FOLDERS = ("annotations", "annotation", "labels", "json")
"""What folders of labels alone are called, in small letters."""
FOLDERS = (*LABEL_FOLDERS, "coco")
"""What folders in which labels lie are called."""
LABEL_ENDINGS = (".json", ".jsonl", ".xml", ".csv", ".yaml", ".yml", ".txt")
USUAL = re.compile(r"(?:instances_)?(?P<split>[a-z]+)(?:\d{4})?", re.IGNORECASE)
BY_THE_WAY = frozenset(
    {"instances", "annotations", "annotation", "coco", "labels", "label", "bbox", "boxes", "det", "detection", "gt"}
    | {"createml", "default", "result", "results", "set", "data", "dataset", "json", "objects", ""}
)
"""Words in names of files that say nothing of what part it is."""
OF_OTHER_KINDS = re.compile(r"caption|keypoint|panoptic|stuff|image_info", re.IGNORECASE)
"""What else COCO has files of, beside those of boxes."""
TRIED = 8
"""Files of a folder whose content is looked at."""


def folder_around(file: Path) -> Path:
    """The folder of the data set that a file of labels belongs to: its own, or that around a folder of labels alone."""
    folder = file.parent
    return folder.parent if folder.name.lower() in LABEL_FOLDERS and not has_pictures(folder) else folder


def folders_beside(file: Path) -> list[Path]:
    """Folders beside that of a file of labels in which its pictures may be, but no other data set's.

    These are called like folders of pictures or like the file; or, where there is no picture in the file's own folder,
    hold no labels.
    """
    own, around = file.parent, file.parent.parent
    called = (*PICTURE_FOLDERS, *part_names(file))
    beside = [folder for folder in folders_in(around) if folder != own]
    telling = [folder for folder in beside if folder.name.lower() in called]
    if has_pictures(own):
        return telling
    plain = [folder for folder in beside if folder not in telling and not _has_labels(folder)]
    return [*telling, *plain, *([] if files_in(around, LABEL_ENDINGS) else [around])]


def part_names(file: Path) -> tuple[str, str]:
    """What the folder of the pictures of a file may be called, in small letters: `train2017`, `train`."""
    name = file.stem.lower().removeprefix("instances_").removeprefix("_annotations.coco")
    return name, name.rstrip("0123456789")


def part_of(file: Path) -> Split | None:
    """The split that a file is named after, or else its folder."""
    return _split(file, usual=True) or _split(file, usual=False) or split_named(file.parent.name)


def _has_labels(folder: Path) -> bool:
    readme = ("readme", "license", "licence")
    names = (entry.name.lower() for entry in below(folder, depth=2))
    return any(name.endswith(LABEL_ENDINGS) and not name.startswith(readme) for name in names)


class JsonFiles(NamedTuple):
    """The file of each split, or under None the only one there is."""

    paths: Mapping[Split | None, Path]
    is_list: bool
    """They are lists with an entry for each picture, not COCO's objects."""
    certain: bool
    """What is in them looks like labels."""
    passed_over: tuple[Path, ...] = ()
    """Other files of labels, whose names don't tell what part they are, or that of a part that has another."""


def find_json(folder: Path) -> JsonFiles | None:
    """The JSON files of a data set; None if there are none.

    Raises:
        DataError: there are several for one part.
    """
    together = [path for place in (*children(folder, FOLDERS), folder) for path in files_in(place, [".json"])]
    found: dict[Split | None, Path] = {}
    apart = split_folders(folder)
    for split in SPLITS:
        named = [path for path in together if _split(path, usual=True) == split]
        named = named or _labels_among(path for path in together if _split(path, usual=False) == split)
        if not named and split in apart:
            places = (*children(apart[split], FOLDERS), apart[split])
            named = _labels_among(path for place in places for path in files_in(place, [".json"]))
            if len(named) > 1:
                raise DataError(f"{folder} has several JSON files for {split}: {some(named, 3, 120)}; give one of them")
        if named:
            found[split] = named[-1]
    if not found and together:
        candidates = _labels_among(together)
        if len(candidates) > 1:
            raise DataError(f"{folder} has several JSON files: {some(candidates, 3, 120)}; give one of them")
        found = {None: candidates[0]} if candidates else {}
    if not found:
        return None
    others = [path for path in together if path not in found.values() and not OF_OTHER_KINDS.search(path.stem)]
    kinds = [sniff(path) for path in found.values()]
    return JsonFiles(
        found,
        is_list=any(kind is not None and kind.is_list for kind in kinds),
        certain=any(map(_is_labels, kinds)),
        passed_over=tuple(path for path in others[: TRIED * 4] if _is_labels(sniff(path))),
    )


def _split(path: Path, *, usual: bool) -> Split | None:
    """The split that a file is named after: `instances_train2017`; otherwise also `train_annotations.coco`."""
    if usual:
        match = USUAL.fullmatch(path.stem)
        return split_named(match["split"]) if match else None
    words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if word not in BY_THE_WAY]
    return split_named(words[0]) if len(words) == 1 else None


def _labels_among(paths: Iterable[Path]) -> list[Path]:
    """The files that hold labels of a whole part, by their beginning; the only file whatever it holds."""
    paths = list(paths)
    if len(paths) == 1:
        return paths
    return [path for path in paths[: TRIED * 4] if _is_labels(sniff(path))]


def _is_labels(sniffed: Sniffed | None) -> bool:
    if sniffed is None or sniffed.is_lines:
        return False
    if sniffed.is_list:
        return True
    return bool({"images", "annotations"} & sniffed.keys) and "shapes" not in sniffed.keys
