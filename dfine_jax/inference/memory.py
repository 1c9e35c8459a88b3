"""What becomes of memory that a run has freed: a matter of the C library, for XLA for CPUs asks it anew at each run.

Both functions do nothing where the C library is not glibc.
"""

import contextlib
import ctypes
from collections.abc import Iterator

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
MIB = 1 << 20
KEPT = 256 * MIB
"""So much may be free at the end of a heap before the system is given it back."""
ANOTHER_HEAP = 64 * MIB
"""So much is taken at a time. It is what a heap of another thread can be at most, so that an empty one is kept."""


def keep_freed_memory() -> None:
    """From now on this process keeps what it frees, for the next run; call it where a program runs again and again.

    By itself glibc maps each piece above 32 MiB and unmaps it when it is freed, and Linux clears its pages one by one
    when they are next written: 14,000 of them for a picture with S, a tenth of its time. It is for the whole process,
    whatever else it does, and may leave it with a few hundred MiB more than it needs. Called before JAX compiles, it
    lets the heaps of XLA's threads have grown by the first run.
    """
    with _glibc() as library:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, KEPT), (_TOP_PAD, ANOTHER_HEAP)):
            library.mallopt(option, value)


def return_freed_memory() -> None:
    """Gives the system back what is free now: after compiling or loading a program hundreds of MiB."""
    with _glibc() as library:
        library.malloc_trim(0)


@contextlib.contextmanager
def _glibc() -> Iterator[ctypes.CDLL]:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        yield ctypes.CDLL(None)
