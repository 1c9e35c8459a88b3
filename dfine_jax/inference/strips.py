"""Large PNG files a few rows at a time; Pillow by itself decodes all of a picture or nothing."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

PIECE = 2**16
"""Bytes of a file that are read at a time."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS = {
    "1": 1, "L;2": 2, "L;4": 4, "L": 8, "I;16B": 16, "P;1": 1, "P;2": 2, "P;4": 4, "P": 8,
    "LA": 16, "LA;16B": 32, "RGB": 24, "RGB;16B": 48, "RGBA": 32, "RGBA;16B": 64,
}  # fmt: skip
"""Of a pixel in the file, by Pillow's names of what a PNG holds."""
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's type of colours with so many channels: grey, grey and alpha, RGB, RGB and alpha."""
_LONGEST_EXIF = 2**20


def has_strips(image: Image.Image) -> bool:
    """Whether `strips` can read an opened picture that isn't decoded yet: a PNG in one piece, not interlaced."""
    return (
        isinstance(image, PngImagePlugin.PngImageFile)
        and not image.is_animated
        and not image.info.get("interlace")
        and [tile[:2] for tile in image.tile] == [("zip", (0, 0, *image.size))]
        and image.tile[0].args in _BITS
    )


def strips(image: Image.Image, file: IO[bytes], rows: int) -> Iterator[Image.Image]:
    """The picture in a file, `rows` rows at a time from the top, to the bit as Pillow decodes the whole.

    Pillow opened `file` as `image`, for which `has_strips`. What the file tells of the picture's orientation after its
    pixels is in `image.info` when all strips are read. Raises OSError where the file breaks off or is damaged.

    A row is written as differences to the one before. That is undone by Pillow, too: it gets a small PNG of each strip,
    with the row before as its first.
    """
    layout = image.tile[0].args
    bits = _BITS[layout]
    length = (image.width * bits + 7) // 8
    data = _Inflated(_pieces(file, image))
    before = np.zeros(length, np.uint8)
    for top in range(0, image.height, rows):
        count = min(rows, image.height - top)
        filtered = np.frombuffer(data.read(count * (1 + length)), np.uint8).reshape(count, 1 + length)
        plain = _unfiltered(filtered, before, max(1, bits // 8))
        before = plain[-1]
        strip = Image.frombytes(image.mode, (image.width, count), plain.tobytes(), "raw", layout)
        if image.palette is not None:
            strip.palette = image.palette.copy()
        if "transparency" in image.info:
            strip.info["transparency"] = image.info["transparency"]
        yield strip
    data.finish()


def _pieces(file: IO[bytes], image: Image.Image) -> Iterator[bytes]:
    """The compressed pixels."""
    file.seek(len(_SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            while length and (piece := file.read(min(length, PIECE))):
                length -= len(piece)
                yield piece
        elif kind == b"eXIf" and length <= _LONGEST_EXIF:
            image.info["exif"] = b"Exif\x00\x00" + file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)
        file.seek(4, io.SEEK_CUR)  # a checksum, which Pillow doesn't look at either


class _Inflated:
    """What compressed pieces hold, never more of it than is asked for."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces = pieces
        self._waiting = b""
        self._inflater = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """Exactly so many bytes; OSError if there are less."""
        parts: list[bytes] = []
        while size:
            self._waiting = self._waiting or next(self._pieces, b"")
            if not self._waiting or self._inflater.eof:
                raise OSError("image file is truncated")
            try:
                parts.append(self._inflater.decompress(self._waiting, size))
            except zlib.error:
                raise OSError("broken data stream when reading image file") from None
            self._waiting = self._inflater.unconsumed_tail
            size -= len(parts[-1])
        return b"".join(parts)

    def finish(self) -> None:
        """Passes over the rest of the file."""
        for _ in self._pieces:
            pass


def _unfiltered(
    filtered: UInt8[np.ndarray, "rows 1+length"], before: UInt8[np.ndarray, " length"], pixel: int
) -> UInt8[np.ndarray, "rows length"]:
    """The rows' bytes, from those that PNG's filters gave and the row before them; `pixel` is the bytes of one.

    Each byte depends on those at the same place in other pixels only, so that deep colours, of six or eight bytes, may
    go in two halves: Pillow keeps eight bits of each.
    """
    count, length = len(filtered), len(before)
    filters, data = filtered[:, :1], filtered[:, 1:].reshape(count, -1, pixel)
    width, halves = data.shape[1], 1 if pixel in _COLOURS else 2
    channels = pixel // halves
    parts = []
    for first in range(0, pixel, channels):
        rows = np.zeros((count + 1, 1 + width * channels), np.uint8)
        rows[1:, :1] = filters
        rows[0, 1:] = before.reshape(width, pixel)[:, first : first + channels].ravel()
        rows[1:, 1:] = data[..., first : first + channels].reshape(count, -1)
        with Image.open(io.BytesIO(_png(width, count + 1, channels, rows)), formats=["PNG"]) as image:
            parts.append(np.frombuffer(image.tobytes(), np.uint8).reshape(count + 1, width, channels)[1:])
    return np.concatenate(parts, axis=-1).reshape(count, length)


def _png(width: int, height: int, channels: int, rows: np.ndarray) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    parts = [_SIGNATURE]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))]
    return b"".join(parts)
