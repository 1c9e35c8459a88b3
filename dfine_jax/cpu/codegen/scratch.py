"""A thread's own memory: one table for how much a call asks for and for where its code puts what.

In LLVM's language the line ``SCRATCH.KIND`` stands for lines that set a pointer ``%{region}`` to where each region
begins, from ``%scratch`` on; ``SCRATCH.KIND.FROM.NAME`` begins at ``%NAME``. Sizes are in numbers of 32 bits.
"""

import math
import re
from collections.abc import Iterator

from dfine_jax.cpu.codegen.product import PANEL
from dfine_jax.cpu.codegen.registers import WIDEST

QUERIES_OF_HEAD = 24
"""Queries of an attention whose scores a thread has at a time."""

CORNERS = 4
"""Cells around a point of deformable attention."""

ENTRIES = 36
"""Numbers of a transformed tile of Winograd F(4,3), each for a product of its own."""

DEPTH = 256
"""Numbers of a column that are packed at a time: a panel of so many and a tile's rows fit the nearest cache."""

PACKED = (DEPTH + WIDEST) * PANEL
"""Numbers that packing a panel's columns writes, with those beyond the end where it transposes."""

Size = tuple[str | int, ...]
"""A product of numbers and of values, which have the same names in LLVM's language and in Python."""

SCRATCH: dict[str, dict[str, Size]] = {
    "gemm": {"sums": ("count", "columns")},
    "gemm16": {"sums": ("count", "columns"), "scales": ("count",), "rounded": ("count", "pairs")},
    "rows": {"sums": ("wide", "columns"), "zeros": ("zero_count",), "edges": ("edge_count",)},
    "rows16": {"sums": ("wide", "columns"), "first.map.memory": ()},
    "map16": {"scales": ("wide",), "rounded": ("all_rows", "down"), "read.beyond": (WIDEST,), "next.map": ()},
    "tiles": {
        "inputs": ("count", "numbers", ENTRIES),
        "products": ("count", "outputs", ENTRIES),
        "scales": ("count",),
        "outside": ("outside_count",),
    },
    "int16_tiles": {
        "inputs": ("count", "channels", ENTRIES),
        "products": ("count", "outputs", ENTRIES),
        "scales": ("count",),
        "rounded": ("count", "pairs"),
        "outside": ("outside_count",),
    },
    "attention": {
        "packed.keys": ("channels", "columns"),
        "packed.values": ("channels", "tokens"),
        "scores": ("columns", QUERIES_OF_HEAD),
        "mixed": ("channels", QUERIES_OF_HEAD),
        "sums": (QUERIES_OF_HEAD,),
    },
    "sampling": {"cells": ("pitch", CORNERS), "shares": ("pitch", CORNERS)},
    "matrices": {"packed": (PACKED,), "beyond": ("beyond_count",)},
    "gradients": {"packed": (PACKED,), "padded": ("taps", "row_size"), "beyond": ("beyond_count",)},
}
"""By kind of work, the regions in their order, each with its size."""

_LINE = re.compile(r"^  SCRATCH\.(\w+)(?:\.FROM\.([\w.]+))?$", re.MULTILINE)


def scratch_size(kind: str, **values: int) -> int:
    """Gives how many numbers the work takes; ``KeyError`` without one of the values that its regions depend on."""
    sizes = [size for size in SCRATCH[kind].values() if size]
    return sum(math.prod(values[factor] if isinstance(factor, str) else factor for factor in size) for size in sizes)


def laid_out(source: str) -> str:
    """Gives LLVM's language with pointers to the regions instead of the lines that stand for them."""

    def pointers(match: re.Match) -> str:
        return "\n".join(f"  {line}" for line in _pointers(match[1], match[2] or "scratch"))

    return _LINE.sub(pointers, source)


def _pointers(kind: str, begin: str) -> Iterator[str]:
    """Lines that set a pointer to each region; nothing follows the last one, so that code needs no size of it."""
    *names, last = SCRATCH[kind]
    before, offset = begin, "0"
    for name in names:
        yield f"%{name} = getelementptr float, ptr %{before}, i64 {offset}"
        first, *others = map(_operand, SCRATCH[kind][name])
        before, offset = name, first
        for place, factor in enumerate(others):
            yield f"%{name}.size.{place} = mul i64 {offset}, {factor}"
            offset = f"%{name}.size.{place}"
    yield f"%{last} = getelementptr float, ptr %{before}, i64 {offset}"


def _operand(factor: str | int) -> str:
    return f"%{factor}" if isinstance(factor, str) else str(factor)
