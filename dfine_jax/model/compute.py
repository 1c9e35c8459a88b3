"""In which type, and how exactly, products are calculated."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.errors import InputError
from dfine_jax.model import products
from dfine_jax.native.registers import HALVES, half
from dfine_jax.processor import is_faster_in_bfloat16


@dataclass(frozen=True)
class Compute:
    """How products are calculated.

    ``dtype`` is what operands of convolutions and matrix products are rounded to, but for those that CPUs are no slower
    at in float32. Parameters are float32, but for the kernels of a fused model, which are rounded ahead. Sums, softmax,
    normalisation, geometry and box decoding stay float32. ``precision`` is explicit because TPUs and recent GPUs do not
    multiply float32 exactly by default.

    ``halves`` is the type that operands of a fused model's products are rounded to by machine code for CPUs, see
    ``dfine_jax.model.halves``: float16, bfloat16 or int16. ``dtype`` is float32 then.

    ``is_native`` is for programs of one CPU that there is machine code for, in float32: products of cells and kernels,
    dense convolutions, and the gradients of both are computed by it. XLA can't divide such code among devices, and
    products then have no derivatives forward.
    """

    dtype: jnp.dtype = jnp.dtype("float32")
    precision: lax.Precision | None = lax.Precision.HIGHEST
    halves: jnp.dtype | None = None
    is_native: bool = False

    @classmethod
    def named(cls, name: str) -> "Compute":
        """``"float32"`` (exact products) or ``"bfloat16"``; anything else is a ``ValueError``."""
        if name == "float32":
            return cls()
        if name == "bfloat16":
            return cls(jnp.dtype("bfloat16"), None)
        raise InputError(f"dtype {name!r} is not supported: choose float32 or bfloat16")

    @classmethod
    def for_this_machine(cls, name: str) -> "Compute":
        """``named(name)``, but what is fastest, and about as exact or more, where bfloat16 is asked for on a CPU.

        That is machine code for halves, see ``dfine_jax.model.halves``, for processors that it is there for, and else
        float32 where products of bfloat16 aren't faster.
        """
        compute = cls.named(name)
        if jax.default_backend() != "cpu" or compute == cls():
            return compute
        if kind := half():
            return cls(halves=jnp.dtype(HALVES[kind]))
        return compute if is_faster_in_bfloat16() else cls()

    @property
    def narrowest(self) -> jnp.dtype:
        """The type of the large products' operands in a fused model."""
        return self.halves or self.dtype

    @property
    def narrowest_map(self) -> str:
        """The type of maps between convolutions by machine code in a fused model: float16 beside whole numbers."""
        return "float16" if self.halves == jnp.int16 else "float32"

    def instead_of(self, asked: str) -> str | None:
        """What to tell somebody who asked for products in another type; None if nobody did."""
        if self.narrowest == asked:
            return None
        return f"this processor isn't fastest at {asked}: products are {self.narrowest}"

    def einsum(self, equation: str, *operands: Array) -> Float[Array, "..."]:
        """``jnp.einsum`` of operands in ``dtype``, summed and returned in float32."""
        rounded = [operand.astype(self.dtype) for operand in operands]
        return jnp.einsum(equation, *rounded, precision=self.precision, preferred_element_type=jnp.float32)

    def multiply(self, x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
        """``x @ kernel``, like ``einsum``."""
        return products.multiply(x, kernel) if self.is_native else self.einsum("...i,io->...o", x, kernel)
