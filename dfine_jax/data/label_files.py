"""Where data sets with one label file a picture have their parts: VOC's XML, labelme's JSON."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dfine_jax.data.folders import (
    below,
    child,
    children,
    files_in,
    folders_in,
    is_picture,
    picture_folder,
    split_folders,
    split_named,
)
from dfine_jax.data.references import Located, Reference, fold, grouped, nearest, parts_of, stem_of
from dfine_jax.data.samples import SPLITS, DataError, Findings, Split
from dfine_jax.data.texts import read_paths
from dfine_jax.inference.pictures import SUFFIXES

FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels", "json", "jsons", "label")
"""What folders of label files are called, in small letters."""
TRAINVAL = "trainval"
TRIED = 8
"""Files looked at to tell what a folder's label files are."""


class Piece(NamedTuple):
    """Some label files and their pictures."""

    labels: Path
    """A folder, searched with all in it, or without if the pictures are there too."""
    pictures: Path
    listed: Path | None = None
    """The list of those that count; all if there is none."""
    without: tuple[Path, ...] = ()
    """Lists of those that don't."""


class Layout(NamedTuple):
    """The parts of a data set, each in one piece or several."""

    root: Path
    ending: str
    parts: Mapping[Split | None, Sequence[Piece]]

    @property
    def splits(self) -> tuple[Split, ...]:
        """Which of train, val and test there are; none if everything is in one."""
        return tuple(split for split in SPLITS if split in self.parts)


class Place(NamedTuple):
    """A label file, and where it is listed."""

    labels: Path
    file: Path
    line: int | None


def find_layout(folder: Path, ending: str, accept: Callable[[Path], bool]) -> Layout | None:
    """The layout of a data set, or None if the folder is none; `accept` tells a label file by its content."""

    def has_some(place: Path) -> bool:
        return any(accept(path) for path in files_in(place, [ending])[:TRIED])

    parts = _with_folder_of_labels(folder, has_some) or _with_split_folders(folder, has_some)
    if not parts and has_some(folder):
        parts = {None: [Piece(folder, folder)]}
    if not parts:
        years: dict[Split | None, list[Piece]] = {}
        for year in _years(folder):
            for split, pieces in _with_folder_of_labels(year, has_some).items():
                years.setdefault(split, []).extend(pieces)
        parts = {split: pieces for split, pieces in years.items() if split is not None or len(years) == 1}
    return Layout(folder, ending, parts) if parts else None


def _with_folder_of_labels(folder: Path, has_some: Callable[[Path], bool]) -> dict[Split | None, list[Piece]]:
    """`Annotations` with `JPEGImages`, or what they are called, with lists or folders for the splits."""
    for labels in children(folder, FOLDERS):
        inside = {split: path for split, path in split_folders(labels).items() if has_some(path)}
        if not inside and not has_some(labels) and not any(map(has_some, folders_in(labels)[:TRIED])):
            continue
        pictures = picture_folder(folder) or folder
        if lists := _lists(folder, labels):
            return {split: [Piece(labels, pictures, *lists[split])] for split in SPLITS if split in lists}
        beside = split_folders(pictures)
        if inside:
            return {split: [Piece(path, beside.get(split, pictures))] for split, path in inside.items()}
        return {None: [Piece(labels, pictures)]}
    return {}


def _with_split_folders(folder: Path, has_some: Callable[[Path], bool]) -> dict[Split | None, list[Piece]]:
    """A folder for each split, which holds pictures and label files, or a folder of each."""
    parts: dict[Split | None, list[Piece]] = {}
    for split, path in split_folders(folder).items():
        labels = next((place for place in children(path, FOLDERS) if has_some(place)), None)
        if has_some(path):
            parts[split] = [Piece(path, path)]
        elif labels is not None:
            parts[split] = [Piece(labels, picture_folder(path) or path)]
    return parts


def _years(folder: Path) -> Iterator[Path]:
    """`VOC2007` and the like, also in a `VOCdevkit`, and in one in each of several folders."""
    devkits = [folder, *(kit for place in (folder, *folders_in(folder)) if (kit := child(place, "vocdevkit")))]
    for devkit in dict.fromkeys(devkits):
        yield from (path for path in folders_in(devkit) if re.fullmatch(r"VOC\d{4}.*", path.name, re.IGNORECASE))


