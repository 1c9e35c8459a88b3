"""The folder that a training writes to: one training's at a time, and what can't be written there is said."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dfine_jax.training.errors import TrainingError, WriteError, first_line
from dfine_jax.training.snapshot import steps_in

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CHECKPOINTS, LOG, LOCK = "checkpoints", "log.jsonl", "training.lock"


class _Held(NamedTuple):
    """A folder that this process holds."""

    thread: int
    folder: tuple[int, int]
    """Device and number: what has its name later may be another."""


_held: dict[Path, _Held] = {}


@contextmanager
def claimed(output: Path, *, resume: bool) -> Iterator[None]:
    """Keeps a folder, which is made where it isn't there, for this training alone.

    The file ``training.lock`` in it is locked and holds the process id; a lock of a process that has ended counts for
    nothing. The thread that holds a folder may claim it again inside.

    Raises:
        TrainingError: another training is using it, or it holds one and is not to be gone on with.
        WriteError: it can't be made or written to.
    """
    with writing("to", output):
        if output.exists() and not output.is_dir():
            raise TrainingError(f"{output} is a file: give the output another name")
        is_new = not output.exists()
        output.mkdir(parents=True, exist_ok=True)
    place = output.resolve()
    if place in _held and _held[place].thread == threading.get_ident():
        yield
        return
    with _locked(output, place, is_new):
        if not resume and steps_in(output / CHECKPOINTS):
            raise TrainingError(f"{output} holds a training already: go on with it (--resume) or choose another folder")
        yield


def require_ours(output: Path) -> None:
    """``WriteError`` where the folder that this process holds was removed, or is another's now."""
    place = output.resolve()
    if place not in _held:
        return
    there = _numbers(place) == _held[place].folder
    if not there or _owner(place / LOCK) not in ("", _name_of_this_process()):
        raise WriteError(f"can't write to {output}: it was removed or replaced while training")


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Turns what the system says about writing into one line, ``WriteError``."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"can't write {what} {path}: {first_line(error)}") from error


@contextmanager
def _locked(output: Path, place: Path, is_new: bool) -> Iterator[None]:
    path = place / LOCK
    with writing("to", output):
        handle = _take(output, path)
    _held[place] = _Held(threading.get_ident(), _numbers(place))
    try:
        yield
    finally:
        del _held[place]
        with contextlib.suppress(OSError):
            if _owner(path) == _name_of_this_process():
                path.unlink()
                if is_new:
                    place.rmdir()  # unless something was written
        os.close(handle)


def _take(output: Path, path: Path) -> int:
    """An open file that holds the lock as long as it is open."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle, path):
                raise TrainingError(
                    f"{output} is in use by another training ({_owner(path) or 'of an unknown process'}): "
                    "wait until it has ended, or choose another folder"
                )
            if os.fstat(handle).st_nlink:  # else the one who held it removed it just now
                os.ftruncate(handle, 0)
                os.write(handle, f"{_name_of_this_process()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Locks an open file; where files can't be locked, looks whether the process that is named in it still runs."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:  # some network file systems
            pass
    words = _owner(path).split()
    if len(words) != 4 or not words[1].isdecimal():
        return True
    if words[3] == socket.gethostname() and int(words[1]) == os.getpid():
        return path.parent not in _held
    return words[3] == socket.gethostname() and not _runs(int(words[1]))


def _runs(process: int) -> bool:
    """Whether there is such a process; if nobody can tell, it counts as if there were."""
    if os.name == "nt":  # where a signal of 0 is one
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _numbers(place: Path) -> tuple[int, int] | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _owner(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _name_of_this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
