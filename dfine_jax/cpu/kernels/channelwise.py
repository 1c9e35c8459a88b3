"""What takes each channel or each cell of a map by itself, for which CPUs have machine code too.

XLA for CPUs is slow at these: it pads maps in a pass of their own, and calculates a normalised row anew wherever it is
used, with all that the row was made from.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.cpu.call import Window, native, plan_gemm, plan_implicit_gemm
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.work import TAPS
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.kernel import HWIO, Kernel, Layer, Spec
from dfine_jax.ops.convolution import convolve_windows
from dfine_jax.ops.resampling import max_pool2x2


def convolve_depthwise(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k size"],
    stride: int,
    padding: tuple[int, int],
    epilogue: Epilogue,
) -> Float[Array, "B h w C"]:
    """A depthwise convolution, whose kernel has one row after another; ``ValueError`` for less than 16 channels."""
    _check(x)
    return _depthwise([x], [kernel], epilogue, Window(len(kernel), stride, padding))


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Maximum over 2x2 windows at every position, zeros beyond the far edges.

    ``ValueError`` for less than 16 channels.
    """
    _check(x)
    channels = x.shape[-1]
    unused = jnp.zeros((2, 2 * channels))
    epilogue = Epilogue(jnp.zeros(channels), None)
    return _maximum([x], [unused], epilogue, Window(2, 1, (0, 1)))


def layer_norm(
    x: Float[Array, "N *B D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "N *B D"]:
    """Layer normalisation over the last axis; ``ValueError`` where 16 does not divide its length."""
    if x.shape[-1] % WIDEST:
        raise ValueError(f"{x.shape[-1]} numbers a cell: {WIDEST} has to divide them")
    epilogue = Epilogue(bias, None, jnp.array([epsilon, 0.0]))
    return _norm([x], [scale[None]], epilogue, Window(1, 1, (0, 0)))


def _check(x: Float[Array, "B H W C"]) -> None:
    if x.shape[-1] < WIDEST:
        raise ValueError(f"{x.shape[-1]} channels: at least {WIDEST} are needed")


def _plain_depthwise(
    maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window
) -> Float[Array, "B h w C"]:
    whole = kernels[0].reshape(window.size, window.size, 1, -1)
    return epilogue(convolve_windows(*maps, whole, window.stride, window.padding))


def _plain_normalise_cells(
    x: Float[Array, "*B D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "*B D"]:
    """``layer_norm`` of any length, by XLA."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon) * scale + bias


def _plain_maximum(
    maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window
) -> Float[Array, "B h w C"]:
    return max_pool2x2(*maps)


def _plain_norm(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "*B D"]:
    return _plain_normalise_cells(*maps, kernels[0][0], epilogue.bias, epilogue.affine[0])


_depthwise = native("depthwise", _plain_depthwise, plan_implicit_gemm, takes_narrow=True)
_maximum = native("maximum", _plain_maximum, plan_implicit_gemm)
_norm = native("norm", _plain_norm, plan_gemm)


class Depthwise(Kernel):
    """A depthwise kernel, one row of cells after another."""

    name = "depthwise"

    def supports(self, spec: Spec) -> bool:
        of_each = spec.inputs == 1 and spec.widths == (spec.outputs,)
        return of_each and spec.outputs >= WIDEST and max(spec.size) <= TAPS

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        rows, columns, _, outputs = kernel
        return [(rows, columns * outputs)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return [kernel.reshape(len(kernel), -1)]

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return convolve_depthwise(*maps, *kernels, layer.stride, layer.padding, layer.epilogue)