def _lists(folder: Path, labels: Path) -> dict[Split, tuple[Path, tuple[Path, ...]]]:
    """The list of each split and those to take out of it: without one for training it is trainval less val."""
    sets = child(folder, "imagesets")
    places = [place for place in (sets and child(sets, "main"), sets, folder, labels) if place is not None]
    lists: dict[Split, tuple[Path, tuple[Path, ...]]] = {}
    both = None
    for path in (path for place in places for path in files_in(place, [".txt"])):
        if (split := split_named(path.stem)) is not None:
            lists.setdefault(split, (path, ()))
        elif path.stem.lower() == TRAINVAL:
            both = both or path
    if both is not None and "train" not in lists:
        lists["train"] = (both, tuple(lists[split][0] for split in ("val", "test") if split in lists))
    return lists


def files_of(piece: Piece, ending: str) -> list[Path]:
    """All label files of a piece, whether they are listed or not."""
    if piece.labels == piece.pictures:
        return files_in(piece.labels, [ending])
    return sorted(Path(entry.path) for entry in below(piece.labels) if entry.name.lower().endswith(ending))


def listed_files(piece: Piece, ending: str, files: Sequence[Path]) -> list[Place]:
    """The label files of a piece that count, with where each is listed; `files` are all it has.

    Raises:
        DataError: a list can't be read.
    """
    if piece.listed is None:
        return [Place(path, path, None) for path in files]
    by_stem = grouped(files, lambda path: fold(_own(path)))
    left_out = {path for other in piece.without for path, _ in _rows(other, by_stem, piece, ending)}
    return [
        Place(path, piece.listed, line)
        for path, line in _rows(piece.listed, by_stem, piece, ending)
        if path not in left_out
    ]


def _rows(file: Path, by_stem: Mapping[str, Sequence[Path]], piece: Piece, ending: str) -> Iterator[tuple[Path, int]]:
    """The label file that each row of a list means: a name, maybe with an ending, a folder, and a column after it."""
    try:
        rows = read_paths(file)
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror or error}") from error
    for line, row in rows:
        words = row.split()
        meant = (row, " ".join(words[:-1]), words[0], words[-1])
        paths = [parts for text in meant if text and (parts := parts_of(text))]
        stems = [(fold(stem_of(parts[-1].removesuffix(ending))), parts) for parts in paths]
        found = next((nearest(by_stem[stem], parts)[0] for stem, parts in stems if stem in by_stem), None)
        yield found or piece.labels / (stem_of((parts_of(words[0]) or words)[-1]).replace("\0", "") + ending), line


def picture_names(folder: Path) -> dict[str, str]:
    """The names of the pictures in a folder by their stems."""
    return {path.stem: path.name for path in reversed(files_in(folder, [""])) if is_picture(path.name)}


def references(read: Sequence[tuple[Piece, Path, str]]) -> list[Reference]:
    """What label files say of their pictures, each with the name of a picture in it, if any.

    That name counts, or the file's own less its ending, both below the folders that the file is in below that of the
    labels. The own name counts more where the other was copied: it belongs to another file, or is in several.
    """
    pictures_in, is_folder = cache(picture_names), cache(os.path.isdir)
    stems = {(labels.parent, fold(_own(labels))) for _, labels, _ in read}
    times = Counter((labels.parent, _stem_in(stated)) for _, labels, stated in read)
    found = []
    for piece, labels, stated in read:
        own, named, inside = _own(labels), _stem_in(stated), labels.parent.relative_to(piece.labels)
        picture = pictures_in(piece.pictures / inside).get(own)
        copied = named != fold(own) and ((labels.parent, named) in stems or times[labels.parent, named] > 1)
        names = [picture, stated, own] if copied else [stated, picture, own]
        below = [str(inside / name) for name in names if name and inside.parts and is_folder(piece.pictures / inside)]
        found.append(Reference(tuple(dict.fromkeys([*below, *filter(None, names)])), piece.pictures))
    return found


def _own(labels: Path) -> str:
    return labels.name.removesuffix(labels.suffix)


def _stem_in(stated: str) -> str:
    return fold(stem_of((parts_of(stated) or [""])[-1]))


def remark_on_unlabelled(findings: Findings, pieces: Sequence[Piece], located: Sequence[Located]) -> None:
    """Says how many pictures have no label file, where no list says which count: they are no part of the data set."""
    taken = {place.path for place in located}
    folders = {piece.pictures for piece in pieces if piece.listed is None} | {
        path.parent for path in taken if any(piece.listed is None for piece in pieces)
    }
    others = [path for folder in sorted(folders) for path in files_in(folder, SUFFIXES) if path not in taken]
    if others:
        findings.remark(f"pictures without a label file, which are left out: {len(others):,}, such as {others[0]}")
