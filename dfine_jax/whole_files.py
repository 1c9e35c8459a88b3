"""Files that are written whole or not at all."""

import errno
import os
import secrets
import stat
import tempfile
from pathlib import Path

from dfine_jax.display import printable
from dfine_jax.errors import InputError

_BY_NUMBER = ("/dev/fd/", "/proc/")
"""Where files are that a process has open: what lies there is written to and never replaced."""


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file that appears, or replaces the one that was there, once all of it is on the disk.

    A folder that isn't there is made. Links stay, and the file that they lead to is replaced; it keeps its permissions.
    Pipes and devices are written to as they are. `OSError`, which names the file, leaves nothing half-written.
    """
    path = os.fspath(path)
    try:
        status = _status(path)
        if status is not None and _is_written_through(path, status):
            with open(path, "wb") as file:
                file.write(content)
        else:
            _replace(os.path.realpath(path), content, status)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path) from error


def require_writable(path: str | os.PathLike, option: str) -> None:
    """`InputError`, which names `option`, where `write_whole` would fail; nothing is left there by trying."""
    path = os.fspath(path)
    shown = f"{option} {printable(path)}"
    try:
        status = _status(path)
        if status is not None:
            if stat.S_ISDIR(status.st_mode):
                raise InputError(f"{shown}: a folder; give the name of a file")
            if stat.S_ISBLK(status.st_mode) or stat.S_ISSOCK(status.st_mode):
                raise InputError(f"{shown}: a disk or a socket; give the name of a file")
            if not os.access(path, os.W_OK):
                raise InputError(f"{shown}: may not be written to; change its permissions or choose another file")
            if _is_written_through(path, status):
                return
        _try_folder(os.path.dirname(os.path.realpath(path)), shown)
    except (OSError, ValueError) as error:  # ValueError: a null character
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown}: can't be written ({getattr(error, 'strerror', None) or error})") from None


def require_writable_folder(path: str | os.PathLike, option: str) -> None:
    """`InputError`, which names `option`, unless there is or can be a folder in which files can be written."""
    shown = f"{option} {printable(os.fspath(path))}"
    try:
        _try_folder(os.path.realpath(path), shown)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown}: can't be written ({getattr(error, 'strerror', None) or error})") from None


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_written_through(path: str, status: os.stat_result) -> bool:
    return not stat.S_ISREG(status.st_mode) or os.path.abspath(path).startswith(_BY_NUMBER)


def _replace(path: str, content: bytes, status: os.stat_result | None) -> None:
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f".{secrets.token_hex(8)}.part")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if status is not None:
            os.chmod(partial, stat.S_IMODE(status.st_mode))
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _try_folder(folder: str, shown: str) -> None:
    """Writes and removes a file in the folder, or in the one in which it would have to be made."""
    there = Path(folder)
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(f"{shown}: {printable(there)} is no folder; choose another place")
    with tempfile.TemporaryFile(dir=there):
        pass
