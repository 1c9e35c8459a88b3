"""What a command says, and the code it ends with, when something went wrong."""

import errno
import os

from dfine_jax.display import printable
from dfine_jax.errors import InputError

INPUT, FAULT, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141
"""Exit codes: something that was given can't be used; a fault of this program; Ctrl-C; nobody reads what is printed."""
LONGEST, LONGEST_OWN = 500, 4000
"""Characters of a line: of a message of others, and of one of this program's, in which a name may be as long."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_MACHINE = (*_FULL, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors that are no fault of the program although they name no file."""
_LOWER = {"train": "--batch-size, --image-size or --workers", "convert": None, "push": None, "data": None}
"""Options that save memory; other verbs have --batch-size and --size."""


def explained(error: BaseException, verb: str) -> tuple[int, str | None]:
    """The exit code for an exception, and one line about it; None where there is nothing to say."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped"
    if is_closed_pipe(error):
        return PIPE_CLOSED, None
    if isinstance(error, InputError):
        return INPUT, _lines(str(error))
    if _is_lack_of_memory(error):
        option = _LOWER.get(verb, "--batch-size or --size")
        advice = f"lower {option}, or end other programs" if option else "end other programs"
        return INPUT, f"not enough memory ({_short(error)}): {advice}"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _OF_THE_MACHINE):
        place = "" if error.filename is None else f"{printable(os.fsdecode(error.filename))}: "
        reason = printable(error.strerror or str(error))
        return INPUT, f"{place}{reason}" + ("; make room and try again" if error.errno in _FULL else "")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] != "dfine_jax":
        return INPUT, f"the package {printable(error.name)} is needed and not installed"
    return FAULT, f"{type(error).__name__}: {_short(error)} (a fault of this program; --traceback shows where)"


def is_closed_pipe(error: BaseException) -> bool:
    """Whether nobody reads the output any more; Rich makes an exit of that."""
    if isinstance(error, SystemExit):
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError)


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    is_of_xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return is_of_xla and any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc"))


def _short(error: BaseException) -> str:
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return _cut(text, LONGEST)


def _lines(message: str) -> str:
    """A message's first line, and those that list what it is about, which are indented."""
    first, *others = message.split("\n  ")
    return "\n  ".join(_cut(printable(line), LONGEST_OWN) for line in (first, *others))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
