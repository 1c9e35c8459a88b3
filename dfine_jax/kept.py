"""What took long to make is kept in a folder for later processes, once one is given to ``keep_in``.

What is read back is trusted like the package itself, so folder and files have to belong to the user, and nobody else
may be able to write to them. Whatever is wrong with the folder or with an entry, the value is made again: keeping never
fails.
"""

import contextlib
import dataclasses
import enum
import hashlib
import importlib.metadata
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")

LARGEST = 512 * 2**20
"""Bytes that stay; what was not used for longest goes first."""
SUFFIX = ".kept"

_PACKAGE = Path(__file__).parent
_SOURCES = (".py", ".ll")
"""Endings of the files that values are made by: another edition of any of them makes all values anew."""
_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "numpy", "llvmlite")

_folder: Path | None = None


class UntrustedFolderError(PermissionError):
    """A folder that others can write to, so that what lies there may be theirs."""


def keep_in(folder: Path | None) -> None:
    """Keeps values in this folder from now on, or none with None; ``OSError`` where it can't be made or trusted."""
    global _folder
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own(folder)
    _folder = folder


def require_own(folder: Path) -> None:
    """``UntrustedFolderError`` unless the folder is the user's own and nobody else can write to it.

    Only POSIX permissions are looked at.
    """
    status = os.stat(folder)
    if not _is_own(status):
        raise UntrustedFolderError(
            f"{folder} belongs to another user, or others can write to it: nothing is kept there; remove it"
        )


def kept(
    kind: str,
    key: object,
    make: Callable[[], Value],
    *,
    dump: Callable[[Value], bytes],
    load: Callable[[bytes], Value],
) -> Value:
    """The value that ``make`` returned for this key in an earlier process, or that it returns now.

    The key has to hold all that the value depends on, but for the package's own source and the versions of what it
    uses; ``spelled`` says what it can be made of. ``dump`` turns a value into bytes and ``load`` turns these back;
    where either fails the value is made and not kept.
    """
    if _folder is None:
        return make()
    full_key = repr((kind, spelled(key), _edition())).encode()
    path = _folder / f"{kind}-{hashlib.sha256(full_key).hexdigest()[:32]}{SUFFIX}"
    with contextlib.suppress(Exception):  # what is damaged may raise anything
        digest, length, content = _split(_read_own(path))
        if hashlib.sha256(content).digest() == digest and content[:length] == full_key:
            value = load(bytes(content[length:]))
            os.utime(path)
            return value
    value = make()
    with contextlib.suppress(Exception):  # nor is a disk that is full a reason to fail
        content = full_key + dump(value)
        _write(path, hashlib.sha256(content).digest() + len(full_key).to_bytes(8, "little") + content)
        _make_room(path)
    return value


def spelled(value: object) -> object:
    """The value in plain tuples, text and numbers, every field of every dataclass in it by name.

    Two values that differ anywhere are spelled differently, whatever their ``repr`` and ``==`` leave out. ``TypeError``
    for a kind of value of which that isn't known.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, np.dtype):
        return kind, value.name, value.str
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return kind, tuple((name, spelled(getattr(value, name))) for name in fields)
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        return kind, names, tuple(map(spelled, value))
    if isinstance(value, set | frozenset):
        return kind, tuple(sorted(map(spelled, value), key=repr))
    if isinstance(value, Mapping):
        return kind, tuple(sorted(((spelled(name), spelled(entry)) for name, entry in value.items()), key=repr))
    raise TypeError(f"a {kind} can't be part of a key: it isn't known what makes two of them differ")


@cache
def _edition() -> str:
    """A name for the package's source and the versions of what it uses."""
    known = hashlib.sha256(platform.python_version().encode())
    for name in _DISTRIBUTIONS:
        known.update(f"{name} {_version(name)}\n".encode())
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in _SOURCES and path.is_file():
            known.update(f"{path.relative_to(_PACKAGE)} {path.stat().st_size}\n".encode())
            known.update(path.read_bytes())
    return known.hexdigest()


def _version(name: str) -> str | None:
    """None where it isn't installed, as LLVM needn't be."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_own(status: os.stat_result) -> bool:
    """Whether what has this status is the user's own, and nobody else's to write to."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_own(path: Path) -> bytes:
    """The content of a plain file of the user's own; ``OSError`` for anything else, without waiting for a pipe."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | _BINARY)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _is_own(status):
            raise PermissionError(f"{path} is no plain file of the user's own")
        return file.read()


_BINARY = getattr(os, "O_BINARY", 0)


def _split(content: bytes) -> tuple[bytes, int, memoryview]:
    """An entry's digest, the length of its key, and key and value."""
    view = memoryview(content)
    return bytes(view[:32]), int.from_bytes(view[32:40], "little"), view[40:]


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, whoever else writes the same."""
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _make_room(newest: Path) -> None:
    entries = [(path.stat(), path) for path in newest.parent.glob(f"*{SUFFIX}") if path != newest]
    room = LARGEST - newest.stat().st_size
    for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
        room -= status.st_size
        if room < 0:
            path.unlink(missing_ok=True)
