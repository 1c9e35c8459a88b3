"""``log.jsonl``: a JSON object a line. It is read whatever a crash has left in it, and never holds a bare NaN."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines that hold an object with a whole number ``step``, in their order.

    Lines that were cut, or that a loss of power turned to zeros, are left out.
    """
    return [line for line in map(_parsed, path.read_bytes().split(b"\n")) if line is not None]


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Adds a line; numbers that are not finite become ``null``, which JSON has no other word for."""
    with path.open("ab") as file:
        file.write(_text(line))


def forget_after(path: Path, step: int) -> int:
    """Rewrites a log without the lines of later steps, and tells how many others could not be read and went, too."""
    if not path.exists():
        return 0
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip(b"\0 \r\t")]
    parsed = read_log(path)
    kept = b"".join(_text(line) for line in parsed if line["step"] <= step)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(kept)
    os.replace(new, path)
    return len(lines) - len(parsed)


def _text(line: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(line), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return value if isinstance(step, int) and not isinstance(step, bool) else None
