"""How YOLO data sets are described: by a `data.yaml`, by Darknet's `obj.data`, by a list of classes, or not at all."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dfine_jax.data import values
from dfine_jax.data.folders import (
    child,
    descend,
    files_in,
    folders_in,
    has_pictures,
    is_picture,
    picture_folder,
    pictures_below,
    split_folders,
    split_named,
)
from dfine_jax.data.references import PictureIndex, parts_of
from dfine_jax.data.samples import SPLITS, DataError, Findings, Split
from dfine_jax.data.texts import read_paths, read_text
from dfine_jax.data.values import shortened, shown, some
from dfine_jax.data.yolo_labels import LABEL_FOLDERS, LabelFiles, is_label_file
from dfine_jax.data.yolo_rows import Points
from dfine_jax.inference.pictures import SUFFIXES

MOST_BYTES = 4 * 2**20
"""Of a description; lists of pictures may be larger."""
DEEPEST = 50
"""Lists and mappings within each other that a description may have."""
NOTHING = ("", "~", "null", "none")
"""What YAML takes for no value, when all is read as text."""
NAME_FILES = re.compile(r"(obj|_darknet)?\.?(classes|class|names|labels)(\.txt)?|.*\.names", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*(\d{1,6})\s*:\s*(\S.*)")
"""A class's number before its name, as in YAML."""
SAMPLE = 50


@dataclass(frozen=True)
class YoloSet:
    """Where the parts of a data set are, and what its classes are called."""

    root: Path
    """The folder that places are relative to."""
    description: Path
    """The file that says all this, or the folder."""
    parts: Mapping[Split | None, Sequence[str]]
    """Folders and lists of pictures of each part, as written."""
    names: Mapping[int, str] | None
    """None: classes have numbers only."""
    points: Points | None = None
    remarks: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """Which of train, val and test there are; none if all is in one piece."""
        return tuple(split for split in SPLITS if split in self.parts)

    def place(self, part: str) -> Path:
        """The folder or list that one of the parts names; of another machine's path, the end is looked for here.

        Raises:
            DataError: it isn't there.
        """
        slashed = part.strip().replace("\\", "/")
        # Some tools write `../train/images` into a file that lies beside `train`.
        choices = [self.root / slashed, self.root / slashed.removeprefix("../")]
        if (found := next((choice for choice in choices if os.path.exists(choice)), None)) is not None:
            return found
        names = [name for name in parts_of(part) if "*" not in name]
        for first in range(len(names)):
            for base in (self.root, self.description.parent):
                if (found := descend(base, names[first:])) is not None:
                    return found
        where, named = shortened(str(choices[0]), 200), shortened(part, 100)
        raise DataError(f"{self.description} refers to {named}, which is not at {where}; correct the path")


def find_descriptions(folder: Path) -> list[Path]:
    """The YAML files that may describe a YOLO data set: `data.yaml`, or else those in the folder that have `names`."""
    files = files_in(folder, [".yaml", ".yml"])
    named = [path for path in files if path.stem.lower() == "data"]
    return named[:1] or [path for path in files if _has_names(path)]


def _has_names(path: Path) -> bool:
    try:
        return re.search(r"^\s*['\"]?names['\"]?\s*:", read_text(path, MOST_BYTES), re.MULTILINE) is not None
    except OSError:
        return False


def read_description(path: Path) -> YoloSet:
    """Reads a `data.yaml`; raises DataError if it isn't YAML or names no classes."""
    content = _load(path)
    remarks: list[str] = []
    names = _names(content, path, remarks)
    parts: dict[Split | None, Sequence[str]] = {}
    for split, keys in SPLITS.items():
        found = next((content[key] for key in keys if _stated(content.get(key))), None)
        if found is not None:
            places = found if isinstance(found, list) else [found]
            if not all(isinstance(place, str) for place in places):
                raise DataError(f"{path}: {split} is {shown(found)}; it must be a folder or a list of pictures")
            parts[split] = [place for place in places if _stated(place)]
    root = _root(path, content)
    if not parts:
        parts = find_parts(root)
    return YoloSet(root, path, parts, names, _points(content.get("kpt_shape"), path), tuple(remarks))


def _load(path: Path) -> Mapping[str, Any]:
    """The content of a YAML file, every scalar as it is written: yes, no, 010 and 1_000 are names."""
    try:
        text = read_text(path, MOST_BYTES)
        try:
            content = _composed(text, path)
        except yaml.YAMLError:
            if "\t" not in text:
                raise
            content = _composed(text.expandtabs(2), path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: not valid YAML: {error.problem or error.context}; mend the file") from error
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"can't read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} names no classes: it needs a line such as `names: [cat, dog]`")
    return {key.strip().lower(): value for key, value in _merged(content).items() if isinstance(key, str)}


