"""Pieces of LLVM's language that all code here is written with."""

from collections.abc import Iterable

import numpy as np


def lines(code: Iterable[str]) -> str:
    """Indented, as code in a function is."""
    return "\n  ".join(code)


def splat(lanes: int, value: float) -> str:
    """A vector of one number."""
    bits = np.float64(np.float32(value)).view(np.uint64)
    return "<" + ", ".join([f"float 0x{bits:016X}"] * lanes) + ">"
