"""What is given as a file, looked at before it is opened: a named pipe would be waited for without end."""

import os
import stat
from pathlib import Path

from dfine_jax.errors import InputError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_size(path: Path, error: type[InputError] = InputError) -> int:
    """Bytes in a plain file, or what a link leads to; ``error`` in one line for anything else, and for none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        dangling = os.path.islink(path)
        raise error(f"{path}: {'the link leads to nothing' if dangling else 'there is no such file'}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} can't be looked at ({getattr(problem, 'strerror', None) or problem})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise error(f"{path} is {kind}, expected a file")
    return status.st_size
