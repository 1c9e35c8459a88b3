"""What is given as a file, looked at before it is opened: a named pipe would be waited for without end."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from dfine_jax.errors import InputError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_status(path: str | os.PathLike) -> os.stat_result:
    """What the system knows of a plain file, or of what a link leads to.

    Raises:
        OSError: there is none, or it is something else (``IsADirectoryError`` for a folder).
    """
    return _plain(os.stat(path), path)


def open_plain(path: str | os.PathLike) -> IO[bytes]:
    """Opens a plain file to read, not waiting for a pipe nor touching a device; raises what ``plain_status`` does."""
    plain_status(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _plain(os.fstat(file.fileno()), path)  # it may have been exchanged
    except BaseException:
        file.close()
        raise
    return file


def plain_size(path: Path, error: type[InputError] = InputError) -> int:
    """Bytes in a plain file, or what a link leads to; ``error`` in one line for anything else, and for none."""
    try:
        return plain_status(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        dangling = os.path.islink(path)
        raise error(f"{path}: {'the link leads to nothing' if dangling else 'there is no such file'}") from None
    except _NotPlainError as problem:
        raise error(f"{path} is {problem.strerror}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} can't be looked at ({getattr(problem, 'strerror', None) or problem})") from None


class _NotPlainError(OSError):
    """Something that is there, and no plain file."""


class _FolderError(_NotPlainError, IsADirectoryError):
    """Such a thing as Python's own ``open`` says it."""


def _plain(status: os.stat_result, path: str | os.PathLike) -> os.stat_result:
    if stat.S_ISREG(status.st_mode):
        return status
    kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
    told, name = f"{kind}, expected a file", os.fspath(path)
    raise _FolderError(errno.EISDIR, told, name) if kind == "a folder" else _NotPlainError(errno.EINVAL, told, name)
