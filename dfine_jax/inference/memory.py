"""What glibc does with memory that XLA for CPUs gives back; other C libraries are left as they are."""

import contextlib
import ctypes

import jax

_MIB = 2**20
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of ``mallopt``, as malloc.h numbers them."""
SETTINGS = {MMAP_THRESHOLD: 32 * _MIB, TRIM_THRESHOLD: 256 * _MIB, TOP_PAD: 64 * _MIB}
"""32 MiB is the most that glibc takes for the first, and 64 MiB the size of a thread's heap, which then stays."""


def keep_between_runs() -> None:
    """Lets this process keep up to 256 MiB of freed memory, where the backend is a CPU.

    XLA takes the memory for what is between a program's inputs and outputs anew at each run. glibc would ask Linux for
    it and give it back each time, and Linux clears it page by page: up to a twelfth of the time.

    A thread's heap has 64 MiB: what doesn't fit there still comes and goes, as it may for the largest sizes.
    """
    if jax.default_backend() != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)


def return_to_system() -> None:
    """Gives back all that is free: after compiling or loading a program, hundreds of MiB."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
