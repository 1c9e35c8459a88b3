"""Layers that CPUs are fast with, in place of a folded model's layers of the same name."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.epilogue import EPILOGUES
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.kernel import Layer
from dfine_jax.cpu.kernels.table import KERNELS
from dfine_jax.cpu.operands import LastChannels, MaxPooled, Operand, Upsampled
from dfine_jax.inference.folded import Conv
from dfine_jax.model.layers import Linear
from dfine_jax.ops.activations import ACTIVATIONS
from dfine_jax.ops.resampling import upsample2x


class Weights(NamedTuple):
    """What became of a kernel."""

    form: str
    """Its name in ``dfine_jax.cpu.kernels.table``."""
    arrays: list[jax.ShapeDtypeStruct]

    def variable(self) -> nnx.Param | nnx.List:
        """To hold them: one kernel in the form "whole", or a list."""
        if self.form == "whole":
            return nnx.Param(*self.arrays)
        return nnx.List(map(nnx.Param, self.arrays))


class PackedConv(nnx.Module):
    """A convolution by a kernel in one of the forms of ``dfine_jax.cpu.kernels``, with all that follows it.

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
        form = KERNELS[self.form]
        if isinstance(operands[0], Upsampled):
            return self._of_upsampled(operands[0].map, *operands[1:], kernels=kernels)
        pooled = sum(isinstance(operand, MaxPooled) for operand in operands)
        maps = [self._as_read(operand) for operand in operands]
        return form.convolve(maps, kernels, self._layer(self._epilogue(residual=residual), pooled))

    def _as_read(self, operand: Operand) -> Float[Array, "B H W C"]:
        """The map that the form's code reads."""
        match operand:
            case LastChannels():
                return operand.map if KERNELS[self.form].reads_last_channels else operand.copied()
            case MaxPooled():
                return operand.map
            case _:
                return operand

    def _of_upsampled(self, coarse: Array, fine: Array, *, kernels: list[Array]) -> Float[Array, "B h w O"]:
        """Multiplies the coarse map before it is upsampled, which is the same at a quarter of the work."""
        form = KERNELS[self.form]
        by_map = form.by_map(kernels)
        if by_map is None:
            ours, theirs = jnp.split(kernels[0][0, 0], [coarse.shape[-1]])
            product = upsample2x(self.compute.multiply(coarse, ours)) + self.compute.multiply(fine, theirs)
            return self._epilogue()(product).astype(self.compute.dtype)
        ours, theirs = by_map
        bare_epilogue = Epilogue(jnp.zeros_like(self.bias[...]), None)
        product = form.convolve([coarse], ours, self._layer(bare_epilogue))
        return form.convolve([fine], theirs, self._layer(self._epilogue(coarse=product)))

    def _layer(self, epilogue: Epilogue, pooled: int = 0) -> Layer:
        return Layer(self.stride, self.padding, epilogue, self.compute, pooled)

    def _epilogue(self, **added: Float[Array, "..."] | None) -> Epilogue:
        affine = self.affine and jnp.concatenate([self.affine.scale[...], self.affine.bias[...]])
        return Epilogue(self.bias[...], self.activation, affine, dtype=self.result, **added)


class PackedLinear(nnx.Module):
    """A linear layer by machine code."""

    def __init__(self, linear: Linear, weights: Weights):
        self.kernel = nnx.data(weights.variable())
        self.bias, self.compute = linear.bias, linear.compute
        self.form = weights.form

    def __call__(self, x: Float[Array, "*B inputs"], activation: str | None = None) -> Float[Array, "*B outputs"]:
        """With the activation that follows, by its name."""
        in_epilogue = activation if activation in EPILOGUES else None
        layer = Layer(1, (0, 0), Epilogue(self.bias[...], in_epilogue), self.compute)
        y = KERNELS[self.form].convolve([x], [kernel[...] for kernel in self.kernel], layer)
        return y if in_epilogue == activation else ACTIVATIONS[activation](y)
