"""What a compiled program consists of, counted from its text (``compiled.as_text()``, XLA's HLO)."""

import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HOST_MEMORY = "S(5)"
"""How a layout says that an array lies in the host's memory."""

# A result is one type or, in parentheses and with spaces, several: those of send, recv and combined collectives are.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<result>\(.*?\)|\S+) (?P<name>[a-z][a-z0-9-]*)\(")


class Counts(NamedTuple):
    """Instructions of each kind; one inside a loop counts once."""

    copies: int
    """Those that only change a layout, by themselves or inside a fusion."""
    collectives: dict[str, int]
    """Those that exchange data between devices, by name."""
    host_transfers: int
    """Those that send something to the host or wait for it."""


def count_instructions(text: str) -> Counter[str]:
    """How often each kind of instruction is in a program, fused ones included."""
    return Counter(match["name"] for line in text.splitlines() if (match := _INSTRUCTION.match(line)))


def count(text: str) -> Counts:
    """What moves data without computing; an asynchronous pair (``-start``, ``-done``) counts once."""
    found = count_instructions(text)
    started = {name: found[name] + found[f"{name}-start"] for name in COLLECTIVES}
    return Counts(
        copies=found["copy"] + found["transpose"],
        collectives={name: number for name, number in started.items() if number},
        host_transfers=sum(_is_host_transfer(line) for line in text.splitlines()),
    )


def _is_host_transfer(line: str) -> bool:
    match = _INSTRUCTION.match(line)
    if match is None:
        return False
    if match["name"] in ("send", "recv"):  # between devices, too
        return "is_host_transfer=true" in line
    to_host = match["name"] in ("copy", "copy-start") and HOST_MEMORY in match["result"]
    return to_host or match["name"] in ("infeed", "outfeed")
