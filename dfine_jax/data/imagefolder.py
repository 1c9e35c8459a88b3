"""Image folders: `metadata.jsonl` or `metadata.csv` beside the pictures, in one folder or in one for each split."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dfine_jax.data.checks import Stated, StatedPicture
from dfine_jax.data.folders import files_in, split_folders, split_named
from dfine_jax.data.json_lines import lenient_number, read_entries, sniff
from dfine_jax.data.objects import categories_of, entries_of, read_boxes
from dfine_jax.data.references import PictureIndex, Reference, parts_of, remark_on_names
from dfine_jax.data.samples import SPLITS, DataError, Findings, Split
from dfine_jax.data.texts import read_text, rows
from dfine_jax.data.values import size, some
from dfine_jax.data.yolo_sets import find_names, read_names

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.json")


class Folders(NamedTuple):
    """The file of each split, or under None the only one there is."""

    root: Path
    files: Mapping[Split | None, Path]
    split_by_name: bool = False
    """All splits are in one file, in which the names begin with them."""


def find_imagefolder(folder: Path) -> Folders | None:
    """Where the parts of an image folder are, or None if the folder is none."""
    apart = {split: file for split, path in split_folders(folder).items() if (file := _metadata(path)) is not None}
    if apart:
        return Folders(folder, apart)
    if (file := _metadata(folder)) is None:
        return None
    splits = {_split_of(entry) for _, entry in _rows(file, Findings())} if split_folders(folder) else {None}
    by_split = {None: file} if None in splits else {split: file for split in SPLITS if split in splits}
    return Folders(folder, by_split, split_by_name=None not in splits)


def _metadata(folder: Path) -> Path | None:
    return next((path for path in files_in(folder, NAMES) if path.name.lower() in NAMES), None)


def _split_of(entry: Any) -> Split | None:
    name = next((name for _, name, _ in entries_of([(0, entry)], Path(), Findings())), "")
    parts = parts_of(name)
    return split_named(parts[0]) if len(parts) > 1 else None


def read_imagefolder(folders: Folders, split: Split | None) -> Stated:
    """Reads one part of an image folder; ``DataError`` where a file can't be read.

    A row has the picture's `file_name` and `objects`: `bbox` (left, top, width, height in pixels) and `categories`,
    which are names or numbers, each a list; or a list of objects that have one of each. Or there is a row for each box,
    with its class and corners.
    """
    findings, own, listed, used, keys = Findings(), folders.files[split], [], set(), ""
    for file in dict.fromkeys(folders.files.values()):
        found = findings if file == own else Findings()
        for line, name, entry in entries_of(_rows(file, found), file, found):
            boxes = read_boxes(entry, file, line, found)
            used |= {box.category for box in boxes}
            keys = keys or some(entry, 8, 30)
            if file == own and (not folders.split_by_name or _split_of(entry) == split):
                listed.append((line, name, boxes, size(entry.get("width"), entry.get("height"))))
    if listed and not used:
        findings.remark(f"{own} has no boxes: its rows have {keys or 'nothing'}")
    located = PictureIndex(folders.root).locate([Reference((name,), own.parent) for _, name, _, _ in listed])
    remark_on_names(findings, located)
    pictures = [
        StatedPicture(place.path, count, own, line, boxes, size=stated, rivals=place.rivals)
        for count, ((line, _, boxes, stated), place) in enumerate(zip(listed, located, strict=True), start=1)
    ]
    names = find_names(folders.root, own.parent)
    return Stated(categories_of(used, None if names is None else read_names(names), findings), pictures, findings)


def _rows(file: Path, findings: Findings) -> Iterator[tuple[int, Any]]:
    """The rows of a file, with their lines; what is no JSON becomes problems."""
    try:
        if file.suffix.lower() == ".csv":
            csv.field_size_limit(sys.maxsize)
            yield from enumerate(csv.DictReader(io.StringIO(read_text(file))), start=2)
        elif file.suffix.lower() == ".json" and (sniffed := sniff(file)) is not None and sniffed.is_list:
            yield from ((entry.line, entry.value) for entry in read_entries(file))
        else:
            for line, row in rows(file):
                try:
                    yield line, json.loads(row, parse_int=lenient_number)
                except (ValueError, RecursionError) as error:
                    reason = getattr(error, "msg", None) or "nested too deeply"
                    findings.broken(file, line, f"{reason}: not valid JSON; left out")
    except (OSError, csv.Error) as error:
        raise DataError(f"can't read {file}: {getattr(error, 'strerror', None) or error}") from error
