"""Reading files of text: their encoding, and that they are files at all."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from dfine_jax.plain_file import open_plain

_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
"""What writes these names in fact writes the larger one."""
_NO_TEXT = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf_7", "undefined", "mbcs", "oem"})
"""Codecs that Python has besides those of texts."""
_CHUNK = 2**20
_LONGEST_ROW = 4 * _CHUNK


class TextError(OSError):
    """A file that can't be read as text; `strerror` says why in a few words."""

    def __init__(self, reason: str):
        super().__init__(None, reason)

    def __str__(self) -> str:
        return self.strerror


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a file; raises OSError if it can't be read or has more than `most` bytes."""
    with open_plain(path) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise TextError(f"larger than {most // 2**20} MiB, too large for what it should be")
    return content


def decode(content: bytes, errors: str = "strict") -> str:
    """Text from UTF-8, or from UTF-16 or UTF-32 as its first bytes tell; a byte order mark is no part of it."""
    encoding = json.detect_encoding(content[:4])
    try:
        return content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise TextError(f"neither UTF-8 nor UTF-16 (byte {error.start:,}); save it as UTF-8") from None


def read_text(path: Path, most: int | None = None) -> str:
    """The text of a file; raises OSError as `read_bytes` does, or if it is in no encoding of Unicode."""
    return decode(read_bytes(path, most))


def read_paths(path: Path) -> list[tuple[int, str]]:
    """The rows of a list of files, with their line numbers; names that are no UTF-8 as the system gives them."""
    rows = decode(read_bytes(path), "surrogateescape").splitlines()
    stripped = ((line, row.strip().strip("\"'").strip()) for line, row in enumerate(rows, start=1))
    return [(line, row) for line, row in stripped if row]


def rows(path: Path) -> Iterator[tuple[int, str]]:
    """The rows of a file that aren't empty, with their line numbers, a piece of the file at a time."""
    with open_plain(path) as file:
        encoding = json.detect_encoding(file.peek(4)[:4])
        decoder = codecs.getincrementaldecoder(encoding)()
        line, rest = 0, ""
        while True:
            chunk = file.read(_CHUNK)
            try:
                text = rest + decoder.decode(chunk, not chunk)
            except UnicodeDecodeError:
                raise TextError("neither UTF-8 nor UTF-16; save it as UTF-8") from None
            pieces = text.splitlines(keepends=True)
            # The last piece may go on, and a carriage return may be half of a line's end.
            rest = pieces.pop() if chunk and pieces else ""
            if len(rest) > _LONGEST_ROW:
                raise TextError(f"line {line + 1} has more than {_LONGEST_ROW:,} characters: no text of labels")
            for piece in pieces:
                line += 1
                if row := piece.strip():
                    yield line, row
            if not chunk:
                return


def decode_xml(content: bytes) -> str:
    """Text from XML in the encoding that its bytes or its first line tell; UTF-8 if that is wrong or not known."""
    content = content.lstrip(b" \t\r\n") if content[:1].isspace() and b"\0" not in content[:4] else content
    detected = json.detect_encoding(content[:4])
    declared = _DECLARED.match(content) if detected == "utf-8" else None
    if declared is None:
        return decode(content)
    stated = declared[1].decode("ascii")
    try:
        codec = codecs.lookup(stated).name
        # Without the zero bytes of UTF-16, it isn't that, whatever is declared.
        usable = codec.replace("-", "_") not in _NO_TEXT and not codec.startswith(("utf", "ascii"))
        return content.decode(_SUPERSETS.get(codec, codec) if usable else "utf-8")
    except (LookupError, UnicodeDecodeError):
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise TextError(f"can't be decoded: declares the encoding {stated}; save it as UTF-8") from None


def start_of(path: Path, size: int) -> bytes:
    """The first bytes of a file."""
    with open_plain(path) as file:
        return file.read(size)
