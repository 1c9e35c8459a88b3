"""3x3 convolutions by tiles of 4x4 outputs, multiplied in 16 bits; ``packed16.py`` says how numbers are rounded."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from dfine_jax.cpu.call import Window, native
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.kernel import HWIO, Kernel, Layer, Spec
from dfine_jax.cpu.kernels.packed import packed_size, plan_winograd
from dfine_jax.cpu.kernels.packing16 import out_of_pairs, pack16, pack16_winograd
from dfine_jax.cpu.kernels.winograd import f4_kernel, winograd_f4


def convolve_winograd16(
    x: Float[Array, "B H W I"], kernels: Sequence[Num[Array, "..."]], padding: tuple[int, int], epilogue: Epilogue
) -> Float[Array, "B h w O"]:
    """``dfine_jax.cpu.kernels.packed.convolve_winograd`` by what ``pack16`` made of a kernel (36, I, O).

    Of one in whole numbers ``pack16_winograd`` has to have made it.

    ``ValueError`` where 16 does not divide the channels, in and out, and where whole numbers have fewer factors.
    """
    channels = x.shape[-1], len(epilogue.bias)
    if any(count % WIDEST for count in channels):
        raise ValueError(f"{channels[0]} channels to {channels[1]}: {WIDEST} has to divide both")
    kernel, factors = kernels
    are_whole = jnp.issubdtype(kernel.dtype, jnp.integer)
    if are_whole and factors.shape != kernel.shape[:1]:
        raise ValueError(f"{len(factors)} factors: whole numbers want one for each of {len(kernel)} entries")
    tiles = _tiles_of_wholes if are_whole else _tiles
    return tiles([x], kernels, epilogue, Window(3, 1, padding))


def _plain_tiles(
    maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window
) -> Float[Array, "B h w O"]:
    kernel, factors = kernels
    whole = out_of_pairs(kernel, len(epilogue.bias)) * factors[:, None, None]
    return epilogue(winograd_f4(*maps, whole, window.padding))


_tiles = native("tiles_of_halves", _plain_tiles, partial(plan_winograd, pairs=True), in_16_bits=True)
_tiles_of_wholes = native(
    "tiles_of_wholes", _plain_tiles, partial(plan_winograd, kind="int16_tiles"), in_16_bits=True, takes_narrow=True
)


class Winograd16(Kernel):
    """36 entries with one factor, in float16."""

    name = "Winograd F(4,3), 16 bits"
    in_16_bits = True

    def supports(self, spec: Spec) -> bool:
        return spec.is_native_winograd

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(36, packed_size(*kernel[2:])), (1,)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return pack16([f4_kernel(kernel)], operands)

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return convolve_winograd16(*maps, kernels, layer.padding, layer.epilogue)


class WinogradInt16(Winograd16):
    """36 entries with a factor each, in whole numbers."""

    name = "Winograd F(4,3), int16"

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(36, packed_size(*kernel[2:])), (36,)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return pack16_winograd(f4_kernel(kernel), operands)
