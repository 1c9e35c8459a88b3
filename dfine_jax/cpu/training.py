"""A training step's products by machine code for one CPU, in float32: XLA can't divide such code among devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.kernel_gradients import gradient_for_kernel
from dfine_jax.cpu.kernels.packed import convolve_implicit_gemm, pack
from dfine_jax.cpu.kernels.products import multiply
from dfine_jax.ops.bilinear import Bilinear, Forms, Operands, Shape
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.convolution import by_cell, convolve_parts, convolve_windows, is_product
from dfine_jax.ops.shifts import gradient_for_map


@dataclass(frozen=True)
class NativeCompute(Compute):
    """``Compute()`` whose products of cells and kernels, dense convolutions, and their gradients are machine code."""

    def multiply(self, x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
        return multiply(x, kernel)

    def convolve(
        self,
        maps: Sequence[Float[Array, "B H W _"]],
        kernel: Float[Array, "kh kw G O"],
        stride: int,
        padding: tuple[int, int],
    ) -> Float[Array, "B h w O"]:
        if len(maps) == 1:
            return self.convolve_on_cpu(*maps, kernel, stride, padding)
        return convolve_parts(maps, [kernel], stride, padding, self)

    def convolve_on_cpu(
        self, x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw G O"], stride: int, padding: tuple[int, int]
    ) -> Float[Array, "B h w O"]:
        if is_product(x.shape[-1], kernel, stride):
            return by_cell(x, kernel, self)
        if kernel.shape[2] != x.shape[-1]:
            return convolve_windows(x, kernel, stride, padding)
        sides = [(n + sum(padding) - len(kernel)) // stride + 1 for n in x.shape[1:3]]
        out = Shape((x.shape[0], *sides, kernel.shape[-1]), "float32")
        return _dense(x.astype(jnp.float32), kernel.astype(jnp.float32), out, Window(stride, padding))


class Window(NamedTuple):
    """How a kernel moves over a map."""

    stride: int
    padding: tuple[int, int]


def _by_rows(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Float[Array, "B h w O"]:
    rows, _, _, outputs = kernel.shape
    panels = pack(kernel.reshape(rows, -1, outputs))
    return convolve_implicit_gemm([x], [panels], stride, padding, Epilogue(jnp.zeros(outputs), None))


def _forward(x: Array, kernel: Array, *, operands: Operands, options: Window) -> Array:
    return _by_rows(x, kernel, *options)


def _for_map(gradient: Array, kernel: Array, *, operands: Operands, options: Window) -> Array:
    return gradient_for_map(gradient, kernel, operands.left.shape[1:3], *options, convolved=_by_rows)


def _for_kernel(x: Array, gradient: Array, *, operands: Operands, options: Window) -> Array:
    return gradient_for_kernel(x, gradient, operands.right.shape[0], *options)


_dense = Bilinear("dfine_native_convolution", {None: Forms(_forward, _for_map, _for_kernel)}, has_batch=True)
