"""Layers that CPUs are fast with, in place of a folded model's layers of the same name."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.epilogue import EPILOGUES
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.channelwise import convolve_depthwise
from dfine_jax.cpu.kernels.packed import convolve_implicit_gemm, convolve_winograd, gemm
from dfine_jax.cpu.kernels.packed16 import (
    apart,
    convolve_implicit_gemm16,
    convolve_two_columns16,
    convolve_winograd16,
    gemm16,
)
from dfine_jax.cpu.kernels.two_columns import convolve_two_columns
from dfine_jax.cpu.kernels.winograd import winograd_f2, winograd_f4
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
        window, epilogue = dict(stride=self.stride, padding=self.padding), self._epilogue(shortcut=residual)
        match self.form:
            case "GEMM":
                return gemm(maps, kernels, epilogue)
            case "GEMM, 16 bits":
                return gemm16(maps, kernels, epilogue)
            case "implicit GEMM":
                return convolve_implicit_gemm(maps, kernels, **window, epilogue=epilogue)
            case "implicit GEMM, 16 bits":
                return convolve_implicit_gemm16(maps, kernels, **window, epilogue=epilogue, tops=pooled)
            case "two columns, 16 bits":
                return convolve_two_columns16(maps, kernels, self.padding, epilogue)
            case "depthwise":
                return convolve_depthwise(*maps, *kernels, **window, epilogue=epilogue)
            case "Winograd F(4,3), packed":
                return convolve_winograd(*maps, *kernels, self.padding, epilogue)
            case "Winograd F(4,3), 16 bits" | "Winograd F(4,3), int16":
                return convolve_winograd16(*maps, kernels, self.padding, epilogue)
            case _:
                return epilogue(self._by_xla(maps, kernels)).astype(self.compute.dtype)

    def _by_xla(self, maps: Sequence[Array], kernels: list[Array]) -> Float[Array, "B h w O"]:
        match self.form:
            case "Winograd F(2,3)":
                return winograd_f2(*maps, kernels, self.padding, self.compute)
            case "Winograd F(4,3)":
                return winograd_f4(*maps, *kernels, self.padding)
            case "two columns":
                return convolve_two_columns(*maps, *kernels, self.padding)
            case "split":
                return convolve_parts(maps, kernels, self.stride, self.padding, self.compute)
            case _:
                return self.compute.convolve(maps, *kernels, self.stride, self.padding)

    def _as_read(self, operand: Operand) -> Float[Array, "B H W C"]:
        """The map that the form's code reads."""
        match operand:
            case LastChannels():
                return operand.map if self.form in ("GEMM", "GEMM, 16 bits") else operand.copied()
            case MaxPooled():
                return operand.map
            case _:
                return operand

    def _of_upsampled(self, coarse: Array, fine: Array, *, kernels: list[Array]) -> Float[Array, "B h w O"]:
        """Multiplies the coarse map before it is upsampled, which is the same at a quarter of the work."""
        match self.form:
            case "GEMM":
                multiply, (ours, theirs) = gemm, ([kernel] for kernel in kernels)
            case "GEMM, 16 bits, split":
                multiply, (ours, theirs) = gemm16, apart(kernels)
            case _:
                ours, theirs = jnp.split(kernels[0][0, 0], [coarse.shape[-1]])
                product = upsample2x(self.compute.multiply(coarse, ours)) + self.compute.multiply(fine, theirs)
                return self._epilogue()(product).astype(self.compute.dtype)
        bare_epilogue = Epilogue(jnp.zeros_like(self.bias[...]), None)
        return multiply([fine], theirs, self._epilogue(coarse=multiply([coarse], ours, bare_epilogue)))

    def _epilogue(self, **added: Float[Array, "..."] | None) -> Epilogue:
        affine = self.affine and jnp.concatenate([self.affine.scale[...], self.affine.bias[...]])
        return Epilogue(self.bias[...], self.activation, affine, dtype=self.result, **added)


class PackedLinear(nnx.Module):
    """A linear layer by machine code."""

    def __init__(self, linear: Linear, weights: Weights):
        self.kernel = nnx.data(weights.variable())
        self.bias, self.compute = linear.bias, linear.compute
        self._multiply = gemm16 if weights.form == "GEMM, 16 bits" else gemm

    def __call__(self, x: Float[Array, "*B inputs"], activation: str | None = None) -> Float[Array, "*B outputs"]:
        """With the activation that follows, by its name."""
        in_epilogue = activation if activation in EPILOGUES else None
        y = self._multiply([x], [kernel[...] for kernel in self.kernel], Epilogue(self.bias[...], in_epilogue))
        return y if in_epilogue == activation else ACTIVATIONS[activation](y)


def arrays_of(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype]) -> list[jax.ShapeDtypeStruct]:
    """Arrays of these shapes and types, without values."""
    return [jax.ShapeDtypeStruct(*each) for each in zip(shapes, dtypes, strict=True)]
