"""Deformable attention by machine code for CPUs."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfine_jax.config import DecoderConfig
from dfine_jax.cpu.call import Plan, Window, native
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.sampling import QUERIES
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.model import deformable
from dfine_jax.ops.sampling import Shapes, maps_of_points


def attend_to_points(
    offsets: Float[Array, "B Q offsets"],
    scores: Float[Array, "B Q scores"],
    boxes: Float[Array, "B Q 4"],
    memory: Float[Array, "B S D"],
    shapes: Shapes,
    config: DecoderConfig,
) -> Float[Array, "B Q D"]:
    """Deformable attention of M heads to P points each, for which CPUs have machine code.

    ``ValueError`` for a method other than "default", and where 16 does not divide a head's channels.
    """
    if not has_native_points(config, memory.shape[-1]):
        raise ValueError(
            f"method {config.method!r}, {memory.shape[-1]} channels of {config.heads} heads: the method has to be "
            f"'default', and {WIDEST} to divide each head's channels"
        )

    def plain(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "B Q D"]:
        return deformable.attend_to_points(*maps, shapes, config)

    heights, widths, starts = maps_of_points(shapes, config.points)
    table = np.stack([deformable.offset_factors(config), widths, heights, starts]).astype(np.float32)
    epilogue = Epilogue(jnp.zeros(memory.shape[-1]), None)
    attend = native("sampling", plain, _plan)
    return attend([offsets, scores, boxes, memory], [jnp.asarray(table)] * 4, epilogue, Window(1, 1, (0, 0)))


def has_native_points(config: DecoderConfig, width: int) -> bool:
    """Whether there is machine code for maps of so many channels."""
    return config.method == "default" and width % (config.heads * WIDEST) == 0


def _plan(maps: list[Array], kernels: list[Array], outputs: int, window: Window) -> Plan:
    """Queries of pictures."""
    pictures, queries, _ = maps[0].shape
    points = kernels[0].shape[1]
    scratch = scratch_size("sampling", pitch=-(-points // WIDEST) * WIDEST)
    return Plan(QUERIES, pictures * -(-queries // QUERIES), scratch)
