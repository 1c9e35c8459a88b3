"""The function from pictures to their best detections, compiled once for one shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dfine_jax.inference.postprocess import TopDetections, postprocess
from dfine_jax.inference.preprocess import Preprocessing, normalise
from dfine_jax.model.dfine import Variables

# XLA's newer convolutions for CPUs lose to the older ones here. Other backends don't know the option.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def lower_detection(
    apply: Callable, params: Variables, batch_stats: Variables, settings: Preprocessing, batch_size: int
) -> jax.stages.Lowered:
    """The program for ``batch_size`` resized pictures (uint8) and their original (height, width), not yet compiled."""

    def detect(params: Variables, batch_stats: Variables, images: jax.Array, sizes: jax.Array) -> TopDetections:
        output = apply(params, batch_stats, normalise(images, settings))
        return postprocess(output.logits, output.boxes, sizes)

    images = jax.ShapeDtypeStruct((batch_size, settings.height, settings.width, 3), jnp.uint8)
    sizes = jax.ShapeDtypeStruct((batch_size, 2), jnp.int32)
    return jax.jit(detect).lower(params, batch_stats, images, sizes)


def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles with the options that suit the backend."""
    if jax.default_backend() != "cpu":
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=CPU_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()  # a release of XLA without the choice
