"""A small JSON file that holds an object: in any of Unicode's encodings, damaged or hostile."""

import json
from pathlib import Path
from typing import Any

from dfine_jax.errors import InputError
from dfine_jax.plain_file import open_plain, plain_size

LARGEST = 16 * 2**20
"""Bytes of a file of settings; that of a model with ten thousand classes takes less than one in ten of them."""
LONGEST_NUMBER = 400
"""Digits of a whole number."""


def read_object(path: Path, error: type[InputError] = InputError) -> dict[str, Any]:
    """The object in a JSON file of settings; ``error`` in one line, with the path, where there is none.

    A byte order mark, UTF-16 and UTF-32 are read too. A name that is there twice has to have one value.
    """
    path = Path(path)
    size = plain_size(path, error)
    if size > LARGEST:
        raise error(f"{path} has {size:,} bytes, too many for a file of settings (up to {LARGEST:,})")
    try:
        with open_plain(path) as file:
            value = json.loads(file.read(), parse_int=_whole, object_pairs_hook=_object)
    except RecursionError:
        raise error(f"{path} can't be read as JSON (it is nested too deeply)") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} can't be read as JSON ({problem})") from None
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f"{value!r:.60}"
        raise error(f"{path}: expected a JSON object, found {found}")
    return value


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if value != found[name]:
                raise ValueError(f"{name!r:.60} is there twice, with different values")
    return found
