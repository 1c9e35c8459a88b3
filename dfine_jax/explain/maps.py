"""The shapes of maps on their way through the network."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dfine_jax.inference.detector import require_size
from dfine_jax.model.dfine import DFine, dotted, functional
from dfine_jax.preprocessing import Preprocessing

Shapes = list[tuple[int, ...]]


def output_shapes(model: DFine, settings: Preprocessing) -> dict[str, Shapes]:
    """Gives for each module, by dotted name, the shapes of the arrays that it returns for one picture.

    ``settings`` have its size. The axis that counts pictures is left out. Nothing is computed. Modules that no picture
    passes (heads that serve training alone) are missing; the whole model has the name "". ``InputError`` for a size
    that the model doesn't take.
    """
    require_size(settings)
    shapes: dict[str, Shapes] = {}
    watched = nnx.clone(model)
    for path, module in list(nnx.iter_modules(watched)):
        module.__class__ = _watched(type(module), dotted(path), shapes)
    apply, params, batch_stats = functional(watched)
    picture = jax.ShapeDtypeStruct((1, settings.height, settings.width, 3), jnp.float32)
    jax.eval_shape(apply, params, batch_stats, picture)
    return shapes


def _watched(kind: type[nnx.Module], name: str, shapes: dict[str, Shapes]) -> type[nnx.Module]:
    """The class of one module, which notes the shapes of what it returns when it is first called."""

    def call(self: nnx.Module, *inputs: Any, **options: Any) -> Any:
        output = super(watched, self).__call__(*inputs, **options)
        arrays = [x for x in jax.tree.leaves(output) if getattr(x, "ndim", 0) > 1]
        shapes.setdefault(name, [x.shape[1:] if x.shape[0] == 1 else x.shape for x in arrays])
        return output

    watched = type(kind)(kind.__name__, (kind,), {"__call__": call})
    return watched
