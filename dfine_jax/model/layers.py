"""The layers that backbone, encoder and decoder share.

Variables come in two kinds: ``nnx.Param`` is trained, ``nnx.BatchStat`` is not (running statistics, and the two numbers
that shape W(n)). Kernels are HWIO and (in, out).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.initial import Initial, constant, fan_in, parameter, statistic
from dfine_jax.ops.activations import ACTIVATIONS, Activation
from dfine_jax.ops.batch_norm import Learned, normalise
from dfine_jax.ops.compute import Compute


class Linear(nnx.Module):
    """``x @ kernel + bias``; the result is float32."""

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
        self.kernel = parameter(kernel or default, (inputs, outputs), rng)
        self.bias = parameter(bias or default, (outputs,), rng)
        self.compute = compute

    def __call__(self, x: Float[Array, "*B inputs"]) -> Float[Array, "*B outputs"]:
        return self.compute.multiply(x, self.kernel[...]) + self.bias[...]


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32."""

    def __init__(self, features: int, *, epsilon: float = 1e-5, rng: np.random.Generator | None):
        self.scale = parameter(constant(1), (features,), rng)
        self.bias = parameter(constant(0), (features,), rng)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


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

    ``inputs`` are the channels of its map, or those of each of several maps, which it convolves put together.
    ``padding`` is (before, after) on both axes; the default keeps the size of a map for odd kernels.
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
        kernel: Initial | None = None,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        self.widths = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        per_group = 1 if depthwise else sum(self.widths)
        shape = (kernel_size, kernel_size, per_group, outputs)
        self.kernel = parameter(kernel or fan_in(per_group * kernel_size**2), shape, rng)
        self.norm = BatchNorm(outputs, epsilon=epsilon, frozen=frozen, rng=rng)
        self.affine = Affine(rng) if affine else None
        self.stride = stride
        self.padding = ((kernel_size - 1) // 2,) * 2 if padding is None else padding
        self.activation = activation
        self.compute = compute

    def __call__(self, *maps: Float[Array, "B H W _"], train: bool = False) -> Float[Array, "B h w O"]:
        x = self.compute.convolve(maps, self.kernel[...], self.stride, self.padding)
        return self.norm(x, train, ACTIVATIONS[self.activation], self.affine).astype(self.compute.dtype)


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
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)