def _composed(text: str, path: Path) -> Any:
    """What a YAML text says. Its nesting is counted first: PyYAML up to 6.0.3 ends the process at too much of it."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise DataError(f"{path}: nested too deeply for a description of a data set")
    return yaml.load(text, Loader=_LOADER)


def _merged(content: Mapping[Any, Any], depth: int = 3) -> Mapping[Any, Any]:
    """A mapping with the entries of those that YAML's `<<` merges into it."""
    if "<<" not in content or depth == 0:
        return content
    others = content["<<"] if isinstance(content["<<"], list) else [content["<<"]]
    merged: dict[Any, Any] = {}
    for other in reversed(others[:8]):
        merged.update(_merged(other, depth - 1) if isinstance(other, dict) else {})
    return {**merged, **{key: value for key, value in content.items() if key != "<<"}}


# BaseLoader makes no objects, and libyaml's reads large files quickly; no alias is ever copied.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def _stated(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and value.strip().lower() in NOTHING) and value != []


def _names(content: Mapping[str, Any], path: Path, remarks: list[str]) -> dict[int, str]:
    stated = content.get("names")
    count = content.get("nc")
    number = int(count) if isinstance(count, str) and re.fullmatch(r"\d{1,6}", count.strip()) else None
    if isinstance(stated, str) and _stated(stated):
        file = path.parent.joinpath(*parts_of(stated))
        stated = read_names(file) if os.path.isfile(file) else [part.strip() for part in stated.split(",")]
    if not _stated(stated) or not stated:
        if (file := find_names(path.parent)) is not None:
            return read_names(file)
        if number:
            remarks.append(f"{path} names no classes: they are called by their numbers")
            return {one: str(one) for one in range(number)}
        raise DataError(f"{path} names no classes: it needs a line such as `names: [cat, dog]`")
    named = _numbered(stated, path)
    if number is not None and number != len(named):
        remarks.append(f"{path} says nc: {number}, but names {len(named)} classes; the names are taken")
    return named


def _numbered(stated: Any, path: Path) -> dict[int, str]:
    """Names by class number, from a list, or from an object either way round."""
    if isinstance(stated, dict) and stated:
        pairs = list(_merged(stated).items())
        if not _are_numbers(key for key, _ in pairs) and _are_numbers(value for _, value in pairs):
            pairs = [(number, name) for name, number in pairs]
    elif isinstance(stated, list):
        single = [next(iter(one.items())) if isinstance(one, dict) and len(one) == 1 else None for one in stated]
        pairs = single if all(single) and _are_numbers(pair[0] for pair in single) else list(enumerate(stated))
    else:
        raise DataError(f"{path}: `names` is {shown(stated)}; it must be a list such as [cat, dog]")
    if not _are_numbers(key for key, _ in pairs):
        raise DataError(f"{path}: the keys of `names` must be class numbers, not {some((key for key, _ in pairs), 3)}")
    named: dict[int, str] = {}
    for key, value in sorted((int(key), value) for key, value in pairs if not isinstance(value, list | dict)):
        named[key] = value.strip() or str(key)
    if len(named) != len(pairs):
        wrong = next((value for _, value in pairs if isinstance(value, list | dict)), "a number twice")
        raise DataError(f"{path}: `names` has {shown(wrong)} where one name belongs")
    return named


def _are_numbers(texts: Any) -> bool:
    return all(
        isinstance(text, int) or (isinstance(text, str) and re.fullmatch(r"\s*\d{1,9}\s*", text)) for text in texts
    )


def _points(shape: Any, path: Path) -> Points | None:
    """How many key points a pose has, from `kpt_shape: [17, 3]`."""
    if not _stated(shape):
        return None
    sides = re.findall(r"\d{1,4}", shape) if isinstance(shape, str) else shape
    if not isinstance(sides, list) or len(sides) != 2 or not _are_numbers(sides) or int(sides[1]) not in (2, 3):
        raise DataError(f"{path}: kpt_shape is {shown(shape)}; it must be a number of points, and 2 or 3 numbers each")
    return Points(int(sides[0]), int(sides[1]))


