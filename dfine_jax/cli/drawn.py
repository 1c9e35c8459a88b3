"""Where drawn pictures go: each to a file of its own, over nothing but what was drawn earlier."""

import io
import os
import unicodedata
import urllib.parse
from pathlib import Path

from PIL import Image

from dfine_jax.cli.inputs import Inputs
from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.inference.pictures import local_path, open_image
from dfine_jax.whole_files import write_whole

SOFTWARE_TAG, SOFTWARE = 0x0131, "dfine detect"
"""What the EXIF data of a drawn picture says of its origin."""
LONGEST_STEM = 200
"""Bytes; file systems take 255 with a number and an ending."""
LARGEST_JPEG = 65_500
"""Pixels in either direction."""


def without_drawn(pictures: list[str], folder: Path) -> list[str]:
    """Leaves out what an earlier run drew, where the folder to save to lies in a folder that is searched."""
    found = [picture for picture in pictures if not (_lies_in(picture, folder) and is_drawn(local_path(picture)))]
    if not found:
        raise InputError(
            f"all {len(pictures)} pictures lie in {printable(folder)}, the folder to save to, and were drawn by an "
            "earlier run: choose another one"
        )
    return found


def is_drawn(path: str | os.PathLike, software: str = SOFTWARE) -> bool:
    """Whether `save_drawn`, or what else leaves such a mark, wrote this file."""
    try:
        with open_image(path) as image:
            return image.getexif().get(SOFTWARE_TAG) == software
    except Exception:  # whatever it is, it wasn't drawn
        return False


def drawn_files(pictures: list[str], folder: Path, inputs: Inputs) -> dict[str, Path]:
    """A file for each picture: its own name, numbered where that is another one's or a file that wasn't drawn here.

    `InputError` where the name is that of a picture that is read.
    """
    files, taken = {}, set()
    for picture in pictures:
        stem = file_stem(picture)
        suffix = ".png" if picture.lower().endswith(".png") else ".jpg"
        name, number = f"{stem}{suffix}", 1
        inputs.refuse(folder / name, "--save")
        while _same(name) in taken or folder / name in inputs or is_foreign(folder / name):
            number += 1
            name = f"{stem}-{number}{suffix}"
        taken.add(_same(name))
        files[picture] = folder / name
    return files


def save_drawn(drawn: Image.Image, file: Path) -> None:
    """Writes a picture that carries the mark by which it is known again; `OSError` leaves nothing half-written."""
    exif = Image.Exif()
    exif[SOFTWARE_TAG] = SOFTWARE
    if file.suffix == ".jpg" and max(drawn.size) > LARGEST_JPEG:
        file = file.with_suffix(".png")
        if is_foreign(file):
            raise InputError(f"{printable(file)} is there and wasn't drawn by an earlier run: choose another folder")
    content = io.BytesIO()
    options = dict(format="JPEG", quality=92) if file.suffix == ".jpg" else dict(format="PNG")
    drawn.save(content, exif=exif, **options)
    write_whole(file, content.getvalue())


def _lies_in(picture: str, folder: Path) -> bool:
    """Whether the file, or the link that leads to it, is somewhere in the folder."""
    path = local_path(picture)
    if path is None or "\0" in path:
        return False
    here = Path(path).parent.resolve()
    return folder.resolve() in (here, *here.parents)


def file_stem(picture: str) -> str:
    """A name for the drawn picture, without ending; of what comes from elsewhere without anything odd in it."""
    path = local_path(picture)
    if path is not None:
        stem = Path(path).stem
    elif picture.startswith("data:"):
        stem = ""
    else:
        address = picture.split("?")[0].split("#")[0].partition("://")[2]
        last = urllib.parse.unquote(address.partition("/")[2]).rsplit("/", 1)[-1]
        stem = "".join(character if character.isprintable() else "_" for character in Path(last).stem)
    if len(os.fsencode(stem)) > LONGEST_STEM:
        stem = os.fsencode(stem)[:LONGEST_STEM].decode("utf-8", "ignore")
    return stem.replace("\0", "_") or "picture"


def _same(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def is_foreign(file: Path, software: str = SOFTWARE) -> bool:
    """Whether something is there that doesn't carry the mark."""
    if not os.path.lexists(file):
        return False
    return file.is_symlink() or not file.is_file() or not is_drawn(file, software)
