"""YOLO folders: a `data.yaml`, pictures, and beside them one text file of labels a picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dfine_jax.data.checks import Category, StatedBox, StatedPicture, usable
from dfine_jax.data.samples import PICTURE_ENDINGS, SPLITS, DataError, Dataset, Problem, ProblemKind, Split


def find_description(folder: Path) -> Path | None:
    """The YAML file that describes a YOLO data set: `data.yaml`, or the only one in the folder that has `names`."""
    if (folder / "data.yaml").is_file():
        return folder / "data.yaml"
    candidates = [path for path in sorted(folder.glob("*.y*ml")) if "names:" in path.read_text(errors="replace")]
    return candidates[0] if len(candidates) == 1 else None


def yolo_splits(description: Path) -> tuple[Split, ...]:
    """Which of train, val and test the description names."""
    content = read_description(description)
    return tuple(split for split, keys in SPLITS.items() if any(content.get(key) for key in keys))


def read_description(path: Path) -> Mapping[str, Any]:
    """The content of a `data.yaml`; raises DataError if it isn't YAML or isn't a mapping with names."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: not valid YAML: {error.problem or error.context}; mend the file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"can't read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict) or not content["names"]:
        raise DataError(f"{path} names no classes: it needs a line such as `names: [cat, dog]`")
    return content


def read_yolo(description: Path, split: Split) -> Dataset:
    """Reads one split of a YOLO data set.

    A split is a folder (searched with all folders in it), a text file listing pictures, or a list of these; `path`, if
    there, is what they are relative to. The labels of `.../images/a/b.jpg` are in `.../labels/a/b.txt`, those of a
    picture that is in no folder called images beside it. No such file means no boxes. A row is a class and a box
    (centre, width, height as fractions) or a class and an outline, of which the enclosing box is taken.

    Raises:
        DataError: the description or the split isn't there, or no picture can be used.
    """
    content = read_description(description)
    value = next((content[key] for key in SPLITS[split] if content.get(key)), None)
    if value is None:
        there = ", ".join(yolo_splits(description)) or "none"
        raise DataError(f"{description} has no {split} split (it has: {there})")
    root = _root(description, content)
    listed = [
        place
        for part in (value if isinstance(value, list) else [value])
        for place in _listed(str(part), root, description)
    ]
    problems: list[Problem] = []
    pictures = [_picture(place, number, problems) for number, place in enumerate(listed, start=1)]
    usable_pictures = [picture for picture in pictures if picture is not None]
    return usable(_categories(content["names"], description), usable_pictures, problems, source=description)


def _categories(names: Sequence[str] | Mapping[int, str], description: Path) -> list[Category]:
    try:
        numbered = sorted(
            (int(key), str(name)) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))
        )
    except ValueError as error:
        raise DataError(f"{description}: the keys of `names` must be class numbers: {error}") from error
    return [Category(number, number, name) for number, name in numbered]


def _root(description: Path, content: Mapping[str, Any]) -> Path:
    """What the splits are relative to: `path` if that is a folder here, else where the description lies."""
    stated = content.get("path")
    if stated:
        for root in (Path(str(stated)), description.parent / str(stated)):
            if root.is_absolute() and root.is_dir():
                return root
            if not root.is_absolute() and (description.parent / root).is_dir():
                return description.parent / root
    return description.parent


class _Place(NamedTuple):
    path: Path
    file: Path
    line: int | None


def _listed(part: str, root: Path, description: Path) -> Iterator[_Place]:
    """The pictures of one entry of a split, with where each is listed."""
    # Some tools write `../train/images` into a file that lies beside `train`.
    choices = [root / part, root / part.removeprefix("../")]
    found = next((choice for choice in choices if choice.exists()), None)
    if found is None:
        raise DataError(f"{description} refers to {part}, which is not at {choices[0]}; correct the path")
    if found.is_dir():
        for path in sorted(found.rglob("*")):
            if path.suffix.lower() in PICTURE_ENDINGS:
                yield _Place(path, path, None)
        return
    for number, row in enumerate(found.read_text().splitlines(), start=1):
        if row.strip():
            path = Path(row.strip())
            beside, below = found.parent / path, root / path
            yield _Place(beside if beside.is_file() or row.startswith("./") else below, found, number)


def label_file(picture: Path) -> Path:
    """Where the labels of a picture are."""
    parts = list(picture.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _picture(place: _Place, number: int, problems: list[Problem]) -> StatedPicture | None:
    file = label_file(place.path)
    try:
        rows = file.read_text().splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        message = f"{' '.join(str(error).split())}; {place.path.name} is left out"
        problems.append(Problem(ProblemKind.BROKEN_LABEL, file, None, message))
        return None
    boxes = []
    for line, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        box = _box(row, file, line)
        if box is None:
            message = (
                f"{row.strip()[:60]!r} is not `class x y width height` nor `class x1 y1 x2 y2 x3 y3 ...`; left out"
            )
            problems.append(Problem(ProblemKind.BROKEN_LABEL, file, line, message))
        else:
            boxes.append(box)
    return StatedPicture(place.path, number, place.file, place.line, boxes, fractions=True)


def _box(row: str, file: Path, line: int) -> StatedBox | None:
    try:
        values = [float(value) for value in row.split()]
    except ValueError:
        return None
    if not all(math.isfinite(value) for value in values) or len(values) < 5 or values[0] != int(values[0]):
        return None
    category, numbers = int(values[0]), values[1:]
    if len(numbers) == 4:
        x, y, width, height = numbers
        return StatedBox((x - width / 2, y - height / 2, x + width / 2, y + height / 2), category, line, file)
    if len(numbers) < 6 or len(numbers) % 2:
        return None
    xs, ys = numbers[0::2], numbers[1::2]
    return StatedBox((min(xs), min(ys), max(xs), max(ys)), category, line, file)
