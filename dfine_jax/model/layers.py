"""The layers that backbone, encoder and decoder share.

Variables come in two kinds: ``nnx.Param`` is trained, ``nnx.BatchStat`` is not (running statistics, and the two numbers
that shape W(n)). Kernels are HWIO and (in, out).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.activations import ACTIVATIONS, Activation
from dfine_jax.model.channelwise import convolve_channels, normalise_cells, plain_normalise_cells
from dfine_jax.model.compute import Compute
from dfine_jax.model.convolution import convolve, convolve_joined, convolve_several
from dfine_jax.model.finish import Finish
from dfine_jax.model.halves import (
    apart,
    convolve_rows_of_halves,
    convolve_tiles_of_halves,
    convolve_two_cells_of_halves,
    multiply_halves,
)
from dfine_jax.model.initial import Initial, constant, fan_in, parameter, statistic
from dfine_jax.model.normalisation import Learned, normalise
from dfine_jax.model.panels import convolve_rows, convolve_tiles, multiply_cells
from dfine_jax.model.prepared_kernels import Form, convolve_pairs
from dfine_jax.model.tiles import convolve_large_tiles, convolve_small_tiles
from dfine_jax.native.finish import FINISHES


class Linear(nnx.Module):
    """``x @ kernel + bias``; the result is float32.

    After ``dfine_jax.model.fuse``, ``form`` says what became of ``kernel``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: Initial | None = None,
        bias: Initial | None = None,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        default = fan_in(inputs)
        self.kernel: nnx.Param | nnx.List = nnx.data(parameter(kernel or default, (inputs, outputs), rng))
        self.bias = parameter(bias or default, (outputs,), rng)
        self.form: Form = "whole"
        self.compute = compute

    def __call__(self, x: Float[Array, "*B inputs"], activation: str | None = None) -> Float[Array, "*B outputs"]:
        """With the activation that follows, by its name."""
        bias = self.bias[...]
        if self.form == "whole":
            return ACTIVATIONS[activation](self.compute.multiply(x, self.kernel[...]) + bias)
        multiply = multiply_halves if self.form == "halves in panels" else multiply_cells
        in_finish = activation if activation in FINISHES else None
        y = multiply([x], [kernel[...] for kernel in self.kernel], Finish(bias, in_finish))
        return y if in_finish == activation else ACTIVATIONS[activation](y)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32; ``is_native`` is set by ``dfine_jax.model.fuse``."""

    def __init__(self, features: int, *, epsilon: float = 1e-5, rng: np.random.Generator | None):
        self.scale = parameter(constant(1), (features,), rng)
        self.bias = parameter(constant(0), (features,), rng)
        self.epsilon = epsilon
        self.is_native = False

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        normalised = normalise_cells if self.is_native else plain_normalise_cells
        return normalised(x.astype(jnp.float32), self.scale[...], self.bias[...], self.epsilon)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, in float32.

    In training it normalises by the batch's mean and biased variance. It then holds the batch's mean and unbiased
    variance: ``dfine_jax.model.dfine.functional`` moves the running ones towards those of all norms at once, for each
    on its own would be hundreds of small programs to compile. A frozen one uses and keeps the stored statistics always.
    """

    def __init__(self, features: int, *, epsilon: float = 1e-5, frozen: bool = False, rng: np.random.Generator | None):
        self.scale = parameter(constant(1), (features,), rng)
        self.bias = parameter(constant(0), (features,), rng)
        self.mean = statistic(0, (features,), rng)
        self.var = statistic(1, (features,), rng)
        self.epsilon = epsilon
        self.frozen = frozen

    def __call__(
        self,
        x: Float[Array, "*B C"],
        train: bool = False,
        activation: Activation = ACTIVATIONS[None],
        affine: "Affine | None" = None,
    ) -> Float[Array, "*B C"]:
        """With the activation and the affine block that follow, whose gradients in training are computed together."""
        if not train or self.frozen:
            scale = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
            y = activation(x.astype(jnp.float32) * scale + (self.bias[...] - self.mean[...] * scale))
            return y if affine is None else affine(y)
        learned = Learned(self.scale[...], self.bias[...], affine and (affine.scale[...], affine.bias[...]))
        normalised = normalise(x, learned, activation, self.epsilon)
        count = x.size // x.shape[-1]
        # Assigning to [...] instead asks tracers for their sharding, which costs half of all tracing time.
        self.mean.set_value(normalised.mean)
        self.var.set_value(normalised.variance * (count / max(count - 1, 1)))
        return normalised.map


