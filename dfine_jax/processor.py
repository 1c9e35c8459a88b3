"""The processor that JAX computes on, where that is a CPU: which one it is, and whether rounding makes it faster."""

import contextlib
import platform
from functools import cache
from pathlib import Path

INFORMATION = Path("/proc/cpuinfo")


@cache
def name_and_instructions() -> tuple[str, frozenset[str]]:
    """Maker and model, and the names that Linux gives to sets of instructions; none on other systems."""
    entries = {}
    with contextlib.suppress(OSError):
        first, *_ = INFORMATION.read_text("utf-8").split("\n\n")
        lines = (line.partition(":") for line in first.splitlines())
        entries = {key.strip(): value.strip() for key, _, value in lines}
    name = " ".join(
        entries[key] for key in ("vendor_id", "cpu family", "model", "model name", "CPU part") if key in entries
    )
    instructions = entries.get("flags", entries.get("Features", ""))
    return name or f"{platform.machine()} {platform.processor()}", frozenset(instructions.split())


def is_faster_in_bfloat16() -> bool:
    """Whether products of bfloat16, summed in float32, are faster than those of float32.

    Without instructions for them they take up to a hundred times as long, and with those of Intel's AVX-512 alone, on
    Xeons of the fifth generation, twice as long. AMD's take half as long.
    """
    name, instructions = name_and_instructions()
    return multiplies_tiles_of_bfloat16() or ("avx512_bf16" in instructions and "AuthenticAMD" in name)


def multiplies_tiles_of_bfloat16() -> bool:
    """Whether there are instructions for products of small matrices of bfloat16 (AMX, ARM's)."""
    _, instructions = name_and_instructions()
    return not {"amx_bf16", "bf16"}.isdisjoint(instructions)
