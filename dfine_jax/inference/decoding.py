"""From a picture's file, as Pillow opens it, to upright 8-bit RGB, in limited memory."""

from contextlib import ExitStack
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dfine_jax.inference.levels import from_array, sixteen_bits
from dfine_jax.inference.memory import return_freed_memory
from dfine_jax.inference.picture_error import PictureError, reason
from dfine_jax.inference.room import Room

COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
OTHER_FORMATS = (
    "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "ICO", "ICNS", "CUR", "PCX", "PSD", "QOI", "SGI", "XBM", "TGA",
)  # fmt: skip
"""The kinds of files that are opened as pictures, whatever they are called. Pillow knows more: for some of these it
starts other programs (EPS: Ghostscript) or inflates without a limit."""

ROOM = Room(2**30)
"""Memory for pictures on their way from file to RGB, in all threads together."""
HUGE = 2**26
"""Pixels above which a picture is decoded smaller where its pixels are not all wanted."""
SPARE = 4
"""In either direction it stays at least so many times as large as it is wanted: averaging loses next to nothing."""
ROWS = 64
"""Rows of a huge picture that are made smaller at a time."""

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


def decode_file(
    file: IO[bytes], name: str, *, upright: bool, wanted: tuple[int, int] | None, stack: ExitStack
) -> Decoded:
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
    is_huge = whole[0] * whole[1] > HUGE
    try:
        if wanted is not None and is_huge:
            image.draft(None, (SPARE * max(wanted),) * 2)  # JPEGs alone can be decoded smaller
        return decode(image, name, whole=whole, upright=upright, wanted=wanted, stack=stack)
    finally:
        image.close()
        if is_huge:
            return_freed_memory()  # each thread would keep as much


def decode(
    image: Image.Image,
    name: str,
    *,
    whole: tuple[int, int] | None = None,
    upright: bool,
    wanted: tuple[int, int] | None,
    stack: ExitStack,
) -> Decoded:
    """RGB from an image that Pillow opened, or that a caller gave; `PictureError`, which calls it `name`, if it can't.

    `upright` turns it as its EXIF data says. `whole` is its size where less is going to be decoded. Of more than `HUGE`
    pixels no more come than `SPARE` times what is `wanted` (width, height) in both directions. The memory counts as
    taken until `stack` is closed.
    """
    whole = whole or image.size
    if 0 in whole:
        raise PictureError(f"{name}: {whole[0]}x{whole[1]}, a picture without pixels")
    smaller = wanted is not None and whole[0] * whole[1] > HUGE
    stack.enter_context(ROOM.taken(_memory(image, whole, smaller)))
    # Decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, IndexError, ...
    try:
        image.load()
        if not smaller:
            picture = _rgb(_upright(image) if upright else image.copy(), name)
            return Decoded(picture, picture.size)
        orientation = _orientation(image) if upright else 1
        if orientation > 4:
            whole, wanted = whole[::-1], wanted[::-1]
        picture = _smaller(image, name, wanted)
        return Decoded(picture.transpose(_TURNS[orientation]) if orientation > 1 else picture, whole)
    except PictureError:
        raise
    except Exception as error:
        raise _undecodable(error, name) from None


def _memory(image: Image.Image, whole: tuple[int, int], smaller: bool) -> int:
    """Bytes that decoding takes at most, about."""
    pixels = image.width * image.height
    deep = image.mode.startswith(("I", "F"))
    # Pillow holds a pixel in four bytes, but for greys. As a whole it is copied, and deep greys become arrays.
    needed = pixels * (4 if smaller else 16 if deep else 8)
    if image.info.get("progressive"):  # all coefficients of a JPEG, before the first pixel
        needed += 6 * whole[0] * whole[1]
    return needed


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


def _smaller(image: Image.Image, name: str, wanted: tuple[int, int]) -> Image.Image:
    """RGB by means of squares of pixels, a few rows at a time."""
    factor = max(1, min(side // (SPARE * least) for side, least in zip(image.size, wanted, strict=True)))
    width, height = (-(-side // factor) for side in image.size)
    result = Image.new("RGB", (width, height))
    for top in range(0, image.height, ROWS * factor):
        rows = image.crop((0, top, image.width, min(top + ROWS * factor, image.height)))
        result.paste(_rgb(rows, name).reduce(factor), (0, top // factor))
    return result


def _upright(image: Image.Image) -> Image.Image:
    """A copy, rotated and mirrored as its EXIF data says."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF says nothing about the rotation, and the pixels are there
        return image.copy()


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(0x0112, 1)
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
