"""Pictures as people have them: found in folders, fetched, and decoded to upright 8-bit RGB."""

import glob
import http.client
import io
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dfine_jax.errors import InputError

TIMEOUT = 20.0
"""Seconds that a server may stay silent."""
DOWNLOAD_TIMEOUT = 120.0
"""Seconds that a whole download may take."""
MAX_DOWNLOAD = 128 * 2**20
"""Bytes of the largest picture taken from the network."""

# What counts as a picture when a folder is searched; a file named by itself is tried whatever it is called.
# HEIC is here although Pillow can't read it: a phone's folder should say so and not come out silently short.
# fmt: off
SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})
# fmt: on


COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
OTHER_FORMATS = (
    "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "ICO", "ICNS", "CUR", "PCX", "PSD", "QOI", "SGI", "XBM", "TGA",
)  # fmt: skip
"""The kinds of files that are opened as pictures, whatever they are called. Pillow knows more: for some of these it
starts other programs (EPS: Ghostscript) or inflates without a limit."""


class PictureError(InputError):
    """A picture that can't be found or read. One line: which, what is wrong with it, what to do."""


def picture_name(source: Any) -> str:
    """What results and messages call `source`: the path or address as given, else its kind."""
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        return f"{name[:40]}..." if name.startswith("data:") and len(name) > 40 else name
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "picture")
    return "array" if hasattr(source, "__array__") else type(source).__name__


def load_picture(source: Any, *, upright: bool = True) -> Image.Image:
    """Reads one picture and returns it upright, in mode RGB, 8 bits a channel.

    `source` is a path, an address (http, https, file or data), a PIL image, or a NumPy or JAX array of shape
    (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) holding uint8, bool, uint16 (full range), floats from 0 to 1, or
    other integers from 0 to 255.

    EXIF rotation is applied unless `upright` is False, which gives the pixels as stored (but for TIFF, which Pillow
    turns as it reads). The first frame of an animation is taken, and alpha is dropped: the colours stored under it are
    kept, because that is what transformers' `load_image` and the usual training pipelines feed a model, so a picture
    gives the same numbers everywhere. The one departure: greys of 16 bits are scaled to 8 (x / 257), where Pillow's
    own conversion clips all above 255 to white.

    Raises PictureError for anything that isn't a readable picture.
    """
    name = picture_name(source)
    if isinstance(source, Image.Image):
        return _decode(source, name, upright)
    if isinstance(source, str | os.PathLike):
        return _read(source, name, upright)
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source), name)
    raise PictureError(f"{name}: not a picture; give a path, an address, a PIL image or an array")


