"""The function from pictures to their best detections, compiled once for one shape."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dfine_jax.inference.postprocess import postprocess, postprocess_with_edges
from dfine_jax.inference.preprocess import normalise
from dfine_jax.ops.platform import on_platform
from dfine_jax.preprocessing import Preprocessing

if TYPE_CHECKING:
    from dfine_jax.model.dfine import DFine, Variables

# What XLA for CPUs is faster with; other backends don't know these options. Its newer kernels win in bfloat16 products
# only. Sums in two stages are left out, since all that is summed would be written out before.
_CPU = {"xla_disable_hlo_passes": "tree_reduction_rewriter", "xla_cpu_experimental_ynn_fusion_type": ""}
CPU_OPTIONS = {
    "float32": _CPU,
    "bfloat16": _CPU | {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"},
}


# Without LLVM's optimisations, and with XLA's older emitters, a program is compiled in a third of the time and in
# hundreds of MiB less. It takes two to three times as long to run: for one picture, far less than what was saved.
QUICK_CPU_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def lower_detection(
    apply: Callable,
    params: "Variables",
    batch_stats: "Variables",
    settings: Preprocessing,
    batch_size: int,
    *,
    edges: bool = False,
) -> jax.stages.Lowered:
    """The program for ``batch_size`` resized pictures (uint8) and their original (height, width), not yet compiled.

    With ``edges`` it gives ``DetectionsWithEdges``, else ``TopDetections``.
    """
    return _traced(apply, params, batch_stats, settings, batch_size, edges).lower()


def picture_by_picture(in_batch: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays that each have a picture a row; on a CPU it is computed for one after another.

    What is between the layers then stays in the processor's caches, and takes memory for one picture only. Other
    backends compute the whole batch at once.
    """

    def in_turn(*arrays: Array) -> Any:
        def alone(row: tuple[Array, ...]) -> Any:
            return jax.tree.map(lambda x: x[0], in_batch(*(x[None] for x in row)))

        return jax.lax.map(alone, arrays)

    def function(*arrays: Array) -> Any:
        if arrays[0].shape[0] == 1:
            return in_batch(*arrays)
        return on_platform(*arrays, cpu=in_turn, default=in_batch)

    return function


def count_operations(model: "DFine", settings: Preprocessing) -> float:
    """FLOPs for one picture, with norms folded and every convolution done directly.

    They are counted in the program for GPUs, which has convolutions and sampled cells as such: CPUs and TPUs are given
    forms with more or fewer operations.
    """
    from dfine_jax.inference.fuse import fuse
    from dfine_jax.model.dfine import functional  # Flax takes a while to load

    traced = _traced(*functional(fuse(model, for_cpu=False)), settings, 1)
    return traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]


def _traced(
    apply: Callable,
    params: "Variables",
    batch_stats: "Variables",
    settings: Preprocessing,
    batch_size: int,
    edges: bool = False,
) -> jax.stages.Traced:
    def detect(params: "Variables", batch_stats: "Variables", images: Array, sizes: Array) -> NamedTuple:
        def in_batch(images: Array, sizes: Array) -> NamedTuple:
            if edges:
                output = apply(params, batch_stats, normalise(images, settings), edges=True)
                return postprocess_with_edges(output, sizes)
            output = apply(params, batch_stats, normalise(images, settings))
            return postprocess(output.logits, output.boxes, sizes)

        return picture_by_picture(in_batch)(images, sizes)

    images = jax.ShapeDtypeStruct((batch_size, settings.height, settings.width, 3), jnp.uint8)
    sizes = jax.ShapeDtypeStruct((batch_size, 2), jnp.int32)
    return jax.jit(detect).trace(params, batch_stats, images, sizes)


def compile_lowered(lowered: jax.stages.Lowered, *, quick: bool = False) -> jax.stages.Compiled:
    """Compiles with the options that suit the backend and the type of the weights.

    On a CPU, ``quick`` compiles in a third of the time and in less memory, to a program two to three times slower.
    """
    if jax.default_backend() != "cpu":
        return lowered.compile()
    types = {argument.dtype.name for argument in jax.tree.leaves(lowered.in_avals)}
    options = CPU_OPTIONS["bfloat16" if "bfloat16" in types else "float32"] | (QUICK_CPU_OPTIONS if quick else {})
    while True:
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            unknown = {name for name in options if f"No such compile option: '{name}'" in str(error)}
            if not unknown:
                raise
            # A release of XLA without the choice: the others still count.
            options = {name: value for name, value in options.items() if name not in unknown}
