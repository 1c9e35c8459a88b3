"""What a process does with memory that it has freed, counted in pages that the system had to give it."""

import platform
import subprocess
import sys

import pytest

PIECE, RUNS = 48 * 2**20, 5
PROGRAM = f"""
import mmap, resource, threading
from dfine_jax import keep_freed_memory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * mmap.PAGESIZE

def run(times):
    for _ in range(times):
        b"x" * {PIECE}

def taken():
    run(2)
    before = pages()
    run({RUNS})
    print((pages() - before) / {PIECE * RUNS}, flush=True)

def in_turn():
    taken()
    keep_freed_memory()
    taken()

thread = threading.Thread(target=in_turn) if IN_THREAD else None
thread.start() if thread else in_turn()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("in_thread", [False, True])
def test_kept_memory_is_used_again(in_thread):
    program = PROGRAM.replace("IN_THREAD", str(in_thread))
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    by_itself, kept = map(float, output.split())
    assert kept < by_itself / 10
