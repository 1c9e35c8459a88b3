"""``dfine explain``: how a model came to its detections, a page for each."""

import io
import zipfile
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.cli.drawn import file_stem, is_foreign, save_drawn
from dfine_jax.cli.inputs import Inputs
from dfine_jax.cli.options import DEFAULT_MODEL, parse_size
from dfine_jax.display import printable, say, verbatim
from dfine_jax.errors import InputError
from dfine_jax.evaluation.plots import as_png
from dfine_jax.explain.explainer import MOST, Explainer
from dfine_jax.explain.explanation import EDGES, Explanation
from dfine_jax.explain.figure import explain_figure
from dfine_jax.inference.pictures import find_pictures, load_picture, local_path
from dfine_jax.whole_files import require_writable_folder

FOLDER = Path("explained")
"""Where pages go if nobody says, in the current folder."""


def run(
    picture: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None,
    /,
    model: str | None = None,
    detections: int = 3,
    save: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = FOLDER,
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
) -> int:
    """See inside: how the model came to what it found in a picture.

    Draws a page for each of the best detections, whatever they score, in pixels of the picture:

      1 where it began: the scores of all cells, the cell that it was chosen from, and how the box moved from there;
      2 how its edges were found: each edge's distribution, layer by layer, with mean and standard deviation;
      3 where it looked: the points that each head of each layer reads, and how much each counts;
      4 how sure it is: class scores by layer, and location quality with what it looks at.

    Beside the pages lies a .npz, for NumPy, with all these numbers. docs/research/explain.md tells how to read them.

    With no arguments, "dfine explain" explains shapes with a small model that comes with the package; nothing is
    downloaded. "dfine explain cells/7.jpg --model runs/cells/model --detections 5" explains five of your own.

    Args:
        picture: A picture file or a URL.
        model: A short name (nano-coco, the default for pictures of yours, or shapes, which comes with the package), a
            Hub id, a folder, or a .pth of the original release.
        detections: How many, the best first; also those below a threshold, to see why they score so little.
        save: Write the pages and the numbers to this folder.
        size: Height and width the picture is stretched to, each divisible by 32; the model's own if not given.
    """
    if picture is None:
        picture, model = str(SHAPES_PICTURE), model or "shapes"
    model = model or DEFAULT_MODEL
    if not 1 <= detections <= MOST:
        raise InputError(f"--detections {detections}: give 1 to {MOST}")
    found = find_pictures([picture])
    if len(found) != 1:
        raise InputError(f"{printable(picture)} are {len(found)} pictures: give one, such as {printable(found[0])}")
    require_writable_folder(save, "--save")
    inputs = Inputs(path for path in map(local_path, found) if path is not None)
    stem = file_stem(found[0])
    pages = [save / f"{stem}-{number}.png" for number in range(1, detections + 1)]
    numbers = save / f"{stem}.npz"
    for path in (*pages, numbers):
        inputs.refuse(path, "--save")
    taken = [path for path in pages if is_foreign(path)] + ([numbers] if _is_anothers(numbers) else [])
    if taken:
        raise InputError(f"{printable(taken[0])} is there and isn't of an earlier run: choose another --save")

    image = load_picture(found[0])
    notes, console = Console(stderr=True), Console()
    with notes.status("looking inside"):
        explainer = Explainer.from_pretrained(model, size=parse_size(size))
        explanation = explainer(image, detections, name=found[0])
        explanation.save(numbers)
        for which, page in enumerate(pages):
            drawn = as_png(explain_figure(explanation, which, image))
            save_drawn(Image.open(io.BytesIO(drawn)), page)
    console.print(_table(explanation), soft_wrap=True)
    say(notes, f"a page for each in {pages[0]} ..., the numbers in {numbers}")
    return 0


def _is_anothers(path: Path) -> bool:
    """Whether something is there that ``Explanation.save`` didn't write."""
    if not path.exists():
        return path.is_symlink()
    try:
        with zipfile.ZipFile(path) as archive:
            return "distributions.npy" not in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True


def _table(explanation: Explanation) -> Table:
    detections = explanation.detections
    width, height = detections.size
    table = Table(
        title=verbatim(f"{detections.image}  {width}x{height}", "bold"), title_justify="left", box=SIMPLE_HEAD
    )
    for name in ("label", "score", "quality", *EDGES):
        table.add_column(name, justify="left" if name == "label" else "right", no_wrap=name != "label")
    edges, spreads = explanation.edges[:, -1], explanation.spreads[:, -1]
    for i, detection in enumerate(detections):
        table.add_row(
            verbatim(detection.label),
            f"{detection.score:.3f}",
            f"{explanation.quality[i, -1]:+.2f}",
            *(f"{edge:.1f} ±{spread:.1f}" for edge, spread in zip(edges[i], spreads[i], strict=True)),
        )
    table.caption = (
        "edges in pixels, each with the standard deviation of its distribution; quality is part of the score"
    )
    table.caption_justify = "left"
    return table
