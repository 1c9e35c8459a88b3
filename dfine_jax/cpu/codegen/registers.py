"""How code for a processor uses its vector registers."""

from functools import cache
from types import ModuleType
from typing import Literal, NamedTuple

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


Half = Literal["half", "bfloat", "i16"]
"""Types of 16 bits, by LLVM's names."""

HALVES: dict[Half, str] = {"half": "float16", "bfloat": "bfloat16", "i16": "int16"}
"""Their names in NumPy and JAX."""


@cache
def half() -> Half | None:
    """The one whose products this processor is faster at than at float32's; None where there is no such code for it.

    Processors that sum products of bfloat16 in tiles are left to XLA. AMD's, not Intel's, multiply twice as many in a
    register as of float32; where there are instructions for float16, or for sums of products of whole numbers (VNNI),
    it is twice as many, too.
    """
    layout = registers()
    if layout is None or layout.lanes != WIDEST:
        return None
    features = binding().get_host_cpu_features()
    if features.get("amx-bf16"):
        return None
    if features.get("avx512fp16"):
        return "half"
    if features.get("avx512bf16") and "znver" in binding().get_host_cpu_name():
        return "bfloat"
    return "i16" if features.get("avx512vnni") else None


def binding() -> ModuleType | None:
    """LLVM, where it is installed."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return None
    return llvm
