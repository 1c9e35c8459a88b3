"""Reading a large JSON object piece by piece, knowing the line of every piece.

COCO's training annotations are half a gigabyte, most of it outlines of objects; taking one entry at a time, and keeping
only what is needed of it, costs a fraction of the memory of the whole.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dfine_jax.data.samples import DataError

SPACE = re.compile(r"[ \t\n\r]*")


class Entry(NamedTuple):
    """One entry of a top-level array, or a top-level value that is no array."""

    key: str
    value: Any
    line: int


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of the JSON object in a file, in its order.

    Raises:
        DataError: the file can't be read, isn't JSON or isn't an object.
    """
    try:
        yield from _entries(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON: {error.msg}; mend or download the file again"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read {path}: {error}") from error


def _entries(text: str) -> Iterator[Entry]:
    decode = json.JSONDecoder().raw_decode
    line, counted = 1, 0

    def skip_space(position: int) -> int:
        return SPACE.match(text, position).end()

    def expect(characters: str, position: int) -> int:
        """The place after the next thing, which must be one of `characters`."""
        position = skip_space(position)
        if text[position : position + 1] not in tuple(characters):
            raise json.JSONDecodeError(f"expected {' or '.join(characters)}", text, position)
        return skip_space(position + 1)

    position = expect("{", 0)
    while text[position : position + 1] != "}":
        key, position = decode(text, position)
        position = expect(":", position)
        closing = None
        if text[position : position + 1] == "[":
            closing, position = "]", skip_space(position + 1)
        while text[position : position + 1] != closing:
            line, counted = line + text.count("\n", counted, position), position
            value, position = decode(text, position)
            yield Entry(key, value, line)
            if closing is None:
                break
            position = skip_space(position)
            if text[position : position + 1] != closing:
                position = expect(",", position)
        if closing is not None:
            position = skip_space(position + 1)
        position = skip_space(position)
        if text[position : position + 1] != "}":
            position = expect(",", position)
