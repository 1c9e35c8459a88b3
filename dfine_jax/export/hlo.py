"""What a compiled program consists of, read from its text (``compiled.as_text()``, XLA's HLO)."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HOST_MEMORY = "S(5)"
"""How a layout says that an array lies in the host's memory."""
NAMES_ONLY = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "while", "conditional", "call"}
"""Instructions that write nothing by themselves."""

# A result is one type or, in parentheses and with spaces, several: those of send, recv and combined collectives are.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<result>\(.*?\)|\S+) (?P<name>[a-z][a-z0-9-]*)\(")
_ARRAY = re.compile(r"(?P<type>[a-z]+\d*)\w*\[(?P<shape>[\d,]*)\](?:\{(?P<order>[\d,]*)(?P<layout>[^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")
_LOOPED = re.compile(r"(?:body|condition)=%([\w.-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Counts(NamedTuple):
    """What a program does, on each chip; one round of each loop counts."""

    copies: int
    """Instructions that only change a layout, by themselves or inside a fusion."""
    copied_bytes: int
    """What those put out, with padding."""
    padding: float
    """Share of all that is written out which only fills tiles up: a TPU's are of 8 x 128 numbers."""
    cycles: int
    """As the compiler estimates them, where it does: not of gathers, sorts and collectives; 0 from XLA for CPUs."""
    collectives: dict[str, int]
    """Instructions that exchange data between devices, by name."""
    looped_collectives: int
    """How many of those lie in loops, so that every round of one waits for all devices."""
    host_transfers: int
    """Instructions that send something to the host or wait for it."""


class Size(NamedTuple):
    """Bytes of arrays."""

    data: int
    padded: int
    """With what fills up their layouts' tiles."""


def count_instructions(text: str) -> Counter[str]:
    """How often each kind of instruction is in a program, fused ones included."""
    return Counter(match["name"] for line in text.splitlines() if (match := _INSTRUCTION.match(line)))


def count(text: str) -> Counts:
    """What computes, and what only moves data; an asynchronous pair (``-start``, ``-done``) counts once."""
    found = count_instructions(text)
    started = {name: found[name] + found[f"{name}-start"] for name in COLLECTIVES}
    fused = set(re.findall(r"calls=%?([\w.-]+)", text))
    looped = _reached(text, set(_LOOPED.findall(text)))
    copied = data = padded = cycles = in_loops = 0
    for computation, line, match in _instructions(text):
        size = size_of(match["result"])
        if match["name"] in ("copy", "transpose"):
            copied += size.padded
        if computation in fused:
            continue
        in_loops += computation in looped and match["name"].removesuffix("-start") in COLLECTIVES
        cycles += sum(map(int, _CYCLES.findall(line)))
        if match["name"] not in NAMES_ONLY and not match["name"].endswith(("-start", "-done")):
            data, padded = data + size.data, padded + size.padded
    return Counts(
        copies=found["copy"] + found["transpose"],
        copied_bytes=copied,
        padding=1 - data / padded if padded else 0.0,
        cycles=cycles,
        collectives={name: number for name, number in started.items() if number},
        looped_collectives=in_loops,
        host_transfers=sum(_is_host_transfer(line) for line in text.splitlines()),
    )


def size_of(result: str) -> Size:
    """Bytes of a result as the text gives it: ``bf16[40,256]{1,0:T(8,128)(2,1)}``, or several in parentheses."""
    data = padded = 0
    for match in _ARRAY.finditer(result):
        bits = 8 if match["type"] == "pred" else int(re.sub(r"\D", "", match["type"]) or 0)
        shape = [int(n) for n in match["shape"].split(",") if n]
        data += math.prod(shape) * bits // 8
        tile = _TILE.search(match["layout"] or "")
        if tile is not None:  # the first says how the fastest axes are cut up, others only how such a tile is stored
            order, sides = (list(map(int, text.split(","))) for text in (match["order"] or "0", tile[1]))
            for axis, side in zip(order, reversed(sides), strict=False):
                if shape:
                    shape[axis] = -(-shape[axis] // side) * side
        padded += math.prod(shape) * bits // 8
    return Size(data, padded)


def _instructions(text: str) -> Iterator[tuple[str, str, re.Match]]:
    """Each instruction's computation, line and match."""
    computation = ""
    for line in text.splitlines():
        if (match := _INSTRUCTION.match(line)) is not None:
            yield computation, line, match
        elif (header := _COMPUTATION.match(line)) is not None:
            computation = header["name"]


def _reached(text: str, start: set[str]) -> set[str]:
    """These computations and all that they call, directly or not."""
    called: dict[str, set[str]] = {}
    for computation, line, _ in _instructions(text):
        for names in _CALLED.findall(line):
            called.setdefault(computation, set()).update(name.strip("%, ") for name in names.split(", "))
    reached, ahead = set(), set(start)
    while ahead:
        reached |= ahead
        ahead = set().union(*(called.get(name, ()) for name in ahead)) - reached
    return reached


def _is_host_transfer(line: str) -> bool:
    match = _INSTRUCTION.match(line)
    if match is None:
        return False
    if match["name"] in ("send", "recv"):  # between devices, too
        return "is_host_transfer=true" in line
    to_host = match["name"] in ("copy", "copy-start") and HOST_MEMORY in match["result"]
    return to_host or match["name"] in ("infeed", "outfeed")
