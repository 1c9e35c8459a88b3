"""Layers that CPUs are fast with, in place of a folded model's layers of the same name."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.finish import FINISHES
from dfine_jax.cpu.finish import Finish
from dfine_jax.cpu.kernels.channelwise import convolve_channels
from dfine_jax.cpu.kernels.halves import (
    apart,
    convolve_rows_of_halves,
    convolve_tiles_of_halves,
    convolve_two_cells_of_halves,
    multiply_halves,
)
from dfine_jax.cpu.kernels.pairs import convolve_pairs
from dfine_jax.cpu.kernels.panels import convolve_rows, convolve_tiles, multiply_cells
from dfine_jax.cpu.kernels.tiles import convolve_large_tiles, convolve_small_tiles
from dfine_jax.cpu.operands import LastChannels, MaxPooled, Operand, Upsampled
from dfine_jax.cpu.select import Form
from dfine_jax.inference.folded import Conv
from dfine_jax.model.layers import Linear
from dfine_jax.ops.activations import ACTIVATIONS
from dfine_jax.ops.convolution import convolve_parts
from dfine_jax.ops.resampling import upsample2x


class Weights(NamedTuple):
    """What became of a kernel."""

    form: Form
    arrays: list[jax.ShapeDtypeStruct]

    def variable(self) -> nnx.Param | nnx.List:
        """To hold them: one kernel in the form "whole", or a list."""
        if self.form == "whole":
            return nnx.Param(*self.arrays)
        return nnx.List(map(nnx.Param, self.arrays))


class PackedConv(nnx.Module):
    """A convolution by a kernel in one of the forms of ``dfine_jax.cpu.select``, with all that follows it.

    ``result`` is the type of its map: float32, or float16 where the next layer is machine code that reads it.
    """

    def __init__(self, conv: Conv, weights: Weights, result: str):
        self.kernel = nnx.data(weights.variable())
        self.bias, self.affine = conv.bias, conv.affine
        self.form, self.result = weights.form, result
        self.stride, self.padding = conv.stride, conv.padding
        self.activation, self.compute = conv.activation, conv.compute

    def __call__(
        self, *operands: Operand, train: bool = False, residual: Float[Array, "B h w O"] | None = None
    ) -> Float[Array, "B h w O"]:
        """Convolves the operands' channels put together, and adds ``residual`` last."""
        kernels = [self.kernel[...]] if self.form == "whole" else [kernel[...] for kernel in self.kernel]
        if isinstance(operands[0], Upsampled):
            return self._of_upsampled(operands[0].map, *operands[1:], kernels=kernels)
        pooled = sum(isinstance(operand, MaxPooled) for operand in operands)
        maps = [self._as_read(operand) for operand in operands]
        window, finish = dict(stride=self.stride, padding=self.padding), self._finish(shortcut=residual)
        match self.form:
            case "panels":
                return multiply_cells(maps, kernels, finish)
            case "halves in panels":
                return multiply_halves(maps, kernels, finish)
            case "rows in panels":
                return convolve_rows(maps, kernels, **window, finish=finish)
            case "rows of halves":
                return convolve_rows_of_halves(maps, kernels, **window, finish=finish, tops=pooled)
            case "two cells of halves":
                return convolve_two_cells_of_halves(maps, kernels, self.padding, finish)
            case "rows of channels":
                return convolve_channels(*maps, *kernels, **window, finish=finish)
            case "large tiles in panels":
                return convolve_tiles(*maps, *kernels, self.padding, finish)
            case "large tiles of halves" | "large tiles of wholes":
                return convolve_tiles_of_halves(*maps, kernels, self.padding, finish)
            case _:
                return finish(self._by_xla(maps, kernels)).astype(self.compute.dtype)

    def _by_xla(self, maps: Sequence[Array], kernels: list[Array]) -> Float[Array, "B h w O"]:
        match self.form:
            case "small tiles":
                return convolve_small_tiles(*maps, kernels, self.padding, self.compute)
            case "large tiles":
                return convolve_large_tiles(*maps, *kernels, self.padding)
            case "pairs":
                return convolve_pairs(*maps, *kernels, self.padding)
            case "parts":
                return convolve_parts(maps, kernels, self.stride, self.padding, self.compute)
            case _:
                return self.compute.convolve(maps, *kernels, self.stride, self.padding)

    def _as_read(self, operand: Operand) -> Float[Array, "B H W C"]:
        """The map that the form's code reads."""
        match operand:
            case LastChannels():
                return operand.map if self.form in ("panels", "halves in panels") else operand.copied()
            case MaxPooled():
                return operand.map
            case _:
                return operand

    def _of_upsampled(self, coarse: Array, fine: Array, *, kernels: list[Array]) -> Float[Array, "B h w O"]:
        """Multiplies the coarse map before it is upsampled, which is the same at a quarter of the work."""
        match self.form:
            case "panels":
                multiply, (ours, theirs) = multiply_cells, ([kernel] for kernel in kernels)
            case "halves apart":
                multiply, (ours, theirs) = multiply_halves, apart(kernels)
            case _:
                ours, theirs = jnp.split(kernels[0][0, 0], [coarse.shape[-1]])
                product = upsample2x(self.compute.multiply(coarse, ours)) + self.compute.multiply(fine, theirs)
                return self._finish()(product).astype(self.compute.dtype)
        unfinished = Finish(jnp.zeros_like(self.bias[...]), None)
        return multiply([fine], theirs, self._finish(coarse=multiply([coarse], ours, unfinished)))

    def _finish(self, **added: Float[Array, "..."] | None) -> Finish:
        affine = self.affine and jnp.concatenate([self.affine.scale[...], self.affine.bias[...]])
        return Finish(self.bias[...], self.activation, affine, dtype=self.result, **added)


class PackedLinear(nnx.Module):
    """A linear layer by machine code."""

    def __init__(self, linear: Linear, weights: Weights):
        self.kernel = nnx.data(weights.variable())
        self.bias, self.compute = linear.bias, linear.compute
        self._multiply = multiply_halves if weights.form == "halves in panels" else multiply_cells

    def __call__(self, x: Float[Array, "*B inputs"], activation: str | None = None) -> Float[Array, "*B outputs"]:
        """With the activation that follows, by its name."""
        in_finish = activation if activation in FINISHES else None
        y = self._multiply([x], [kernel[...] for kernel in self.kernel], Finish(self.bias[...], in_finish))
        return y if in_finish == activation else ACTIVATIONS[activation](y)


def arrays_of(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype]) -> list[jax.ShapeDtypeStruct]:
    """Arrays of these shapes and types, without values."""
    return [jax.ShapeDtypeStruct(*each) for each in zip(shapes, dtypes, strict=True)]
