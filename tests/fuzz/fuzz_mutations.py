"""Changes of files at random: of bytes, of the values of JSON, of words in text."""

import copy
import json
import re
from typing import Any

import numpy as np

RAW = {
    "huge exponent": "1e999",
    "a thousand digits": "9" * 1000,
    "ten thousand digits": "9" * 10**4,
    "deep lists": "[" * 5000 + "]" * 5000,
    "very deep lists": "[" * 10**5,
    "deep objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "not a number": "NaN",
    "infinite": "-Infinity",
    "lone surrogate": '"\\ud83d"',
    "lone surrogate as key": '{"\\ud83d": 1}',
    "no value": "",
    "leading zero": "007",
    "not JSON": "undefined",
    "comment": "/* */ 1",
}
"""Text in place of a value of JSON, some of it none."""

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 31, 33, 10**9, 10**18, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308,
    "", " ", "1", "-1", "1e999", "nan", "x" * 10**5, "\x1b[31m", "\0", "a\nb", "\u202e", "[/x]", "../../../etc/passwd",
    "/dev/zero", "file:///dev/zero", "http://127.0.0.1:1/", "a/" * 3000, [], {}, [[]], [None], [1] * 1000, ["a"] * 1000,
    {"a": 1}, {"": {}}, [[1, 2], [3, 4]], [0.1, 0.2, 0.3, 0.4], ["1", 2, None, {}],
]  # fmt: skip

WORDS = [
    "nan", "inf", "-inf", "1e999", "-1", "0", "1", "1e308", "9" * 400, "x", "", "\0", "\x1b[31m", "\ufeff", "\u202e",
    "é", "0x10", "1_000", "1,5", "true", "null", "~", "*a", "&a [*a, *a]", "!!python/object/apply:os.system ['true']",
    "!!binary x", "{", "}", "[" * 3000, "]", ":", "- ", "\t", "#", "%", "|", ">", "<", "&lol;", "<a>" * 3000, "]]>",
    "<!DOCTYPE a [<!ENTITY b 'c'>]>", "../" * 20 + "etc/passwd", "/dev/zero", "x" * 10**5, "1 " * 1000,
]  # fmt: skip


def bytes_of(rng: np.random.Generator, data: bytes) -> bytes:
    """Some bytes are changed, left out, repeated or moved, more often near the start, where files say what they are."""
    result = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        length = max(1, len(result))
        reach = min(length, int(rng.choice([16, 128, 1024, length])))
        place, kind = int(rng.integers(reach)), rng.integers(8)
        size = int(rng.choice([1, 2, 4, 8, 64]))
        if kind <= 1 and result:
            result[place % len(result)] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            result[place : place + size] = rng.bytes(size)
        elif kind == 3:
            number = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            result[place : place + 4] = number.to_bytes(4, str(rng.choice(["little", "big"])))
        elif kind == 4:
            del result[place : place + size]
        elif kind == 5:
            result[place:place] = result[place : place + size] * int(rng.integers(1, 20))
        elif kind == 6:
            del result[int(rng.integers(length)) :]
        else:
            other = int(rng.integers(length))
            result[place : place + size] = result[other : other + size]
    return bytes(result)


def json_of(rng: np.random.Generator, text: str) -> str:
    """Some values are exchanged for others, left out or doubled; at times the text itself is damaged."""
    if rng.random() < 0.1:
        return bytes_of(rng, text.encode()).decode("latin-1")
    value, raw = json.loads(text), {}
    for _ in range(rng.integers(1, 4)):
        places = list(_places(value))
        if not places:
            break
        holder, key = places[int(rng.integers(len(places)))]
        kind = rng.random()
        if kind < 0.15:
            del holder[key]
        elif kind < 0.25:
            holder[key] = [holder[key]] * int(rng.choice([0, 1, 2, 300]))
        elif kind < 0.35 and isinstance(holder, dict):
            holder[_any(rng, ["", "x", "\ud83d", "__proto__", "0", str(key).upper()])] = holder[key]
        elif kind < 0.55:
            name = _any(rng, list(RAW))
            holder[key] = f"@@{name}@@"
            raw[name] = RAW[name]
        else:
            holder[key] = _any(rng, VALUES)
    written = json.dumps(value)
    for name, replacement in raw.items():
        written = written.replace(f'"@@{name}@@"', replacement)
    return written


def words_of(rng: np.random.Generator, text: str) -> bytes:
    """Some words or lines are exchanged, left out or doubled; at times bytes are damaged or the encoding is another."""
    if rng.random() < 0.1:
        return bytes_of(rng, text.encode())
    parts = re.split(r"(\s+|[<>/:,=\[\]{}'\"])", text)
    for _ in range(rng.integers(1, 5)):
        place, kind = int(rng.integers(len(parts))), rng.random()
        if kind < 0.6:
            parts[place] = _any(rng, WORDS)
        elif kind < 0.75:
            del parts[place : place + int(rng.integers(1, 6))]
        elif kind < 0.9:
            parts[place:place] = parts[place : place + int(rng.integers(1, 20))] * int(rng.integers(1, 30))
        else:
            parts.insert(place, "\n")
        parts = parts or [""]
    changed = "".join(parts)
    return changed.encode(str(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "utf-7"])), "replace")


def _places(value: Any):
    """Every holder and key within."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def _any(rng: np.random.Generator, options: list) -> Any:
    return copy.deepcopy(options[int(rng.integers(len(options)))])
