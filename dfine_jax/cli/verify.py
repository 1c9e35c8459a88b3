"""``dfine verify``: an exported model beside the detector, on a picture."""

import os
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.cli.options import say_remarks
from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.inference.pictures import load_picture
from dfine_jax.pretrained import open_pretrained, read_stored
from dfine_jax.weights.replaceable import CONFIG, MANIFEST


def run(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    picture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = SHAPES_PICTURE,
    /,
    model: str | None = None,
) -> int:
    """Run an exported model beside the detector and print the differences.

    Compares the 50 best detections of one picture: the same labels, boxes within 0.01 pixels and scores within 0.00001
    are what rounding makes in float32. The exit code is 0 if the differences are as small, 1 if not, 2 if nothing could
    be compared.

    For example, "dfine verify nano-onnx cats.jpg" runs it in ONNX Runtime, and in OpenVINO where that is installed.

    Args:
        out: A folder made by dfine export. One for transformers is run there, which needs PyTorch and transformers.
        picture: The picture; one of drawn shapes, which comes with the package, if none is given.
        model: The model to compare with, if it isn't any more where it was when it was exported.
    """
    folder = Path(os.path.expanduser(out))
    console = Console()
    if (folder / MANIFEST).exists():
        return _verify_program(console, folder, picture, model)
    if (folder / CONFIG).exists():
        return _verify_hub(console, folder, picture, model)
    raise InputError(f"{folder} is not an exported model (no {MANIFEST}): give a folder made by dfine export")


def _verify_program(console: Console, folder: Path, picture: Path, model: str | None) -> int:
    from dfine_jax.export.manifest import Manifest
    from dfine_jax.export.verification import verify
    from dfine_jax.inference.detector import Detector

    manifest = Manifest.read(folder)
    pixels = load_picture(picture)
    try:
        stored = open_pretrained(model or manifest.model)
    except InputError as error:
        if model is not None:
            raise
        raise InputError(f"{error} (the model that was exported; say where it is with --model)") from None
    say_remarks(stored)
    if stored.config.class_names != manifest.classes:
        raise InputError(f"{stored.source} has other classes than {folder}: give the model it was made of with --model")
    settings = manifest.preprocessing
    detector = Detector.from_stored(stored, size=(settings.height, settings.width))
    all_small = True
    for found in verify(folder, manifest, detector, pixels):
        all_small &= found.small
        line = (
            f"{found.runtime}: {found.found} of the {found.compared} best found, "
            f"boxes within {found.boxes:.2g} pixels, scores within {found.scores:.2g}"
        )
        style = None if found.small else "red"
        console.print(printable(line), style=style, markup=False, highlight=False, soft_wrap=True)
    return 0 if all_small else 1


def _verify_hub(console: Console, folder: Path, picture: Path, model: str | None) -> int:
    from dfine_jax.evaluation.against_transformers import compare, require_transformers

    require_transformers()
    pixels = load_picture(picture)
    ours = read_stored(open_pretrained(model or str(folder)))
    found = compare(ours.model, folder, ours.preprocessing, pixels)
    line = (
        f"transformers: {found.shared} of {found.queries} queries chosen by both, logits within {found.logits:.2g}, "
        f"boxes within {found.boxes:.2g}"
    )
    console.print(line, style=None if found.small else "red", markup=False, highlight=False, soft_wrap=True)
    return 0 if found.small else 1
