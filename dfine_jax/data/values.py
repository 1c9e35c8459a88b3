"""What a number, an id, a name, a truth value and a box may look like in labels of any format.

All of these raise ValueError with a few words for a problem's message: what was found, and what it is not.
"""

import math
import re
import reprlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})(\.0*)?", re.ASCII)
_TRUE = frozenset({"true", "yes", "y", "t", "on"})
_FALSE = frozenset({"false", "no", "n", "f", "off", "", "none", "null", "unspecified", "unknown"})
_JOINED = re.compile(r"(?<=[^\W_])[_-]+(?=[^\W_])|\s+")
"""What joins words; before or after one, `-` and `_` tell it from others: `-10`, `B-`."""
_BRACKETS = str.maketrans("[](){},;", " " * 8)
_CORNER_KEYS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
_SIDE_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))

_CORNERS_MODES = (0, "0", "XYXY_ABS", "BoxMode.XYXY_ABS")
_SIDES_MODES = (1, "1", "XYWH_ABS", "BoxMode.XYWH_ABS")

_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: Any) -> str:
    """A value in a message, however long or deep it is."""
    return shortened(_short.repr(value), 120)


def shortened(text: str, most: int) -> str:
    """Text less what is in the middle, if there is too much of it."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[-(most // 2 - 2) :]}"


def some(names: Iterable[object], most: int = 8, width: int = 60) -> str:
    """The first few of some names, each cut to a readable width: ``a, b, c and 5 more``."""
    names = [str(name) for name in names]
    cut = [shortened(name, width) for name in names[:most]]
    return ", ".join(cut) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def number(value: Any) -> float:
    """A finite number; text that is one, too."""
    if type(value) is float or type(value) is int:
        found = value
    elif isinstance(value, str) and _NUMBER.fullmatch(text := value.strip().replace(",", ".")):
        found = text
    else:
        raise ValueError(f"{shown(value)} is no number")
    try:
        found = float(found)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{shown(value)} is no finite number")
    return found


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """A picture's stated width and height; None if they are missing, not positive or no numbers: not stated."""
    try:
        sides = int(number(width)), int(number(height))
    except ValueError:
        return None
    return sides if min(sides) > 0 else None


def identity(value: Any, what: str = "") -> int | str:
    """An id by which things refer to each other: 1, "1", 1.0 and " 1 " are the same one. Any text is an id.

    `what` it is the id of begins the message of the error.
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and (text := value.strip()):
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else text
    raise ValueError(f"{what} {shown(value)} is no id".strip())


def name(value: Any) -> str:
    """A class's name: text without space around it, or a number, as it is written."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str) and (text := value.strip()):
        # Halves of characters, which JSON can hold and no file can.
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not text.isprintable() else text
    raise ValueError(f"{shown(value)} is no name")


def plain_name(text: str) -> str:
    """What names have in common that differ only in case and in how words are joined.

    Names of one character are left as they are: there, `a` and `A` are letters to tell apart.
    """
    text = _JOINED.sub(" ", text).strip()
    return text.casefold() if len(text) > 1 else text


def truth(value: Any) -> bool:
    """A truth value, also as a number or in words; nothing at all is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    try:
        return number(value) != 0
    except ValueError:
        raise ValueError(f"{shown(value)} is neither true nor false") from None


def box(value: Any, mode: Any = None) -> Corners:
    """The corners of a box: left, top, width and height as a list or as text; or by name, also as corners.

    `mode` is detectron2's `bbox_mode`, which tells corners from sides in a list.
    """
    if isinstance(value, Mapping):
        named = {str(key).lower(): part for key, part in value.items()}
        for keys in _CORNER_KEYS:
            if all(key in named for key in keys):
                return _numbers([named[key] for key in keys], value)
        keys = next((keys for keys in _SIDE_KEYS if all(key in named for key in keys)), ())
        sides = [named[key] for key in keys]
    else:
        sides = _split(value) if isinstance(value, str) else value
    left, top, width, height = _numbers(sides, value)
    if mode is None or mode in _SIDES_MODES:
        return left, top, left + width, top + height
    if mode in _CORNERS_MODES:
        return left, top, width, height
    raise ValueError(f"bbox_mode {shown(mode)} is neither 0 (corners) nor 1 (left, top, width and height)")


def _split(text: str) -> list[str]:
    """The numbers in a text; commas part them, or are in them where something else does."""
    pieces = [piece for piece in re.split(r"[\s;\[\](){}]+", text) if piece]
    decimal = len(pieces) == 4 and all(re.fullmatch(r"[^,]*\d,\d[^,]*|[^,.]+", piece) for piece in pieces)
    return pieces if decimal else text.translate(_BRACKETS).split()


def _numbers(sides: Any, value: Any) -> Corners:
    if not isinstance(sides, Sequence) or isinstance(sides, str) or len(sides) != 4:
        raise ValueError(f"box {shown(value)} is not four numbers")
    try:
        return tuple(map(number, sides))
    except ValueError as error:
        raise ValueError(f"box {shown(value)} is not four numbers: {error}") from None


def enclosing(points: Sequence[tuple[float, float]]) -> Corners:
    """The box around some points."""
    if len(points) < 2:
        raise ValueError(f"an outline of {len(points)} points encloses nothing")
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def first_of(entry: Mapping[Hashable, Any], *keys: str) -> Any:
    """The value under the first of some keys that has one; None if none has."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)
