"""From a picture's file, as Pillow opens it, to upright 8-bit RGB, in limited memory."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dfine_jax.host_memory import as_text, host_memory
from dfine_jax.inference.levels import from_array, sixteen_bits
from dfine_jax.inference.memory import return_freed_memory
from dfine_jax.inference.picture_error import PictureError, reason
from dfine_jax.inference.room import Room
from dfine_jax.inference.strips import has_strips, strips

COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
OTHER_FORMATS = (
    "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "ICO", "ICNS", "CUR", "PCX", "PSD", "QOI", "SGI", "XBM", "TGA",
)  # fmt: skip
"""The kinds of files that are opened as pictures, whatever they are called. Pillow knows more: for some of these it
starts other programs (EPS: Ghostscript) or inflates without a limit."""

ROOM = Room(5 * 2**26)
"""Memory for pictures on their way from file to RGB, in all threads together."""
LARGE = 2**24
"""Pixels above which a picture becomes RGB a few rows at a time, and no wider than it is wanted."""
HUGE = 2**26
"""Pixels above which a JPEG is decoded smaller where its pixels are not all wanted."""
SPARE = 4
"""In either direction that stays at least so many times as large as it is wanted: averaging loses next to nothing."""
TALL = 2**24
"""Pixels that may be left of a picture as narrow as it is wanted; of higher ones rows are averaged."""
LONGEST_SIDE = 2**20
AT_A_TIME = 2**20
"""Pixels of the rows of a large picture that are worked on."""
WORK = 32
"""Bytes that each of those takes, about."""
_DECODERS = {"WEBP": 13, "JPEG2000": 16, "AVIF": 8, "TIFF": 4, "SGI": 2}
"""Bytes a pixel that libraries take beside Pillow's own picture, at most, about."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture of each EXIF orientation upright; from 5 on sides are swapped."""


class Wanted(NamedTuple):
    """The size to which a picture will be stretched, in pixels, and Pillow's filter for that."""

    width: int
    height: int
    resample: Image.Resampling


class Decoded(NamedTuple):
    """An RGB picture, and the width and height of all of it where it was made smaller."""

    picture: Image.Image
    size: tuple[int, int]


def open_known(file: IO[bytes]) -> Image.Image:
    """Opens a picture without decoding it, as `PIL.Image.open` does and with its errors, if it is of a known format."""
    try:
        return Image.open(file, formats=COMMON_FORMATS)
    except UnidentifiedImageError:
        Image.init()  # loads what reads the others
        return Image.open(file, formats=[kind for kind in OTHER_FORMATS if kind in Image.OPEN])


def decode_file(file: IO[bytes], name: str, *, upright: bool, wanted: Wanted | None, stack: ExitStack) -> Decoded:
    """Decodes a file's first picture; for the arguments see `decode`."""
    try:
        image = open_known(file)
    except UnidentifiedImageError:
        heic = name.lower().endswith((".heic", ".heif"))
        kind = "HEIC pictures aren't supported" if heic else "not a picture, or a damaged one"
        raise PictureError(f"{name}: {kind}; convert it to JPEG or PNG") from None
    except Exception as error:
        raise _undecodable(error, name) from None
    whole = image.size
    try:
        if wanted is not None and whole[0] * whole[1] > HUGE:
            image.draft(None, (SPARE * max(wanted[:2]),) * 2)  # JPEGs alone can be decoded smaller
        return decode(image, name, file=file, whole=whole, upright=upright, wanted=wanted, stack=stack)
    finally:
        if whole[0] * whole[1] > LARGE:
            image.close()
            return_freed_memory()  # each thread would keep as much


def decode(
    image: Image.Image,
    name: str,
    *,
    file: IO[bytes] | None = None,
    whole: tuple[int, int] | None = None,
    upright: bool,
    wanted: Wanted | None,
    stack: ExitStack,
) -> Decoded:
    """RGB from an image that Pillow opened, or that a caller gave; `PictureError`, which calls it `name`, if it can't.

    `upright` turns it as its EXIF data says. `file` is what Pillow opened, `whole` the size of what is in it where less
    is going to be decoded. A picture of more than `LARGE` pixels comes no wider than it is `wanted`, by the same
    filter, so that stretching it then to the size that is wanted gives what stretching all of it does: to the bit,
    unless EXIF data turns it by a quarter (then to a rounding), it is a JPEG of more than `HUGE` pixels, or more than
    `TALL` are left. The memory counts as taken until `stack` is closed.
    """
    whole = whole or image.size
    if 0 in whole:
        raise PictureError(f"{name}: {whole[0]}x{whole[1]}, a picture without pixels")
    if max(whole) > LONGEST_SIDE:
        raise PictureError(f"{name}: {whole[0]}x{whole[1]}, and no side may be over {LONGEST_SIDE:,}; cut it to pieces")
    # Decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, IndexError, ...
    try:
        if whole[0] * whole[1] <= LARGE:
            stack.enter_context(ROOM.taken(_memory(image, upright, is_own=file is not None)))
            image.load()
            if not (file is not None and _is_ready(image, upright)):
                image = _rgb(_upright(image) if upright else image.copy(), name)
            return Decoded(image, image.size)
        return _of_large(image, name, file, whole, upright=upright, wanted=wanted, stack=stack)
    except PictureError:
        raise
    except Exception as error:
        raise _undecodable(error, name) from None


