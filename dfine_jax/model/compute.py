"""In which type, and how exactly, products are calculated."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model import products
from dfine_jax.processor import is_faster_in_bfloat16


@dataclass(frozen=True)
class Compute:
    """How products are calculated.

    ``dtype`` is what operands of convolutions and matrix products are rounded to, but for those that CPUs are no slower
    at in float32. Parameters are float32, but for the kernels of a fused model, which are rounded ahead. Sums, softmax,
    normalisation, geometry and box decoding stay float32. ``precision`` is explicit because TPUs and recent GPUs do not
    multiply float32 exactly by default.

    ``is_native`` is for programs of one CPU that there is machine code for, in float32: products of cells and kernels,
    dense convolutions, and the gradients of both are computed by it. XLA can't divide such code among devices, and
    products then have no derivatives forward.
    """

    dtype: jnp.dtype = jnp.dtype("float32")
    precision: lax.Precision | None = lax.Precision.HIGHEST
    is_native: bool = False

    @classmethod
    def named(cls, name: str) -> "Compute":
        """``"float32"`` (exact products) or ``"bfloat16"``; anything else is a ``ValueError``."""
        if name == "float32":
            return cls()
        if name == "bfloat16":
            return cls(jnp.dtype("bfloat16"), None)
        raise ValueError(f"dtype {name!r} is not supported: choose float32 or bfloat16")

    @classmethod
    def for_this_machine(cls, name: str) -> "Compute":
        """``named(name)``, but float32 where JAX computes on a CPU that isn't faster at products of bfloat16."""
        compute = cls.named(name)
        return cls() if jax.default_backend() == "cpu" and not is_faster_in_bfloat16() else compute

    def einsum(self, equation: str, *operands: Array) -> Float[Array, "..."]:
        """``jnp.einsum`` of operands in ``dtype``, summed and returned in float32."""
        rounded = [operand.astype(self.dtype) for operand in operands]
        return jnp.einsum(equation, *rounded, precision=self.precision, preferred_element_type=jnp.float32)

    def multiply(self, x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
        """``x @ kernel``, like ``einsum``."""
        return products.multiply(x, kernel) if self.is_native else self.einsum("...i,io->...o", x, kernel)
