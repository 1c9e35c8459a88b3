"""Looking into folders: what systems and tools leave there is passed over, and links that lead in circles end."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dfine_jax.data.samples import SPLITS, Split
from dfine_jax.inference.pictures import SUFFIXES

PICTURE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
"""What folders of pictures are called, in small letters."""
MOST_FILES = 1_000_000
"""Files looked at below one folder when something is searched by its name alone."""
_DEBRIS = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})


def shows(name: str) -> bool:
    """Whether an entry is a user's own: neither hidden (`._a.jpg`, `.DS_Store`) nor one that systems leave behind."""
    return not name.startswith(".") and name.lower() not in _DEBRIS


def is_picture(name: str) -> bool:
    """Whether a file is called like a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def files_in(folder: Path, endings: Iterable[str]) -> list[Path]:
    """The files of one folder with one of some endings (in small letters), sorted; none if there is no folder."""
    endings = tuple(endings)
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.name.lower().endswith(endings))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return sorted(Path(entry.path) for entry in _entries(folder) if _is_folder(entry))


def children(folder: Path, names: Sequence[str]) -> list[Path]:
    """The folders in a folder that are called like some names (in small letters), in the order of these."""
    there = {path.name.lower(): path for path in reversed(folders_in(folder))}
    return [there[name] for name in names if name in there]


def child(folder: Path, *names: str) -> Path | None:
    """The first of `children`; None if there is none."""
    return next(iter(children(folder, names)), None)


def descend(folder: Path, parts: Sequence[str]) -> Path | None:
    """What is at some path in a folder, whatever the case of its names; None if nothing is there."""
    if os.path.exists(folder.joinpath(*parts)):
        return folder.joinpath(*parts)
    for part in parts:
        named = [entry for entry in _entries(folder) if entry.name.lower() == part.lower()]
        if len(named) != 1:
            return None
        folder = Path(named[0].path)
    return folder


def below(folder: Path, *, depth: int = 32) -> Iterator[os.DirEntry]:
    """All files below a folder, at most `MOST_FILES`; linked folders are followed, but none is entered twice."""
    entered: set[tuple[int, int]] = set()
    waiting, left = [(folder, 0)], MOST_FILES
    while waiting:
        here, level = waiting.pop()
        try:
            state = os.stat(here)
        except OSError:
            continue
        if (state.st_dev, state.st_ino) in entered:
            continue
        entered.add((state.st_dev, state.st_ino))
        for entry in _entries(here):
            left -= 1
            if left < 0:
                return
            if not _is_folder(entry):
                yield entry
            elif level < depth:
                waiting.append((Path(entry.path), level + 1))


def pictures_below(folder: Path) -> list[Path]:
    """The files below a folder that are called like pictures, sorted."""
    return sorted(Path(entry.path) for entry in below(folder) if is_picture(entry.name))


def has_pictures(folder: Path) -> bool:
    """Whether any file below a folder is called like a picture."""
    return any(is_picture(entry.name) for entry in below(folder))


def picture_folder(folder: Path) -> Path | None:
    """The folder in a folder that is called like one of pictures; of several the first that has any."""
    called = children(folder, PICTURE_FOLDERS)
    return next((path for path in called if len(called) > 1 and has_pictures(path)), called[0] if called else None)


def split_named(name: str) -> Split | None:
    """The split that a folder or file without its ending is called like, whatever its case."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_around(path: Path) -> Split | None:
    """The split that the innermost folder around a file is called like, also `val2017` and `obj_train_data`."""
    names = (re.sub(r"^obj_|_data$|[-_ ]?\d+$", "", name) for name in reversed(path.parts[:-1]))
    return next((split for name in names if (split := split_named(name)) is not None), None)


def split_folders(folder: Path) -> dict[Split, Path]:
    """The folders in a folder that are called like a split."""
    found = {split: path for path in reversed(folders_in(folder)) if (split := split_named(path.name))}
    return {split: found[split] for split in SPLITS if split in found}


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if shows(entry.name)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
