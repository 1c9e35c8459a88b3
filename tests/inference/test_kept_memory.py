import os
import subprocess
import sys

import jax
import pytest

from dfine_jax.inference import memory

BLOCKS_AGAIN_AND_AGAIN = """
import resource, sys
from dfine_jax.inference.memory import keep_between_runs

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if "keep" in sys.argv:
    keep_between_runs()
size, count, times = 24 << 20, 3, 10
for run in range(2 + times):
    if run == 2:
        before = faults()
    blocks = [b"x" * size for _ in range(count)]
    del blocks
print((faults() - before) * resource.getpagesize() / (size * count * times))
"""


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends have memory of their own")
@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="this is about glibc")
def test_freed_memory_is_kept_for_the_next_run():
    assert share_taken_anew() > 0.5
    assert share_taken_anew("keep") < 0.05


def share_taken_anew(*arguments):
    """How much of the memory that a process frees and takes again comes new from the system, from 0 to 1."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", BLOCKS_AGAIN_AND_AGAIN, *arguments]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("change", [memory.keep_between_runs, memory.return_to_system])
def test_other_c_libraries_are_left_alone(monkeypatch, change):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    change()


def test_other_backends_are_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: asked.append(name))
    monkeypatch.setattr(memory.jax, "default_backend", lambda: "tpu")
    memory.keep_between_runs()
    assert not asked
