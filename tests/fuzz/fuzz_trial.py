"""One input, read under limits: of time, of memory, and of what reading may do."""

import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from dfine_jax.errors import InputError

SECONDS, PATIENCE = 5, 30
"""How long reading one input may take: of the processor, and by the clock, for a busy machine or one that waits."""
BYTES = 2**30
"""How much more memory it may take than there is."""

_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_done: list[str] | None = None
"""What the code under trial did that it may not do, while there is a trial."""


class TooLateError(BaseException):
    """Reading took too long. No ``Exception``, so that nobody on the way takes it for one of theirs."""


def fault(read: Callable[[Path], object], path: Path) -> str | None:
    """What is wrong with how an input is read, in a line; None where it is read or refused as it should be."""
    global _done
    _watch()
    before = _content(path)
    _done = done = []
    outcome = None
    with warnings.catch_warnings(), _Limits():
        warnings.simplefilter("ignore")  # of libraries, about what is damaged
        try:
            read(path)
        except (InputError, OSError) as error:
            if not str(error).strip():
                outcome = f"{type(error).__name__} without a message"
            elif isinstance(error, InputError) and len(str(error)) > 20_000:
                outcome = f"a message of {len(str(error)):,} characters"
        except TooLateError as late:
            outcome = str(late)
        except MemoryError:
            outcome = f"more than {BYTES:,} bytes"
        except Exception as error:
            outcome = f"{type(error).__name__} at {_place(error)}: {str(error)[:150]!r}"
    _done = None
    if done:
        return f"it does what it may not do: {done[0]}"
    if outcome is None and _content(path) != before:
        return "files have changed"
    return outcome


class _Limits:
    """For the main thread of a process that nobody else needs meanwhile."""

    def __enter__(self):
        self.memory = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, self.memory[1]))
        self.handlers = {number: signal.signal(number, self.stop) for number in (signal.SIGPROF, signal.SIGALRM)}
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def __exit__(self, *_):
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, self.memory)

    @staticmethod
    def stop(number, _):
        limit = f"{SECONDS} s of the processor" if number == signal.SIGPROF else f"{PATIENCE} s"
        raise TooLateError(f"more than {limit}")


def _watch() -> None:
    if not getattr(sys, "_dfine_fuzz_watched", False):
        sys._dfine_fuzz_watched = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple) -> None:
    if _done is None:
        return
    if event in _FORBIDDEN or (event in _CHANGES and not _is_own(arguments[0])):
        _done.append(f"{event} {arguments[0]!r}")
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES and not _is_own(arguments[0]):
        _done.append(f"writes to {arguments[0]!r}")


def _is_own(name: object) -> bool:
    """What Python writes for itself; a number is a file that is open already."""
    return isinstance(name, int) or "__pycache__" in os.fsdecode(name)


def _content(path: Path) -> dict[str, tuple[int, int]]:
    """What is there, by name, with sizes and times of change."""
    there = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(one): (one.lstat().st_size, one.lstat().st_mtime_ns) for one in there}


def _place(error: Exception) -> str:
    """The last line of this project's own that the error came through."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/dfine_jax/" in name:
            place = f"{Path(name).parent.name}/{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def is_possible() -> bool:
    """Whether this system has what the limits need."""
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()
