"""For which processors there is machine code, and that of those which this one is not."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dfine_jax.cpu.codegen import registers as module
from dfine_jax.cpu.codegen.registers import Registers, registers

LARGE, SMALL = Registers(16, 12, 32), Registers(8, 6, 16)
LINUX = "x86_64-unknown-linux-gnu"


def on(monkeypatch, triple, *features):
    """What ``registers`` says there."""
    llvm = SimpleNamespace(
        get_process_triple=lambda: triple, get_host_cpu_features=lambda: dict.fromkeys(features, True)
    )
    monkeypatch.setattr(module, "binding", lambda: llvm)
    return registers.__wrapped__()


@pytest.mark.parametrize(
    ("triple", "features", "expected"),
    [
        (LINUX, ("avx2", "fma", "avx512f"), LARGE),
        (LINUX, ("avx2", "fma"), SMALL),
        (LINUX, ("avx2",), None),
        (LINUX, (), None),
        ("x86_64-pc-windows-msvc", ("avx512f",), None),
        ("aarch64-unknown-linux-gnu", ("neon",), None),
    ],
)
def test_code_is_chosen_by_processor(triple, features, expected, monkeypatch):
    assert on(monkeypatch, triple, *features) == expected


@pytest.mark.parametrize(
    ("layout", "name", "features", "expected"),
    [
        (LARGE, "sapphirerapids", ("avx512bf16", "avx512fp16"), "half"),
        (LARGE, "sapphirerapids", ("avx512bf16", "avx512fp16", "amx-bf16"), None),
        (LARGE, "cooperlake", ("avx512bf16",), None),
        (LARGE, "znver4", ("avx512bf16",), "bfloat"),
        (LARGE, "znver4", (), None),
        (SMALL, "znver4", ("avx512bf16",), None),
        (None, "znver4", ("avx512bf16",), None),
    ],
)
def test_halves_are_for_processors_that_are_faster_so(layout, name, features, expected, monkeypatch):
    llvm = SimpleNamespace(get_host_cpu_name=lambda: name, get_host_cpu_features=lambda: dict.fromkeys(features, True))
    monkeypatch.setattr(module, "registers", lambda: layout)
    monkeypatch.setattr(module, "binding", lambda: llvm)
    assert module.half.__wrapped__() == expected


def test_without_llvm_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    assert registers.__wrapped__() is None


@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_threads_may_be_first_at_once():
    """Else XLA would be given the same names twice."""
    program = """
from concurrent.futures import ThreadPoolExecutor
from dfine_jax.cpu.codegen.targets import register
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: register(), range(8)))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_code_for_narrow_registers_on_one_processor():
    program = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from dfine_jax.cpu.codegen import targets
targets.registers = lambda: targets.{SMALL}
import native_cases
native_cases.check_all()
print('all agree')
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.stdout == "all agree\n", result.stderr
