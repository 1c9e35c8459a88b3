"""What took long to make is kept in a folder for later processes, once one is given to ``keep_in``.

Values are pickled, as JAX's serialized programs are, so the folder has to belong to the user alone. Whatever is wrong
with the folder or with an entry, the value is made again: keeping never fails.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pickle
import platform
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")

LARGEST = 512 * 2**20
"""Bytes that stay; what was not used for longest goes first."""
SUFFIX = ".kept"

_PACKAGE = Path(__file__).parent
_SOURCES = ("*.py", "model/*.py", "inference/*.py", "native/*")
"""What values are made by: another edition of it makes them anew."""
_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "numpy", "llvmlite")

_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Keeps values in this folder from now on, or none with None; ``OSError`` where it can't be made."""
    global _folder
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
    _folder = folder


def kept(
    kind: str,
    key: object,
    make: Callable[[], Value],
    *,
    dump: Callable[[Value], Any] = lambda value: value,
    load: Callable[[Any], Value] = lambda dumped: dumped,
) -> Value:
    """The value that ``make`` returned for this key in an earlier process, or that it returns now.

    ``repr(key)`` has to tell all that the value depends on, but for the package's own source and the versions of what
    it uses. ``dump`` turns a value into one that ``pickle`` knows and ``load`` turns that back; where a value can't be
    dumped it is not kept.
    """
    if _folder is None:
        return make()
    full_key = repr((kind, key, _edition()))
    path = _folder / f"{kind}-{hashlib.sha256(full_key.encode()).hexdigest()[:32]}{SUFFIX}"
    with contextlib.suppress(Exception):  # a damaged pickle may raise anything
        content = path.read_bytes()
        digest, content = content[:32], memoryview(content)[32:]
        if hashlib.sha256(content).digest() == digest:
            found_key, dumped = pickle.loads(content)
            if found_key == full_key:
                value = load(dumped)
                os.utime(path)
                return value
    value = make()
    with contextlib.suppress(Exception):  # nor is a disk that is full a reason to fail
        content = pickle.dumps((full_key, dump(value)))
        _write(path, hashlib.sha256(content).digest() + content)
        _make_room(path)
    return value


@cache
def _edition() -> str:
    """A name for the package's source and the versions of what it uses."""
    known = hashlib.sha256(platform.python_version().encode())
    for name in _DISTRIBUTIONS:
        known.update(f"{name} {_version(name)}\n".encode())
    for pattern in _SOURCES:
        for path in sorted(path for path in _PACKAGE.glob(pattern) if path.is_file()):
            known.update(f"{path.relative_to(_PACKAGE)} {path.stat().st_size}\n".encode())
            known.update(path.read_bytes())
    return known.hexdigest()


def _version(name: str) -> str | None:
    """None where it isn't installed, as LLVM needn't be."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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
