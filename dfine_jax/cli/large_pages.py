"""Large memory pages for a command that runs a program again and again.

XLA takes the memory for what is between a program's inputs and outputs anew at each run, and Linux hands it out in
pages of 4 KiB, one by one: more than a gigabyte a training step, a third of its time. glibc asks for pages of 2 MiB if
a setting says so that it reads once, when a process starts.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
OLDEST_GLIBC = (2, 35)
STARTED_AGAIN = "DFINE_JAX_STARTED_AGAIN"
"""Set in the new process, so that it does not start again even where it never gets the setting."""
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_again_with_large_pages() -> None:
    """Replaces this process by a new one of the same command with the setting; returns where that changes nothing."""
    environment = with_large_pages(os.environ)
    if environment is None or STARTED_AGAIN in os.environ or not sys.executable:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # then it goes on without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, STARTED_AGAIN: "1"})


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment with the setting, or None where it is there already, whatever it says, or would not help."""
    tunables = environment.get(VARIABLE, "")
    if SETTING in tunables or not _asked_for() or _glibc() < OLDEST_GLIBC:
        return None
    return {**environment, VARIABLE: ":".join(filter(None, (tunables, f"{SETTING}=1")))}


def _asked_for() -> bool:
    """Whether the kernel gives large pages to those who ask, and to nobody else."""
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:  # another system
        return False


def _glibc() -> tuple[int, ...]:
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return tuple(map(int, version.split(".")[:2])) if name == "glibc" else ()
    except (AttributeError, ValueError, OSError):  # another C library
        return ()
