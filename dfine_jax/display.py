"""Text from outside (names of files and classes, messages that hold them) made fit to be shown."""

import unicodedata
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Kinds of characters that steer a terminal, turn the direction of text, break a line, or are no characters at all."""
_JOINERS = "\u200c\u200d"
"""These have no shape of their own either, but belong to the spelling of words and to emoji."""


def printable(text: object, *, lines: bool = False) -> str:
    r"""Spells out what a terminal would act upon instead of showing: ``\x1b``, ``\u202e``, bytes that are no UTF-8.

    All other text is left as it is. ``lines`` keeps line breaks.
    """
    text = str(text)
    if text.isprintable():  # the usual case: no character of those kinds, nor of any other without a shape
        return text
    return "".join(_spelled(character, lines) for character in text)


def verbatim(text: object, style: str = "") -> Text:
    """``printable`` text for Rich, which would take square brackets in a string for markup."""
    return Text(printable(text), style)


def say(console: "Console", text: object, style: str = "") -> None:
    """Prints a line of ``verbatim`` text, which isn't broken at the terminal's width."""
    console.print(verbatim(text, style), soft_wrap=True)


def storable(text: str) -> str:
    r"""Spells out (``\xe9``) only bytes that are no UTF-8, which files in UTF-8 can't hold."""
    if text.isascii():
        return text
    return "".join(
        _spelled(character, True) if unicodedata.category(character) == "Cs" else character for character in text
    )


def _spelled(character: str, lines: bool) -> str:
    if unicodedata.category(character) not in _UNSEEN or character in _JOINERS or (lines and character == "\n"):
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
