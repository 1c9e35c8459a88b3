"""How code for a processor uses its vector registers."""

from functools import cache
from types import ModuleType
from typing import NamedTuple

WIDEST = 16
"""Lanes of the widest register that there is code for."""


class Registers(NamedTuple):
    """How a tile of a result lies in a processor's vector registers."""

    lanes: int
    """Numbers in one."""
    rows: int
    """Of a tile; fewer at the end of a map."""
    columns: int
    """Of a tile, or of the panel where that is narrower."""


@cache
def registers() -> Registers | None:
    """Those of this processor; None where there is no code for it, or no LLVM to compile it."""
    llvm = binding()
    if llvm is None or not llvm.get_process_triple().startswith("x86_64") or "linux" not in llvm.get_process_triple():
        return None
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return Registers(lanes=WIDEST, rows=12, columns=32)
    return Registers(lanes=8, rows=6, columns=16) if features.get("avx2") and features.get("fma") else None


def binding() -> ModuleType | None:
    """LLVM, where it is installed."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return None
    return llvm
