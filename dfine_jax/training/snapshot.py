"""One checkpoint on disk: a folder that is there whole or not at all, and that knows when it was changed since.

It holds ``state.npz`` (NumPy's, one array for each of the state's), ``standing.json`` and their checksums.
"""

import contextlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfine_jax.checksums import SUMS, DamagedError, verify_sums, write_sums

ARRAYS, FACTS = "state.npz", "standing.json"


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
        write_sums(building, (ARRAYS, FACTS))
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
    verify_sums(folder, (ARRAYS, FACTS))


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
