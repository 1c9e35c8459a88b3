"""From what labels call a picture to its file: paths of other machines and systems, addresses, escapes, prefixes."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from dfine_jax.data.folders import below, is_picture, split_around, split_named
from dfine_jax.data.samples import EmptyPartError, Findings
from dfine_jax.data.values import shortened

T = TypeVar("T")
_UPLOAD = re.compile(r"[0-9a-f]{6,8}-|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[-_]", re.ASCII)
"""What labelling servers put before the names of uploaded files."""

MANY, TRIED = 100_000, 5_000
"""Of more pictures than that, about so many are looked for before all are."""


class Reference(NamedTuple):
    """What labels say of where a picture is."""

    names: tuple[str, ...]
    """Paths as written, the best first, relative to `folder` if they aren't absolute."""
    folder: Path


class Located(NamedTuple):
    """Where a picture is."""

    path: Path
    """Where it should be, if it isn't anywhere."""
    by_name: bool = False
    """It is not where it is said to be, and was found by its name."""
    rivals: tuple[Path, ...] = ()
    """The files it could be, where there are several and nothing tells which."""


def parts_of(written: str) -> list[str]:
    r"""The folders and the name in a path of any system or in an address; `\` is `/`, and `.` and `..` are resolved.

    An address's query is left out, unless it holds the path (`?d=a/b.png`). What `..` leads out of is left out, too.
    """
    text = written.strip()
    if "://" in text or "?d=" in text:
        address = urlsplit(text) if _splits(text) else None
        queried = parse_qs(address.query).get("d") if address else None
        text = queried[0] if queried else unquote(address.path) if address else text
    parts: list[str] = []
    for part in re.sub(r"^[A-Za-z]:(?=[\\/])", "", text).replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _splits(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:  # such as a broken IPv6 address
        return False
    return True


def fold(name: str) -> str:
    """What is the same in the names of one file on different systems: case, how accents are stored, %-escapes."""
    if name.isascii() and "%" not in name:
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", unquote(name)).casefold())


def stem_of(name: str) -> str:
    """A picture's name without its ending; other endings are part of the name."""
    return os.path.splitext(name)[0] if is_picture(name) else name


def common_folders(path: Sequence[str], other: Sequence[str]) -> int:
    """How many folders two paths share, counted from their ends; `train` and `training` are the same."""
    count = 0
    for one, two in zip(reversed(path[:-1]), reversed(other[:-1]), strict=False):
        split = split_named(one)
        if fold(one) != fold(two) and (split is None or split != split_named(two)):
            break
        count += 1
    return count


def nearest(paths: Sequence[Path], wanted: Sequence[str]) -> list[Path]:
    """Those of some files whose folders are most like those of a path."""
    if len(paths) < 2:
        return list(paths)
    counts = [common_folders(wanted, path.parts) for path in paths]
    return [path for path, count in zip(paths, counts, strict=True) if count == max(counts)]


class PictureIndex:
    """Finds the pictures of a data set; what lies below its folder is listed once, and only if need be."""

    def __init__(self, root: Path, allowed: Sequence[Path] = ()):
        """`root` is the folder of the data set: `..` leads nowhere else, but for folders that are `allowed`."""
        self.root = root
        self._allowed = [os.path.realpath(folder) for folder in (root, *allowed)]

    def locate(self, references: Sequence[Reference]) -> list[Located]:
        """The file of each picture: where it is said to be, else the one that is called so.

        A file that one reference leads to is not taken for another that is only alike, nor one of another split.

        Raises:
            EmptyPartError: there are very many, and nothing is where they lead.
        """
        self.require_some(references, lambda reference: reference)
        exact = [self._exact(reference) for reference in references]
        if all(path is not None for path in exact):
            return [Located(path) for path in exact]
        taken = {path for path in exact if path is not None}
        return [
            Located(path) if path is not None else self._alike(reference, taken)
            for path, reference in zip(exact, references, strict=True)
        ]

    def require_some(self, listed: Sequence[T], reference: Callable[[T], Reference]) -> None:
        """Looks for some of very many pictures before it is done for all, which takes minutes.

        Raises:
            EmptyPartError: as `locate` does.
        """
        if len(listed) <= MANY:
            return
        some = [reference(one) for one in listed[:: len(listed) // TRIED]]
        places = [self._exact(one) or self._alike(one, set()) for one in some]
        if not any(isinstance(place, Path) or place.by_name or place.rivals for place in places):
            raise EmptyPartError(
                f"{self.root} lists {len(listed):,} pictures, and none of {len(some):,} looked for is there, such "
                f"as {shortened(str(places[0].path), 200)}; correct their paths or copy the pictures to them"
            )

    def holds(self, folder: Path, name: str) -> bool:
        """Whether a picture is where its name says, relative to a folder."""
        return self._exact(Reference((name,), folder)) is not None

    def _exact(self, reference: Reference) -> Path | None:
        for name in reference.names:
            if "\0" in name:
                continue
            written = Path(name)
            outside = ".." in written.parts and not written.is_absolute()
            path = reference.folder / written
            if (not outside or self._within(path)) and os.path.isfile(path):
                return Path(os.path.normpath(path)) if outside else path
            if "\\" in name and os.path.isfile(path := reference.folder.joinpath(*parts_of(name))):
                return path
        return None

    def _within(self, path: Path) -> bool:
        try:
            real = os.path.realpath(path)
        except (OSError, ValueError):
            return False
        return any(real.startswith(os.path.join(folder, "")) for folder in self._allowed)

    def _alike(self, reference: Reference, taken: set[Path]) -> Located:
        for name in reference.names:
            parts = parts_of(name)
            if not parts:
                continue
            for found in filter(None, self._candidates(parts[-1])):
                wanted = [*reference.folder.parts, *parts]
                free = [path for path in found if path not in taken and self.same_part(path, reference.folder)]
                free = nearest(free, wanted)
                inside = [path for path in free if path.is_relative_to(reference.folder)]
                free = inside if len(inside) == 1 else free
                if len(free) == 1:
                    return Located(free[0], by_name=True)
                if free:
                    return Located(self._nowhere(reference), rivals=tuple(free))
        return Located(self._nowhere(reference))

    def same_part(self, path: Path, folder: Path) -> bool:
        """Whether a file isn't in the folder of another split than a folder is."""
        own, other = (split_around(self._inside(place)) for place in (folder / path.name, path))
        return None in (own, other) or own == other

    def _inside(self, path: Path) -> Path:
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def _nowhere(self, reference: Reference) -> Path:
        """Where a picture should be that isn't there, for messages; what isn't allowed to be reached isn't named."""
        name = reference.names[0].replace("\0", "")
        return reference.folder.joinpath(*parts_of(name)) if ".." in Path(name).parts else reference.folder / name

    def _candidates(self, name: str) -> Iterator[list[Path]]:
        """Files that could be meant, those that are most alike first."""
        folded, stem = fold(name), fold(stem_of(name))
        same = self._by_name.get(folded, [])
        yield [path for path in same if path.name == name]
        yield same
        for key in (folded, stem, without_prefix(stem)):
            yield self._by_stem.get(key, [])
        yield self._by_bare_stem.get(stem, [])

    @cached_property
    def pictures(self) -> list[Path]:
        """All files below the folder that are called like pictures."""
        return sorted(Path(entry.path) for entry in below(self.root) if is_picture(entry.name))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return grouped(self.pictures, lambda path: fold(path.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return grouped(self.pictures, lambda path: fold(path.stem))

    @cached_property
    def _by_bare_stem(self) -> dict[str, list[Path]]:
        return grouped(self.pictures, lambda path: without_prefix(fold(path.stem)))


def without_prefix(name: str) -> str:
    """A name less what a labelling server put before it."""
    found = _UPLOAD.match(name)
    return name[found.end() :] or name if found else name


def grouped(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    """Files by a key of their names."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def remark_on_names(findings: Findings, located: Sequence[Located]) -> None:
    """Says how many pictures were found by their names alone, and where one of them is."""
    if moved := [place.path for place in located if place.by_name]:
        count = f"{len(moved):,} of {len(located):,} pictures"
        findings.remark(f"found by name, not where the labels say: {count}, such as {moved[0]}")
