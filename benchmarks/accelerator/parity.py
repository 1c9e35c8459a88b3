"""How far answers on this device are from transformers' of the same weights, for each size.

Those of ``tests/reference_numbers/synthetic`` were computed by PyTorch on a CPU, in float32. Exact products have to
come as near on an accelerator as on a CPU. Rounded products may choose other queries; those chosen by both are
compared. Their bounds are twice what rounding operands comes to where all else is exact.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.programs import model_of
from benchmarks.accelerator.scale import Row, Task, one_line
from dfine_jax import functional, fuse

from reference import DATA, synthetic_picture  # isort: skip  # programs has put the folder on the path

AT_ONCE = 4
"""Programs that are compiled at the same time: nothing is timed here."""


class Bounds(NamedTuple):
    """What is asked of an answer."""

    same_queries: float
    """The least share of queries that were chosen by both."""
    logits: float
    boxes: float
    """The largest differences of any of those; boxes in fractions of the picture."""


BOUNDS = {
    "float32": Bounds(1.0, 2e-5, 2e-6),
    "tf32": Bounds(0.99, 3.2e-2, 5.6e-3),
    "bfloat16": Bounds(0.95, 9e-2, 1e-2),
}


def exact(task: Task) -> Iterator[Row]:
    """A row for each size."""
    yield from _rows([(size, "float32") for size in task.scale.all_sizes])


def rounded(task: Task) -> Iterator[Row]:
    """A row for each size and kind of rounding."""
    yield from _rows([(size, kind) for size in task.scale.all_sizes for kind in task.scale.rounded])


def _rows(cases: list[tuple[str, str]]) -> Iterator[Row]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(_row, *zip(*cases, strict=True))


def _row(size: str, products: str) -> Row:
    case = {"size": size, "products": products}
    try:
        reference = np.load(DATA / "synthetic" / f"{size}.npz")
        model = model_of(size, products, int(reference["seed"]))
        apply, params, batch_stats = functional(fuse(model))
        output = jax.jit(apply)(params, batch_stats, jnp.asarray(synthetic_picture())[None])
        return case | compare(products, output.logits[0], output.boxes[0], output.selected[0], reference)
    except Exception as error:
        return case | {"failed": one_line(error)}


def compare(products: str, logits, boxes, selected, reference) -> Row:
    """Of one picture's queries those that the reference chose too, by the cell they came from."""
    _, here, there = np.intersect1d(selected, reference["selected"], return_indices=True)
    if len(here) < 2:
        return {"same_queries": len(here) / len(reference["selected"]), "within_bounds": "no"}
    ours, theirs = (np.asarray(each)[at] for each, at in ((logits, here), (reference["logits"], there)))
    apart = np.abs(ours - theirs)
    seen = Bounds(
        len(here) / len(reference["selected"]),
        float(apart.max()),
        float(np.abs(np.asarray(boxes)[here] - reference["boxes"][there]).max()),
    )
    bounds = BOUNDS[products]
    within = seen.same_queries >= bounds.same_queries and seen.logits <= bounds.logits and seen.boxes <= bounds.boxes
    return {
        **seen._asdict(),
        "mean_of_logits": float(apart.mean()),
        "correlation": float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]),
        "within_bounds": "yes" if within else "no",
        "bounds": ", ".join(f"{bound:g}" for bound in bounds),
    }
