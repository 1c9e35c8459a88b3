"""A model as the one function that is exported: what it takes, what it gives, and the weights that it needs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dfine_jax.inference.compiled import picture_by_picture
from dfine_jax.inference.detector import require_size
from dfine_jax.inference.fuse import fuse
from dfine_jax.inference.postprocess import postprocess
from dfine_jax.inference.preprocess import normalise
from dfine_jax.model.dfine import functional
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import read_stored

if TYPE_CHECKING:
    from dfine_jax.weights.folder import StoredModel

Weights = dict[str, Array]


class Port(NamedTuple):
    """An array that goes in or comes out; its first axis counts pictures."""

    name: str
    shape: tuple[int, ...]
    """Of one picture."""
    dtype: str
    meaning: str


class Exportable(NamedTuple):
    """A detector as a pure function ``function(weights, *inputs)`` to a dictionary with an array for every output."""

    function: Callable[..., dict[str, Array]]
    weights: Weights
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def bound(self) -> Callable[..., dict[str, Array]]:
        """The function with its weights inside."""

        def function(*inputs: Array) -> dict[str, Array]:
            return self.function(self.weights, *inputs)

        return function


def exportable(
    stored: "StoredModel", settings: Preprocessing, *, end_to_end: bool, dtype: str = "float32"
) -> Exportable:
    """The model without batch norms, in plain XLA operations for any backend.

    With ``end_to_end`` it goes from bytes of pictures that have the model's size to the best detections, else from
    normalised pictures to logits and boxes. ``dtype`` is the type of the large products, float32 or bfloat16.
    ``InputError`` for a size that no detector takes.
    """
    require_size(settings)
    apply, params, batch_stats = functional(fuse(read_stored(stored, Compute.named(dtype)).model, for_cpu=False))
    parameters = frozenset(params)

    def network(weights: Weights, images: Array) -> dict[str, Array]:
        inside = {name: value for name, value in weights.items() if name in parameters}
        rest = {name: value for name, value in weights.items() if name not in parameters}
        output = apply(inside, rest, images)
        return {"logits": output.logits, "boxes": output.boxes}

    def detect(weights: Weights, images: Array, sizes: Array) -> dict[str, Array]:
        def in_batch(images: Array, sizes: Array) -> dict[str, Array]:
            best = postprocess(**network(weights, normalise(images, settings)), sizes=sizes)
            return {"boxes": best.boxes, "scores": best.scores, "labels": best.labels}

        return picture_by_picture(in_batch)(images, sizes)

    function = detect if end_to_end else network
    inputs = _inputs(settings, end_to_end=end_to_end)
    weights = {**params, **batch_stats}
    given = [jax.ShapeDtypeStruct((1, *port.shape), port.dtype) for port in inputs]
    gives = jax.eval_shape(function, weights, *given)
    meanings = _DETECTED if end_to_end else _PREDICTED
    outputs = tuple(Port(name, gives[name].shape[1:], gives[name].dtype.name, meanings[name]) for name in meanings)
    return Exportable(function, weights, inputs, outputs)


_DETECTED = {
    "boxes": "x0, y0, x1, y1 in pixels of the original picture, best first",
    "scores": "from 0 to 1, best first",
    "labels": "index into classes",
}
_PREDICTED = {
    "logits": "of every query and class; a sigmoid makes scores of them",
    "boxes": "cx, cy, w, h of every query, in fractions of the picture",
}


def _inputs(settings: Preprocessing, *, end_to_end: bool) -> tuple[Port, ...]:
    shape = (settings.height, settings.width, 3)
    if not end_to_end:
        return (Port("images", shape, "float32", "RGB, resized, rescaled and normalised as preprocessing says"),)
    return (
        Port("images", shape, "uint8", "RGB, resized as preprocessing says"),
        Port("sizes", (2,), "int32", "height and width of the original pictures"),
    )


def host_weights(weights: Weights) -> dict[str, np.ndarray]:
    """Weights as NumPy stores them: what is bfloat16 becomes float32, which holds the same values."""
    return {
        name: np.asarray(value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value)
        for name, value in weights.items()
    }
