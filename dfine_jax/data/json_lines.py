"""Reading a large JSON file piece by piece, knowing the line of every piece.

COCO's training annotations are half a gigabyte, most of it outlines of objects; taking one entry at a time, and keeping
only what is needed of it, costs a fraction of the memory of the whole.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dfine_jax.data.samples import DataError
from dfine_jax.data.texts import decode, read_text, start_of

SPACE = re.compile(r"[ \t\n\r]*")
LIST = ""
"""The key of the entries of a file that is a list and no object."""
_SNIFFED = 2**18
"""Bytes at the beginning of a file by which its kind is told."""


class Entry(NamedTuple):
    """One entry of a top-level array, or a top-level value that is no array."""

    key: str
    value: Any
    line: int


class Sniffed(NamedTuple):
    """What a JSON file seems to be by its beginning."""

    is_list: bool
    keys: frozenset[str]
    """Of the object, or of the objects in the list."""
    is_lines: bool = False
    """Several objects, one after the other: JSON Lines."""


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of the JSON object in a file, in its order; those of a list have the key `LIST`.

    Raises:
        DataError: the file can't be read, or is neither a JSON object nor a list.
    """
    try:
        yield from _entries(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON: {error.msg}; mend or download the file again"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply for labels; is it the right file?") from error
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error


def sniff(path: Path) -> Sniffed | None:
    """Tells what a JSON file is by its beginning; None if it isn't JSON or can't be read."""
    keys: set[str] = set()
    is_list, text = False, ""
    try:
        text = decode(start_of(path, _SNIFFED), "replace")
        is_list = text.lstrip().startswith("[")
        for entry in _entries(text):
            keys |= set(entry.value) if is_list and isinstance(entry.value, dict) else {entry.key} - {LIST}
    except (json.JSONDecodeError, RecursionError):  # also where the text was cut
        pass
    except OSError:
        return None
    started = keys | set(re.findall(r'"((?:[^"\\]|\\.){1,40})"\s*:', text)[:1])
    is_lines = re.match(r"\s*\{[^\n]*\}[ \t\r]*\n\s*\{", text) is not None
    return Sniffed(is_list, frozenset(started), is_lines) if started or is_list else None


def lenient_number(text: str) -> int | float:
    """A whole number of any length, which Python's own reading refuses to make of thousands of digits."""
    return int(text) if len(text) < 400 else float(text)


_decode = json.JSONDecoder().raw_decode
_decode_leniently = json.JSONDecoder(parse_int=lenient_number).raw_decode


def _value(text: str, position: int) -> tuple[Any, int]:
    try:
        return _decode(text, position)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _decode_leniently(text, position)


def _entries(text: str) -> Iterator[Entry]:
    line, counted = 1, 0

    def skip_space(position: int) -> int:
        return SPACE.match(text, position).end()

    def expect(characters: str, position: int) -> int:
        """The place after the next thing, which must be one of `characters`."""
        position = skip_space(position)
        if text[position : position + 1] not in tuple(characters):
            raise json.JSONDecodeError(f"expected {' or '.join(characters)}", text, position)
        return skip_space(position + 1)

    def members(key: str, closing: str | None, position: int) -> Iterator[Entry]:
        """The entries of an array, or the one value where nothing closes it; returns the place after it."""
        nonlocal line, counted
        while text[position : position + 1] != closing:
            line, counted = line + text.count("\n", counted, position), position
            value, position = _value(text, position)
            yield Entry(key, value, line)
            if closing is None:
                return position
            position = skip_space(position)
            if text[position : position + 1] != closing:
                position = expect(",", position)
        return position + 1

    position = skip_space(0)
    if text[position : position + 1] == "[":
        yield from members(LIST, "]", skip_space(position + 1))
        return
    position = expect("{", 0)
    while text[position : position + 1] != "}":
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("expected a name in quotes", text, position)
        key, position = _value(text, position)
        position = expect(":", position)
        is_array = text[position : position + 1] == "["
        position = skip_space(position + 1) if is_array else position
        position = skip_space((yield from members(key, "]" if is_array else None, position)))
        if text[position : position + 1] != "}":
            position = expect(",", position)