class Affine(nnx.Module):
    """HGNetV2's learnable affine block: one scale and one shift for the whole map."""

    def __init__(self, rng: np.random.Generator | None):
        self.scale = parameter(constant(1), (1,), rng)
        self.bias = parameter(constant(0), (1,), rng)

    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        return x * self.scale[...] + self.bias[...]


class ConvNorm(nnx.Module):
    """Convolution without bias, batch norm, activation, and optionally a learnable affine block.

    ``inputs`` are the channels of the map, or those of each of several maps, see ``of_several`` and, where they come
    ``apart``, ``joined``. ``padding`` is (before, after) on both axes; the default keeps the size of a map for odd
    kernels.
    After ``dfine_jax.model.fuse`` the norm is gone and ``bias`` is there instead; ``form`` says what became of
    ``kernel``, and ``result`` in which type machine code writes the map.
    """

    def __init__(
        self,
        inputs: int | Sequence[int],
        outputs: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        padding: tuple[int, int] | None = None,
        activation: str | None = None,
        affine: bool = False,
        epsilon: float = 1e-5,
        frozen: bool = False,
        apart: bool = False,
        kernel: Initial | None = None,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        self.widths = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        per_group = 1 if depthwise else sum(self.widths)
        shape = (kernel_size, kernel_size, per_group, outputs)
        self.kernel: nnx.Param | nnx.List = nnx.data(
            parameter(kernel or fan_in(per_group * kernel_size**2), shape, rng)
        )
        self.bias: nnx.Param | None = nnx.data(None)
        self.norm: BatchNorm | None = nnx.data(BatchNorm(outputs, epsilon=epsilon, frozen=frozen, rng=rng))
        self.affine = Affine(rng) if affine else None
        self.form: Form = "whole"
        self.result = "float32"
        self.apart = apart
        self.stride = stride
        self.padding = ((kernel_size - 1) // 2,) * 2 if padding is None else padding
        self.activation = activation
        self.compute = compute

    def __call__(
        self, x: Float[Array, "B H W I"], train: bool = False, shortcut: Float[Array, "B h w O"] | None = None
    ) -> Float[Array, "B h w O"]:
        """With the map that is added to the result, if there is one."""
        kernels, finish = self._kernels(), partial(self._finish, shortcut=shortcut)
        match self.form:
            case "panels":
                return multiply_cells([x], kernels, finish())
            case "halves in panels":
                return multiply_halves([x], kernels, finish())
            case "rows in panels":
                return convolve_rows([x], kernels, self.stride, self.padding, finish())
            case "rows of halves":
                return convolve_rows_of_halves([x], kernels, self.stride, self.padding, finish())
            case "two cells of halves":
                return convolve_two_cells_of_halves([x], kernels, self.padding, finish())
            case "rows of channels":
                return convolve_channels(x, *kernels, self.stride, self.padding, finish())
            case "large tiles in panels":
                return convolve_tiles(x, *kernels, self.padding, finish())
            case "large tiles of halves" | "large tiles of wholes":
                return convolve_tiles_of_halves(x, kernels, self.padding, finish())
            case "small tiles":
                x = convolve_small_tiles(x, kernels, self.padding, self.compute)
            case "large tiles":
                x = convolve_large_tiles(x, *kernels, self.padding)
            case "pairs":
                x = convolve_pairs(x, *kernels, self.padding)
            case _:
                x = convolve(x, *kernels, self.stride, self.padding, self.compute)
        return self._finished(x, train, shortcut)

    def of_several(self, maps: Sequence[Float[Array, "B H W _"]], train: bool = False) -> Float[Array, "B h w O"]:
        """Of several maps' channels put together."""
        kernels = self._kernels()
        match self.form:
            case "panels":
                return multiply_cells(maps, kernels, self._finish())
            case "halves in panels":
                return multiply_halves(maps, kernels, self._finish())
            case "rows in panels":
                return convolve_rows(maps, kernels, self.stride, self.padding, self._finish())
            case "rows of halves":
                return convolve_rows_of_halves(maps, kernels, self.stride, self.padding, self._finish())
            case "two cells of halves":
                return convolve_two_cells_of_halves(maps, kernels, self.padding, self._finish())
            case _:
                return self._finished(convolve_several(maps, kernels, self.stride, self.padding, self.compute), train)

    def of_largest(self, x: Float[Array, "B H W I"], other: Float[Array, "B H W J"]) -> Float[Array, "B h w O"]:
        """Of a map's ``dfine_jax.model.channelwise.largest_of_four`` and another; in the form "rows of halves"."""
        maps, kernels = [x, other], self._kernels()
        return convolve_rows_of_halves(maps, kernels, self.stride, self.padding, self._finish(), tops=1)

    def joined(
        self, coarse: Float[Array, "B h w I"], fine: Float[Array, "B 2*h 2*w J"], train: bool = False
    ) -> Float[Array, "B 2*h 2*w O"]:
        """Of two maps' channels put together, the first map enlarged; for a pointwise convolution."""
        kernels = self._kernels()
        match self.form:
            case "panels":
                multiply, (ours, theirs) = multiply_cells, ([kernel] for kernel in kernels)
            case "halves apart":
                multiply, (ours, theirs) = multiply_halves, apart(kernels)
            case _:
                return self._finished(convolve_joined(coarse, fine, *kernels, self.compute), train)
        unfinished = Finish(jnp.zeros_like(self.bias[...]), None)
        return multiply([fine], theirs, self._finish(coarse=multiply([coarse], ours, unfinished)))

    def _kernels(self) -> list[Float[Array, "..."]]:
        return [self.kernel[...]] if self.form == "whole" else [kernel[...] for kernel in self.kernel]

    def _finish(self, **added: Float[Array, "..."] | None) -> Finish:
        """What follows once the norm is folded."""
        affine = self.affine and jnp.concatenate([self.affine.scale[...], self.affine.bias[...]])
        return Finish(self.bias[...], self.activation, affine, dtype=self.result, **added)

    def _finished(
        self, x: Float[Array, "B H W O"], train: bool, shortcut: Float[Array, "B H W O"] | None = None
    ) -> Float[Array, "B H W O"]:
        if self.norm is None:
            return self._finish(shortcut=shortcut)(x).astype(self.compute.dtype)
        x = self.norm(x, train, ACTIVATIONS[self.activation], self.affine).astype(self.compute.dtype)
        return x if shortcut is None else x + shortcut


class MLP(nnx.Module):
    """Linear layers with an activation between them.

    ``kernel`` gives a layer's initial weights from its widths; ``zero_last`` starts the last layer at zero.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        layers: int,
        *,
        activation: str | None = "relu",
        kernel: Callable[[int, int], Initial] = lambda inputs, outputs: fan_in(inputs),
        zero_last: bool = False,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        common = dict(compute=compute, rng=rng)
        self.layers = nnx.List()
        for i, (a, b) in enumerate(pairwise(widths)):
            zero = dict(kernel=constant(0), bias=constant(0)) if zero_last and i == layers - 1 else {}
            self.layers.append(Linear(a, b, **{"kernel": kernel(a, b), **zero}, **common))
        self.activation = activation

    def __call__(self, x: Float[Array, "*B inputs"]) -> Float[Array, "*B outputs"]:
        for layer in self.layers[:-1]:
            x = layer(x, self.activation)
        return self.layers[-1](x)