def _root(description: Path, content: Mapping[str, Any]) -> Path:
    """What the splits are relative to: `path` if that is a folder here, else where the description lies."""
    stated = content.get("path")
    if isinstance(stated, str) and _stated(stated):
        for root in (Path(stated), description.parent / stated.replace("\\", "/")):
            if root.is_absolute() and os.path.isdir(root):
                return root
            if not root.is_absolute() and os.path.isdir(description.parent / root):
                return description.parent / root
    return description.parent


def find_darknet(folder: Path) -> YoloSet | None:
    """The data set that Darknet's `obj.data` describes, if there is one."""
    for file in files_in(folder, [".data"]):
        try:
            text = read_text(file, MOST_BYTES)
        except OSError:
            continue
        pairs = (row.partition("=") for row in text.splitlines())
        content = {key.strip().lower(): value.strip() for key, _, value in pairs}
        parts = {split: [content[key]] for split, keys in SPLITS.items() for key in keys if _stated(content.get(key))}
        names = content.get("names")
        if parts:
            name_file = folder / parts_of(names)[-1] if names and parts_of(names) else None
            name_file = name_file if name_file is not None and os.path.isfile(name_file) else find_names(folder)
            described = YoloSet(folder, file, parts, None if name_file is None else read_names(name_file))
            try:
                described.place(next(iter(parts.values()))[0])
            except DataError:  # pictures may be there without the list
                return replace(described, parts=find_parts(folder) or parts)
            return described
    return None


def find_folders(folder: Path) -> YoloSet | None:
    """A data set without a description: pictures in folders or lists, some of which have label files."""
    parts = find_parts(folder)
    labels = LabelFiles(PictureIndex(folder))
    for places in parts.values():
        for place in places:
            start = folder / place
            pictures = pictures_below(start)[:SAMPLE] if start.is_dir() else _some_listed(start, folder)
            if any(file is not None and is_label_file(file) for file in labels.of(pictures, Findings())):
                file = find_names(folder, *(folder / part for part in itertools.chain(*parts.values())))
                return YoloSet(folder, folder, parts, None if file is None else read_names(file))
    return None


def _some_listed(file: Path, folder: Path) -> list[Path]:
    index = PictureIndex(folder)
    named = {path.name: path for path in index.pictures}
    listed = (parts_of(row)[-1:] for _, row in read_paths(file)[:SAMPLE])
    return [named[name[0]] for name in listed if name and name[0] in named]


def find_parts(folder: Path) -> dict[Split | None, list[str]]:
    """The lists or folders of pictures in a folder; under None the only one there is."""
    lists = {split: path for path in files_in(folder, [".txt"]) if (split := split_named(path.stem)) and _is_list(path)}
    if lists:
        return {split: [lists[split].name] for split in SPLITS if split in lists}
    darknet = {
        split: path
        for path in folders_in(folder)
        if (match := re.fullmatch(r"obj_(\w+?)_data", path.name, re.IGNORECASE)) and (split := split_named(match[1]))
    }
    pictures = picture_folder(folder)
    inside = split_folders(pictures) if pictures is not None else {}
    for folders in (darknet, inside, split_folders(folder)):
        filled = {split: path for split, path in folders.items() if has_pictures(path)}
        if filled:
            return {split: [str(filled[split].relative_to(folder))] for split in SPLITS if split in filled}
    if pictures is not None and has_pictures(pictures):
        return {None: [pictures.name]}
    if files_in(folder, SUFFIXES):
        return {None: ["."]}
    return {}


def _is_list(path: Path) -> bool:
    try:
        rows = read_paths(path)[:1]
    except OSError:
        return False
    return bool(rows) and is_picture(rows[0][1])


def find_names(*folders: Path) -> Path | None:
    """The file that lists the names of classes in one of some folders, or in a folder of labels in these."""
    places = [place for folder in folders for place in (folder, child(folder, *LABEL_FOLDERS)) if place is not None]
    for place in places:
        for path in files_in(place, [".txt", ".names", ".labels"]):
            if NAME_FILES.fullmatch(path.name) and not is_label_file(path):
                return path
    return None


def read_names(file: Path) -> dict[int, str]:
    """The names of classes from a file with one a row; raises DataError if it can't be read."""
    try:
        rows = read_text(file, MOST_BYTES).rstrip().splitlines()
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror or error}") from error
    named = {}
    numbered = [_NUMBERED.fullmatch(row) for row in rows if row.strip()]
    if numbered and all(numbered) and len({int(match[1]) for match in numbered}) == len(numbered):
        return {int(match[1]): values.name(match[2]) for match in numbered}
    for number, row in enumerate(rows):
        named[number] = values.name(row) if row.strip() else str(number)
    if not named:
        raise DataError(f"{file} names no classes: it needs one a row")
    return named
