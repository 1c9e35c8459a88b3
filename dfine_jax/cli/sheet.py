"""Where the page of a data set's pictures goes: over nothing but an earlier page."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from dfine_jax.cli.drawn import SOFTWARE_TAG, is_foreign
from dfine_jax.cli.inputs import Inputs
from dfine_jax.data.samples import Dataset
from dfine_jax.data.shapes import DrawnRecords
from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.whole_files import require_writable, write_whole

SOFTWARE = "dfine data"
"""What the EXIF data of a page says of its origin."""
DEFAULT = Path("contact-sheet.png")
OPTION = "--sheet"


def check_sheet(sheet: Path | None) -> None:
    """`InputError` where a page can't be written to the file that was asked for, or would replace something else."""
    require_writable(DEFAULT if sheet is None else sheet, OPTION)
    if sheet is None:
        return
    shown = f"{OPTION} {printable(os.fspath(sheet))}"
    try:
        _encoded(Image.new("RGB", (16, 16)), sheet)
    except Exception:  # each format has its own way to say that it can't be written
        raise InputError(f"{shown}: no picture of that ending can be written; end the name in .png or .jpg") from None
    if os.path.isfile(sheet) and is_foreign(Path(os.path.realpath(sheet)), SOFTWARE):
        raise InputError(f"{shown} is there and is no page of an earlier run: choose another name or remove it")


def sheet_file(sheet: Path | None, data: str, datasets: Iterable[Dataset]) -> Path:
    """The file to write: the one asked for, or the usual one, numbered where that is something else.

    `InputError` if it is a file of the data sets.
    """
    inputs = Inputs([data])
    for dataset in datasets:
        for record in () if isinstance(dataset.records, DrawnRecords) else dataset.records:
            for path in (record.picture, record.file):
                if isinstance(path, str | os.PathLike):
                    inputs.add(path)
    if sheet is not None:
        inputs.refuse(sheet, OPTION)
        return sheet
    file, number = DEFAULT, 1
    while file in inputs or is_foreign(file, SOFTWARE):
        number += 1
        file = DEFAULT.with_stem(f"{DEFAULT.stem}-{number}")
    return file


def save_sheet(page: Image.Image, file: Path) -> None:
    """Writes a page that carries the mark by which it is known again; `OSError` leaves nothing half-written."""
    try:
        content = _encoded(page, file)
    except Exception as error:
        size = f"{page.width}x{page.height}"
        reason = " ".join(str(error).split())
        raise InputError(
            f"{OPTION} {printable(os.fspath(file))}: can't hold a page of {size} ({reason}); lower --pictures or end "
            "the name in .png"
        ) from None
    write_whole(file, content)


def _encoded(page: Image.Image, file: Path) -> bytes:
    """A page in the format that the name's ending tells; what is no file, such as /dev/null, needs no ending."""
    exif = Image.Exif()
    exif[SOFTWARE_TAG] = SOFTWARE
    ending = file.suffix.lower()
    is_file = not os.path.exists(file) or os.path.isfile(file)
    form = "PNG" if not ending and not is_file else Image.registered_extensions()[ending]
    content = io.BytesIO()
    page.save(content, format=form, exif=exif)
    return content.getvalue()
