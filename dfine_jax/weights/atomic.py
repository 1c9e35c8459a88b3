"""A new folder that appears under its name complete or not at all, and what killed processes left is cleared up.

The folder is built beside its target as ``.NAME.HOST.PROCESS.MARK.new``. Where the system can, it then changes places
with an older one in one step. Where it can't, the older one is called ``.old`` for a moment: after a kill in between
``recover`` finds the two and puts the new one in its place.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.replaceable import check_replaceable

OLD = 24 * 3600
"""Seconds after which what is left of another machine's process is taken for dead."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CAN_NOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""How systems and file systems say that they have no such exchange."""

_live: set[str] = set()
"""Marks of the folders that this process is writing."""


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside ``target`` to write into; it takes that name when the block ends without an exception.

    An existing ``target`` is a ``CheckpointError``, unless it is to be replaced: then it stays until the new one is
    complete. Only a model's folder in which nothing else lies is replaced, so that a slip deletes nothing of value.
    A link stays one: what it leads to is replaced. A full disk is a ``CheckpointError`` too, and leaves nothing behind.
    """
    target = check_target(target, replace=replace)
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        mark = secrets.token_hex(4)
        building = target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{mark}.new")
        _live.add(mark)
        try:
            building.mkdir()
            yield building
            check_target(target, replace=replace)
            _put(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
            _live.discard(mark)


def check_target(target: Path, *, replace: bool, source: Path | None = None) -> Path:
    """Where ``new_folder`` will put its folder; ``CheckpointError`` where it would refuse, to be known before the work.

    ``source`` is what the work reads: a folder that is or holds it is not replaced.
    """
    target = Path(os.path.abspath(target))
    if replace:
        target = Path(os.path.realpath(target))
    recover(target)
    if os.path.lexists(target):
        if not replace:
            raise CheckpointError(f"{target} exists: choose another name, or replace it with --force")
        if source is not None and os.path.lexists(source) and _holds(target, source):
            raise CheckpointError(f"{target} is or holds {source}, which is read from: choose another name")
        check_replaceable(target)
    parent = next(parent for parent in target.parents if os.path.lexists(parent))
    if not parent.is_dir():
        raise CheckpointError(f"{target} can't be made: {parent} is no folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise CheckpointError(f"{target} can't be made: {parent} can't be written to")
    return target


def recover(target: Path) -> None:
    """Puts a folder back that was about to be replaced when its process was killed; the new one, which is complete."""
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        return
    for left in _left_over(target):
        if left.role == "old" and not left.is_alive():
            complete = left.path.with_name(left.path.name.removesuffix("old") + "new")
            with contextlib.suppress(OSError):  # another process may be doing the same
                os.rename(complete if complete.is_dir() else left.path, target)
                return


def _put(building: Path, target: Path) -> None:
    """Gives the folder its name, and removes what had it."""
    if not target.exists():
        os.rename(building, target)
    elif not _exchanged(building, target):
        outgoing = building.with_name(building.name.removesuffix("new") + "old")
        os.rename(target, outgoing)
        try:
            os.rename(building, target)
        except OSError:
            os.rename(outgoing, target)
            raise
        shutil.rmtree(outgoing, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two changed names, in one step; False where the system has none."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if exchange is None:
        return False
    done = exchange(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in _CAN_NOT:
        return False
    raise OSError(code, os.strerror(code), str(other))


class _LeftOver(NamedTuple):
    """A folder that a process builds or built beside a target."""

    path: Path
    host: str
    process: int
    mark: str
    role: str

    def is_alive(self) -> bool:
        """Whether its process may still be at it."""
        if self.mark in _live:
            return True
        if self.host != _host():
            with contextlib.suppress(OSError):
                return time.time() - self.path.lstat().st_mtime < OLD
            return False
        if self.process == os.getpid():  # an earlier one had the same number, as in containers
            return False
        try:
            os.kill(self.process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:
            return True
        with contextlib.suppress(OSError):
            return time.time() - self.path.lstat().st_mtime < OLD  # numbers of processes are given anew
        return False


def _left_over(target: Path) -> list[_LeftOver]:
    """What lies beside a target that has the names of folders being built for it, the newest first."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9a-f]{8})\.(\d{1,10})\.([0-9a-f]{8})\.(new|old)")
    try:
        names = os.listdir(target.parent)
    except OSError:
        return []
    matches = [match for match in map(pattern.fullmatch, names) if match]
    found = [_LeftOver(target.parent / match[0], match[1], int(match[2]), match[3], match[4]) for match in matches]
    found = [left for left in found if left.path.is_dir() and not left.path.is_symlink()]
    return sorted(found, key=lambda left: left.path.lstat().st_mtime, reverse=True)


def _sweep(target: Path) -> None:
    """Removes what processes left beside the target that are gone."""
    for left in _left_over(target):
        if not left.is_alive():
            shutil.rmtree(left.path, ignore_errors=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """What the system says about a disk, as one line about the folder that was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CheckpointError(f"{target} was not written: no room for it on the disk ({error.strerror})") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR):
            raise CheckpointError(f"{target} can't be written: {error.strerror}") from None
        raise


def _holds(folder: Path, source: Path) -> bool:
    """Whether a folder is ``source`` or one that it lies in, or holds what ``source`` links to."""
    places = {Path(os.path.abspath(source)), Path(os.path.realpath(source))}
    if source.is_dir():
        with contextlib.suppress(OSError):
            places.update(Path(os.path.realpath(path)) for path in source.iterdir())
    folder = Path(os.path.realpath(folder))
    return any(folder == place or folder in place.parents for place in places)


def _host() -> str:
    """A name for this machine, of eight characters."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