def _is_ready(image: Image.Image, upright: bool) -> bool:
    """Whether a picture from a file is RGB as it is decoded, without another copy."""
    return image.mode == "RGB" and not (upright and _orientation(image) > 1)


def _memory(image: Image.Image, upright: bool, *, is_own: bool) -> int:
    """Bytes that it takes at most, about, to decode all of a picture, and where need be to copy it.

    Deep greys become arrays.
    """
    bytes_each = 16 if image.mode.startswith(("I", "F")) else 4 if is_own and _is_ready(image, upright) else 8
    return image.width * image.height * bytes_each


def _of_large(
    image: Image.Image,
    name: str,
    file: IO[bytes] | None,
    whole: tuple[int, int],
    *,
    upright: bool,
    wanted: Wanted | None,
    stack: ExitStack,
) -> Decoded:
    orientation = _orientation(image) if upright else 1
    if wanted is not None and orientation > 4:
        wanted = Wanted(wanted.height, wanted.width, wanted.resample)
    width = image.width if wanted is None else min(image.width, wanted.width)
    factor = 1
    if wanted is not None and width * image.height > TALL:
        factor = max(1, image.height // (SPARE * wanted.height))
    height = -(-image.height // factor)
    by_strips = file is not None and has_strips(image)
    needed = 4 * width * height * (1 if wanted is not None else 2) + WORK * max(AT_A_TIME, image.width * factor)
    needed += 0 if by_strips else _whole_memory(image, whole)
    stack.enter_context(ROOM.taken(needed))
    if (free := host_memory()) is not None and needed > free:
        raise PictureError(
            f"{name}: decoding its {whole[0]}x{whole[1]} pixels takes about {as_text(needed)} of memory, and "
            f"{as_text(free)} are free; shrink it, or free some"
        )
    rows = max(1, AT_A_TIME // (image.width * factor)) * factor
    picture = Image.new("RGB", (width, height))
    for place, strip in enumerate(strips(image, file, rows) if by_strips else _cropped(image, rows)):
        strip = _rgb(strip, name)
        if strip.width > width:
            strip = strip.resize((width, strip.height), wanted.resample)
        picture.paste(strip if factor == 1 else strip.reduce((1, factor)), (0, place * rows // factor))
    orientation = _orientation(image) if upright else 1  # some files have it at their end
    if orientation > 4:
        whole = whole[::-1]
    return Decoded(picture.transpose(_TURNS[orientation]) if orientation > 1 else picture, whole)


def _whole_memory(image: Image.Image, whole: tuple[int, int]) -> int:
    """Bytes that it takes at most, about, to decode all of a picture."""
    bytes_each = 1 if image.mode in ("1", "L", "P") else 4  # as Pillow holds a pixel
    needed = image.width * image.height * (bytes_each + _DECODERS.get(image.format, 0))
    if image.info.get("progressive"):  # all coefficients of a JPEG, before the first pixel
        needed += 6 * whole[0] * whole[1]
    return needed


def _cropped(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    image.load()
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):  # greys of more than 8 bits: "I" comes from PGM, "I;16" from PNG and TIFF
        return from_array(sixteen_bits(np.asarray(image), name), name)
    if image.mode == "F":
        return from_array(np.asarray(image), name)
    if image.mode == "La":
        image = image.convert("LA")
    elif "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """A copy, rotated and mirrored as its EXIF data says."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF says nothing about the rotation, and the pixels are there
        return image.copy()


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns it as it reads, and has its size turned already
        return 1
    # A PNG would be decoded if it were asked itself, and what an image has told once it tells for ever.
    asked = Image.new("1", (1, 1))
    asked.info = image.info
    try:
        orientation = asked.getexif().get(0x0112, 1)
    except Exception:  # damaged
        return 1
    return orientation if orientation in _TURNS else 1


def _undecodable(error: Exception, name: str) -> PictureError:
    if isinstance(error, MemoryError):  # damaged files ask for any amount
        return PictureError(f"{name}: not enough memory to decode it, or damaged; shrink it or copy it again")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return PictureError(
            f"{name}: too large, over {limit} million pixels; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    return PictureError(f"{name}: cut off, damaged or unsupported ({reason(error)}); copy it again or convert it")
