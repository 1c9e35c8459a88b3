"""How far each size is from the original PyTorch release, on the sample COCO picture, in float32.

Run from the repository: ``python -m benchmarks.parity [PICTURE]``. The picture, COCO val2017/000000039769, is by
default ``$DFINE_SAMPLE_IMAGE`` or ``../shared/images/000000039769.png``. Both sides have the same random, well scaled
weights; the original's outputs lie in ``tests/reference_numbers/forward``. Columns: the largest difference of sampled
backbone and encoder maps relative to the map's largest magnitude; whether the same queries were chosen; the largest
difference of any query's logits and boxes (fractions of the picture), as loaded and with norms and branches folded;
whether the 50 best detections have the same labels, and their largest differences in score and pixels.
"""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from reference import COCO_IDS, DATA, SIZES, query_errors, reference_model, sampled

from dfine_jax import fuse
from dfine_jax.inference.pictures import load_picture
from dfine_jax.inference.postprocess import postprocess
from dfine_jax.inference.preprocess import preprocess
from dfine_jax.preprocessing import Preprocessing


def main() -> None:
    """Prints the table."""
    shared = Path(__file__).parents[2] / "shared" / "images" / "000000039769.png"
    picture = load_picture(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DFINE_SAMPLE_IMAGE", shared))
    images = jnp.asarray(preprocess(picture, Preprocessing()))[None]
    table = Table(title=f"jax {jax.__version__}, {jax.devices()[0].device_kind}", title_justify="left")
    for name in ("size", "backbone", "encoder", "queries", "logits", "boxes", "fused logits", "fused boxes", "best 50"):
        table.add_column(name, justify="right")
    for size in SIZES:
        table.add_row(*row(size, images, picture.size))
    Console(width=140).print(table)


def row(size: str, images: jax.Array, picture_size: tuple[int, int]) -> list[str]:
    """One size's line."""
    reference = np.load(DATA / "forward" / f"{size}.npz")
    model = reference_model(size)
    backbone, encoder, output = stages(model, images)
    fused = nnx.jit(lambda model, images: model(images))(fuse(model), images)
    errors = [query_errors(o.logits[0], o.boxes[0], o.selected[0], reference) for o in (output, fused)]
    scores, labels, boxes = (np.asarray(x)[0, :50] for x in postprocess(*fused[:2], jnp.asarray([picture_size[::-1]])))
    pixels = np.abs(boxes - reference["boxes_xyxy"]).max()
    same = "same labels" if (COCO_IDS[labels] == reference["labels"]).all() else "other labels"
    return [
        size.upper(),
        f"{map_error('backbone', backbone, reference):.1e}",
        f"{map_error('encoder', encoder, reference):.1e}",
        "same",
        *(f"{number:.1e}" for pair in errors for number in pair),
        f"{same}, {np.abs(scores - reference['scores']).max():.0e}, {pixels:.4f} px",
    ]


@nnx.jit
def stages(model, images):
    """Backbone maps, encoder maps and the model's output."""
    backbone = model.backbone(images)
    encoder = model.encoder(backbone)
    return backbone, encoder, model.decoder(encoder)


def map_error(name: str, maps: tuple[jax.Array, ...], reference: np.lib.npyio.NpzFile) -> float:
    """The largest difference of any sampled map, relative to its largest magnitude."""
    return max(
        np.abs(sampled(x[0]) - reference[f"{name}_{i}"]).max() / reference[f"{name}_{i}_stats"][2]
        for i, x in enumerate(maps)
    )


if __name__ == "__main__":
    main()
