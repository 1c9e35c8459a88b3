"""A new folder that appears under its name complete or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convert.fill import CheckpointError


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside ``target`` to write into; it takes that name when the block ends without an exception.

    An existing ``target`` is a ``CheckpointError``, unless it is to be replaced: then it stays until the new one is
    complete. Only a folder that holds a ``config.json`` is replaced, so that a slip does not delete something else.
    """
    target = Path(os.path.abspath(target))
    check_target(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    building, outgoing = (target.with_name(f".{target.name}.{mark}.{role}") for role in ("new", "old"))
    building.mkdir()
    try:
        yield building
        check_target(target, replace=replace)
        if target.exists():
            os.rename(target, outgoing)
        try:
            os.rename(building, target)
        except OSError:
            if outgoing.exists():
                os.rename(outgoing, target)
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(outgoing, ignore_errors=True)


def check_target(target: Path, *, replace: bool) -> None:
    """``CheckpointError`` where ``new_folder`` would refuse ``target``: to be known before the work is done."""
    if not os.path.lexists(target):
        return
    if not replace:
        raise CheckpointError(f"{target} exists: choose another name, or replace it with --force")
    if not (target / "config.json").is_file():
        raise CheckpointError(f"{target} is not a model's folder (no config.json), it won't be replaced")
