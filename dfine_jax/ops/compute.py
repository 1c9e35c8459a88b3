"""In which type, and how exactly, products are calculated."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.errors import InputError
from dfine_jax.ops.convolution import convolve, convolve_on_cpu


@dataclass(frozen=True)
class Compute:
    """How products are calculated.

    ``dtype`` is what operands of convolutions and matrix products are rounded to, but for those that CPUs are no slower
    at in float32. Parameters are float32, but for the kernels of a fused model, which are rounded ahead. Sums, softmax,
    normalisation, geometry and box decoding stay float32. ``precision`` is explicit because TPUs and recent GPUs do not
    multiply float32 exactly by default.

    Layers multiply and convolve by its methods alone, so that a subclass can do it otherwise.
    """

    dtype: jnp.dtype = jnp.dtype("float32")
    precision: lax.Precision | None = lax.Precision.HIGHEST

    @classmethod
    def named(cls, name: str) -> "Compute":
        """``"float32"`` (exact products) or ``"bfloat16"``; anything else is a ``ValueError``."""
        if name == "float32":
            return Compute()
        if name == "bfloat16":
            return Compute(jnp.dtype("bfloat16"), None)
        raise InputError(f"dtype {name!r} is not supported: choose float32 or bfloat16")

    def einsum(self, equation: str, *operands: Array) -> Float[Array, "..."]:
        """``jnp.einsum`` of operands in ``dtype``, summed and returned in float32."""
        rounded = [operand.astype(self.dtype) for operand in operands]
        return jnp.einsum(equation, *rounded, precision=self.precision, preferred_element_type=jnp.float32)

    def multiply(self, x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
        """``x @ kernel``, like ``einsum``."""
        rounded = [operand.astype(self.dtype) for operand in (x, kernel)]
        return jnp.matmul(*rounded, precision=self.precision, preferred_element_type=jnp.float32)

    def convolve(
        self,
        maps: Sequence[Float[Array, "B H W _"]],
        kernel: Float[Array, "kh kw G O"],
        stride: int,
        padding: tuple[int, int],
    ) -> Float[Array, "B h w O"]:
        """Convolves the maps' channels put together, see ``dfine_jax.ops.convolution``."""
        return convolve(maps, kernel, stride, padding, self)

    def convolve_on_cpu(
        self, x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw G O"], stride: int, padding: tuple[int, int]
    ) -> Float[Array, "B h w O"]:
        """Convolves one map in the form for CPUs."""
        return convolve_on_cpu(x, kernel, stride, padding, self)
