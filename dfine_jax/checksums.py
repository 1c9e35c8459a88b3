"""Checksums of files, kept in ``SHA256SUMS`` beside them, which ``sha256sum --check`` reads, too."""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from dfine_jax.plain_file import open_plain

SUMS = "SHA256SUMS"
LARGEST = 2**20
"""Bytes of a list of checksums; that of a model has a few thousand."""


class DamagedError(Exception):
    """Files that are not what was written; the message says in a few words which and how."""


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Keeps the checksums of files in a folder; names have slashes where they are of folders within."""
    (folder / SUMS).write_bytes(b"".join(_line(folder, name) for name in names))


def listed(folder: Path) -> list[str]:
    """The files whose checksums are kept; ``DamagedError`` where one is missing, or the list is not one of files."""
    rows = _read(folder, SUMS, _start).decode("utf-8", "replace").splitlines()
    matches = [re.fullmatch(r"[0-9a-f]{64}  (\w[\w./-]*)", row, re.ASCII) for row in rows]
    if not matches or not all(match and ".." not in match[1] for match in matches):
        raise DamagedError(f"{SUMS} was changed")
    names = [match[1] for match in matches]
    for name in names:
        if not (folder / name).is_file():
            raise DamagedError(f"{name} is missing")
    return names


def verify_sums(folder: Path, names: Iterable[str]) -> None:
    """``DamagedError`` unless exactly these files' checksums are kept, and are what they were."""
    sums = _read(folder, SUMS, _start)
    found = []
    for name in names:
        found.append(_line(folder, name))
        if found[-1] not in sums.splitlines(keepends=True):
            raise DamagedError(f"{name} is not what was written: its checksum in {SUMS} is another")
    if sums != b"".join(found):
        raise DamagedError(f"{SUMS} was changed")


def _line(folder: Path, name: str) -> bytes:
    """A file's line in ``SHA256SUMS``."""
    return f"{_read(folder, name, _sum)}  {name}\n".encode()


def _sum(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _start(file: IO[bytes]) -> bytes:
    return file.read(LARGEST)


def _read(folder: Path, name: str, read: Callable[[IO[bytes]], Any]) -> Any:
    try:
        with open_plain(folder / name) as file:
            return read(file)
    except FileNotFoundError:
        raise DamagedError(f"{name} is missing") from None
    except OSError as error:
        raise DamagedError(f"{name} can't be read: {error.strerror}") from error