def find_pictures(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """Expands files, folders, globs and addresses to pictures, in the order given, each once.

    Folders are searched with all their subfolders, in the order of their paths, for files with a picture's
    suffix; hidden files and folders are left out. Files named by themselves or matched by a glob are taken
    whatever their suffix, as a shell would. Raises PictureError where a path doesn't exist, a folder holds no
    picture or a glob matches nothing.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: dict[str, str] = {}
    for path in map(os.fsdecode, paths):
        for picture in _expand(path):
            found.setdefault(picture if _is_address(picture) else os.path.abspath(picture), picture)
    return list(found.values())


def _expand(path: str) -> list[str]:
    if _is_address(path) or os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        if pictures := _pictures_below(path):
            return pictures
        raise PictureError(f"{path}: no pictures in this folder; looked for {', '.join(sorted(SUFFIXES))}")
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        pictures = [p for match in matches for p in (_pictures_below(match) if os.path.isdir(match) else [match])]
        if pictures:
            return pictures
        raise PictureError(f"{path}: no file matches this pattern; check the folder and the suffix")
    if os.path.exists(path):
        return [path]  # a pipe or a device: trying it will tell
    raise PictureError(f"{path}: no such file or folder; check the spelling")


def _pictures_below(folder: str) -> list[str]:
    def refuse(error: OSError):
        raise PictureError(f"{error.filename}: can't list this folder ({error.strerror}); check its permissions")

    pictures: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [f for f in folders if not f.startswith(".")]
        pictures += [
            Path(here, f) for f in files if not f.startswith(".") and os.path.splitext(f)[1].lower() in SUFFIXES
        ]
    return [str(p) for p in sorted(pictures)]


def open_image(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Opens a picture without decoding it, as ``PIL.Image.open`` does and with its errors, if it is of a known format.

    Its size and EXIF data can be read; the caller closes it.
    """
    try:
        return Image.open(file, formats=COMMON_FORMATS)
    except UnidentifiedImageError:
        Image.init()  # loads what reads the others
        return Image.open(file, formats=[kind for kind in OTHER_FORMATS if kind in Image.OPEN])


def _is_address(path: str) -> bool:
    return "://" in path or path.startswith("data:")


def _read(source: str | os.PathLike, name: str, upright: bool) -> Image.Image:
    path = os.fsdecode(source)
    if _is_address(path):
        scheme = path.split(":", 1)[0].lower()
        if scheme == "file":
            path = urllib.request.url2pathname(urllib.parse.urlsplit(path).path)
        elif scheme in ("http", "https", "data"):
            return _open(io.BytesIO(_download(path, name)), name, upright)
        else:
            raise PictureError(f"{name}: can't fetch from {scheme}://; use http, https, file or data")
    try:
        if os.path.isdir(path):
            raise PictureError(f"{name}: a folder, not a picture; list its pictures with find_pictures")
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise PictureError(f"{name}: the file is empty; copy or download it again")
        with open(path, "rb") as file:
            return _open(file, name, upright)
    except FileNotFoundError:
        raise PictureError(f"{name}: no such file; check the path") from None
    except PictureError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise PictureError(f"{name}: can't be read ({_reason(error)})") from None


def _download(address: str, name: str) -> bytes:
    """The bytes behind a http, https or data address."""
    # People paste addresses with spaces and accents in them; what is already escaped stays as it is.
    quoted = address if address.startswith("data:") else urllib.parse.quote(address, safe=":/?#[]@!$&'()*+,;=%~")
    headers = {
        "User-Agent": "dfine-jax",
        "Accept": "image/*,*/*;q=0.5",
    }  # some servers refuse urllib's own name
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    try:
        with urllib.request.urlopen(urllib.request.Request(quoted, headers=headers), timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise PictureError(f"{name}: the address leads to a web page; use the picture's own address")
            data = bytearray()
            while chunk := response.read1(2**16):
                data += chunk
                if len(data) > MAX_DOWNLOAD:
                    limit = MAX_DOWNLOAD // 2**20
                    raise PictureError(f"{name}: more than {limit} MiB; download it and give the file's path")
                if time.monotonic() > deadline:
                    limit = int(DOWNLOAD_TIMEOUT)
                    raise PictureError(f"{name}: not here after {limit} seconds; download it and give the file's path")
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise PictureError(f"{name}: the server answered {error.code} {error.reason}; check the address") from None
    except PictureError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        if address.startswith("data:"):
            raise PictureError(f"{name}: a malformed data address ({_reason(error)})") from None
        raise PictureError(f"{name}: can't be reached ({_reason(error)}); check the address and the network") from None
    if not data:
        raise PictureError(f"{name}: the server sent nothing; check the address")
    return bytes(data)


def _open(file: io.IOBase, name: str, upright: bool) -> Image.Image:
    try:
        with open_image(file) as image:
            return _decode(image, name, upright)
    except PictureError:
        raise
    except UnidentifiedImageError:
        heic = name.lower().endswith((".heic", ".heif"))
        kind = "HEIC pictures aren't supported" if heic else "not a picture, or a damaged one"
        raise PictureError(f"{name}: {kind}; convert it to JPEG or PNG") from None
    except Exception as error:
        raise _undecodable(error, name) from None


def _decode(image: Image.Image, name: str, upright: bool) -> Image.Image:
    """RGB from an image that Pillow opened, or that a caller gave."""
    if 0 in image.size:
        raise PictureError(f"{name}: {image.width}x{image.height}, a picture without pixels")
    # Decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, IndexError, ...
    try:
        image.load()
        turned = _upright(image) if upright else image.copy()
        if turned.mode.startswith("I"):  # greys of more than 8 bits: "I" comes from PGM, "I;16" from PNG and TIFF
            return _from_array(_sixteen_bits(np.asarray(turned), name), name)
        if turned.mode == "F":
            return _from_array(np.asarray(turned), name)
        if turned.mode == "La":
            turned = turned.convert("LA")
        elif "transparency" in turned.info and turned.mode == "P":
            turned = turned.convert("RGBA")  # the same colours, without Pillow's warning
        return turned if turned.mode == "RGB" else turned.convert("RGB")
    except PictureError:
        raise
    except Exception as error:
        raise _undecodable(error, name) from None


def _upright(image: Image.Image) -> Image.Image:
    """A copy, rotated and mirrored as its EXIF data says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the rotation, and the pixels are there
        return image.copy()


def _undecodable(error: Exception, name: str) -> PictureError:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return PictureError(
            f"{name}: too large, over {limit} million pixels; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    return PictureError(f"{name}: cut off, damaged or unsupported ({_reason(error)}); copy it again or convert it")


def _reason(error: Exception) -> str:
    """An exception as part of a line."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _sixteen_bits(values: np.ndarray, name: str) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PictureError(f"{name}: greys from {low} to {high}, of no known scale; convert it to 8 or 16 bits first")
    return values.astype(np.uint16)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"{name}: of shape {array.shape}; expected one picture, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    values = _eight_bits(array, name)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """The array's values on the scale of uint8, by its type's own scale and never by its content."""
    kind = array.dtype
    if kind.kind == "u" and kind.itemsize == 1:
        return array
    if kind.kind == "b":
        return array.astype(np.uint8) * 255
    if kind.kind == "u" and kind.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind.kind in "iu":
        low, high, most, advice = int(array.min()), int(array.max()), 255, "give uint8 or uint16"
    elif kind.kind == "f" or kind.name == "bfloat16":
        array = array.astype(np.float32)
        low, high, most, advice = (
            float(array.min()),
            float(array.max()),
            1.0,
            "divide by its largest possible value",
        )
    else:
        raise PictureError(f"{name}: values of type {kind}; expected uint8, uint16, bool or floats from 0 to 1")
    if not (low >= -1e-3 and high <= most + 1e-3):  # not: a NaN is wrong too. Resizing floats overshoots a little.
        raise PictureError(f"{name}: {kind} values from {low:g} to {high:g}; expected 0 to {most:g}: {advice}")
    return np.round(np.clip(array, 0, most) * (255 / most)).astype(np.uint8)
