"""Pictures as people have them: found in folders, fetched, and decoded to upright 8-bit RGB."""

import glob
import io
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from dfine_jax.display import printable
from dfine_jax.inference.addresses import SCHEMES, fetch
from dfine_jax.inference.decoding import ROOM, Decoded, Wanted, decode, decode_file, open_known
from dfine_jax.inference.levels import from_array
from dfine_jax.inference.picture_error import PictureError, reason
from dfine_jax.plain_file import open_plain

# What counts as a picture when a folder is searched; a file named by itself is tried whatever it is called.
# HEIC is here although Pillow can't read it: a phone's folder should say so and not come out silently short.
SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip


class Loaded(NamedTuple):
    """A decoded picture, maybe a smaller one."""

    picture: Image.Image
    size: tuple[int, int]
    """Width and height of all of it."""
    again: Callable[[], Image.Image]
    """Decodes all of it once more, from what was fetched where it has an address."""


def picture_name(source: Any) -> str:
    """What results and messages call `source`: the path or address as given, less a password, else its kind."""
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        if name.startswith("data:") and len(name) > 40:
            return f"{name[:40]}..."
        return re.sub(r"^(\w+://[^/@:]*):[^/@]*@", r"\1:***@", name) if _is_address(name) else name
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

    Where threads read many large pictures some wait, so that all on their way take about 320 MiB, or what one alone
    needs.

    Raises PictureError for anything that isn't a readable picture.
    """
    with loaded(source, upright=upright) as result:
        return result.picture


@contextmanager
def loaded(
    source: Any, *, upright: bool = True, wanted: Wanted | None = None, stopped: Event | None = None
) -> Iterator[Loaded]:
    """`load_picture` for a block that will stretch the picture to what is `wanted`.

    A picture of more than `decoding.LARGE` pixels then comes narrower, so that stretching gives the same, see
    `decoding.decode`. Its memory counts as taken until the block ends, so that none may be read within. A download ends
    with an error when `stopped` is set.
    """
    name = printable(picture_name(source))
    if isinstance(source, str | os.PathLike) and _is_address(os.fsdecode(source)):
        source = _local(os.fsdecode(source), name, stopped)
    with ExitStack() as stack:
        picture, size = _decoded(source, name, upright, wanted, stack)
        yield Loaded(picture, size, partial(_whole, source, name, upright))


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


@contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Opens a picture's file for a block that reads its size or EXIF data, without decoding it.

    Raises what `open_plain` and Pillow do.
    """
    with open_plain(path) as file, open_known(file) as image:
        yield image


def local_path(source: str) -> str | None:
    """The file that a path or a `file://` address names; None for what lies elsewhere or is malformed."""
    if not _is_address(source):
        return source
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError:
        return None
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        return None
    return urllib.request.url2pathname(parts.path)


def _expand(path: str) -> list[str]:
    shown = printable(path)
    if _is_address(path) or os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        if pictures := _pictures_below(path):
            return pictures
        raise PictureError(f"{shown}: no pictures in this folder; looked for {', '.join(sorted(SUFFIXES))}")
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        pictures = [p for match in matches for p in (_pictures_below(match) if os.path.isdir(match) else [match])]
        if pictures:
            return pictures
        raise PictureError(f"{shown}: no file matches this pattern; check the folder and the suffix")
    if os.path.exists(path):
        return [path]  # a pipe or a device: trying it will tell
    raise PictureError(f"{shown}: no such file or folder; check the spelling")


def _pictures_below(folder: str) -> list[str]:
    def refuse(error: OSError):
        name = printable(os.fsdecode(error.filename))
        raise PictureError(f"{name}: can't list this folder ({error.strerror}); check its permissions")

    pictures: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [f for f in folders if not f.startswith(".")]
        pictures += [
            Path(here, f) for f in files if not f.startswith(".") and os.path.splitext(f)[1].lower() in SUFFIXES
        ]
    return [str(p) for p in sorted(pictures)]


def _is_address(path: str) -> bool:
    return "://" in path or path.startswith("data:")


def _local(address: str, name: str, stopped: Event | None) -> str | IO[bytes]:
    """The path of an address's file, or what was fetched."""
    scheme = address.split(":", 1)[0].lower()
    if scheme in SCHEMES:
        return fetch(address, name, stopped)
    if scheme != "file":
        raise PictureError(f"{name}: can't fetch from {printable(scheme)}://; use http, https, file or data")
    path = local_path(address)
    if path is None:
        raise PictureError(f"{name}: malformed, or a file on another machine; give a path here, as file:///path/to/it")
    return path


def _whole(source: Any, name: str, upright: bool) -> Image.Image:
    with ExitStack() as stack:
        return _decoded(source, name, upright, None, stack)[0]


def _decoded(source: Any, name: str, upright: bool, wanted: Wanted | None, stack: ExitStack) -> Decoded:
    """Files and memory are given back when `stack` is closed."""
    options = dict(upright=upright, wanted=wanted, stack=stack)
    if isinstance(source, Image.Image):
        return decode(source, name, **options)
    if isinstance(source, str | os.PathLike):
        return decode_file(stack.enter_context(_file(source, name)), name, **options)
    if isinstance(source, io.IOBase):  # fetched
        return decode_file(source, name, **options)
    if hasattr(source, "__array__"):
        array = np.asarray(source)
        stack.enter_context(ROOM.taken(8 * array.size))
        picture = from_array(array, name)
        return Decoded(picture, picture.size)
    raise PictureError(f"{name}: not a picture; give a path, an address, a PIL image or an array")


def _file(path: str | os.PathLike, name: str) -> IO[bytes]:
    try:
        file = open_plain(path)
    except FileNotFoundError:
        raise PictureError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise PictureError(f"{name}: a folder, not a picture; list its pictures with find_pictures") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise PictureError(f"{name}: can't be read ({reason(error)})") from None
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise PictureError(f"{name}: the file is empty; copy or download it again")
    return file
