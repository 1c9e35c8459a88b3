"""The files that a command reads, none of which it may write to."""

import os
from collections.abc import Iterable
from pathlib import Path

from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.pretrained import SHORT_NAMES


class Inputs:
    """Files by what they are and not by name: links of either kind, and names in another case, are seen through."""

    def __init__(self, paths: Iterable[str | os.PathLike] = ()):
        self._known: set[tuple[int, int]] = set()
        for path in paths:
            self.add(path)

    def add_model(self, name: str) -> None:
        """Adds the files of a model that `open_pretrained` has found under this name."""
        place = Path(SHORT_NAMES.get(name, name)).expanduser()
        self.add(place)
        for path in place.rglob("*") if place.is_dir() else ():
            self.add(path)

    def add(self, path: str | os.PathLike) -> None:
        """Adds a file, if there is one."""
        if (identity := _identity(path)) is not None:
            self._known.add(identity)

    def __contains__(self, path: str | os.PathLike) -> bool:
        return _identity(path) in self._known

    def refuse(self, target: str | os.PathLike, option: str) -> None:
        """`InputError`, which names `option`, if the file to be written is one that is read."""
        if target in self:
            shown = printable(os.fspath(target))
            raise InputError(f"{option} would write to {shown}, which is read: choose another place")


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
