"""Exports of every size beside the detector, in each runtime that is there: how far their best detections are apart.

    $ python -m benchmarks.exports --sizes n s m l x

Weights are made by a rule, pictures have 640x640 pixels. What ``dfine verify`` accepts is what this calls small.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.start import write_model
from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.export.artefact import export_model
from dfine_jax.export.verification import Differences, verify
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.pictures import load_picture
from dfine_jax.pretrained import open_pretrained

ALTERNATIVES = ((1, False), (None, False), (None, True))
"""Pictures at a time (None: any number), and whether it is exported from pixels to detections."""


def main() -> int:
    """Prints a line for each export and runtime; returns 1 if any difference is larger than rounding makes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list("nsmlx"))
    parser.add_argument("--kind", choices=("onnx", "stablehlo"), default="onnx")
    parser.add_argument("--picture", type=Path, default=SHAPES_PICTURE)
    given = parser.parse_args()
    table = Table("size", "pictures", "end to end", "runtime", "found of 50", "boxes, pixels", "scores")
    all_small = True
    for size in given.sizes:
        for count, end_to_end, found in compared(size, given.kind, given.picture):
            all_small &= found.small
            alternative = (size, str(count or "any"), "yes" if end_to_end else "no")
            table.add_row(*alternative, found.runtime, str(found.found), f"{found.boxes:.2g}", f"{found.scores:.2g}")
    Console().print(table)
    return 0 if all_small else 1


def compared(size: str, kind: str, picture: Path) -> Iterator[tuple[int | None, bool, Differences]]:
    """Each alternative of a size, in each runtime."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(size, model)
        stored, pixels = open_pretrained(str(model)), load_picture(picture)
        detector = Detector.from_stored(stored)
        for count, end_to_end in ALTERNATIVES:
            target = Path(scratch) / "exported"
            manifest = export_model(
                stored, target, kind, name=str(model), batch_size=count, end_to_end=end_to_end, replace=True
            )
            for found in verify(target, manifest, detector, pixels):
                yield count, end_to_end, found


if __name__ == "__main__":
    sys.exit(main())
