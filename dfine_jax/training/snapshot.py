"""One checkpoint on disk: a folder that is there whole or not at all, and that knows when it was changed since.

It holds ``state.npz`` (NumPy's, one array for each of the state's), ``standing.json`` and ``SHA256SUMS``, which
``sha256sum --check`` reads, too.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ARRAYS, FACTS, SUMS = "state.npz", "standing.json", "SHA256SUMS"


class DamagedError(Exception):
    """A snapshot that is not what was written; the message says in a few words how."""


class Snapshot(NamedTuple):
    """What a folder holds."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def write_snapshot(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes a folder beside its place and then moves it there, to the disk itself; one that is there is replaced.

    ``OSError`` where that fails; then nothing is left, and a folder that was there is as it was.
    """
    mark = secrets.token_hex(4)
    building, outgoing = (folder.with_name(f".{folder.name}.{mark}.{role}") for role in ("new", "old"))
    building.mkdir()
    try:
        np.savez(building / ARRAYS, **arrays)
        (building / FACTS).write_text(json.dumps(facts) + "\n", "utf-8")
        (building / SUMS).write_bytes(b"".join(_line(building / name) for name in (ARRAYS, FACTS)))
        for path in (building / ARRAYS, building / FACTS, building / SUMS, building):
            _to_disk(path)
        if folder.exists():
            os.rename(folder, outgoing)
        try:
            os.rename(building, folder)
        except OSError:
            if outgoing.exists():
                os.rename(outgoing, folder)
            raise
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(outgoing, ignore_errors=True)


def read_snapshot(folder: Path) -> Snapshot:
    """Reads a folder that ``write_snapshot`` wrote; ``DamagedError`` unless every byte is as it was then."""
    verify_snapshot(folder)
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            return Snapshot({name: stored[name] for name in stored.files}, facts)
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # changed just now, or written by something else
        raise DamagedError(f"it can't be read: {error}") from error


def verify_snapshot(folder: Path) -> None:
    """``DamagedError`` unless every file has the checksum that it had when the folder was written."""
    sums = _read(folder / SUMS, Path.read_bytes)
    found = []
    for name in (ARRAYS, FACTS):
        found.append(_read(folder / name, _line))
        if found[-1] not in sums.splitlines(keepends=True):
            raise DamagedError(f"{name} is not what was written: its checksum in {SUMS} is another")
    if sums != b"".join(found):
        raise DamagedError(f"{SUMS} was changed")


def steps_in(folder: Path) -> list[int]:
    """The steps of all checkpoints in a folder, in their order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def sweep(parent: Path) -> None:
    """Removes what a writing that was killed left in a folder of snapshots."""
    for path in parent.glob(".*.*"):
        if path.suffix in (".new", ".old"):
            shutil.rmtree(path, ignore_errors=True)


def _line(path: Path) -> bytes:
    """A file's line in ``SHA256SUMS``."""
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n".encode()


def _read(path: Path, read: Callable[[Path], bytes]) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        raise DamagedError(f"{path.name} is missing") from None
    except OSError as error:
        raise DamagedError(f"{path.name} can't be read: {error.strerror}") from error


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive the machine's losing power."""
    is_folder = path.is_dir()
    # Some systems can't open folders, some file systems can't write just one of them.
    with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
