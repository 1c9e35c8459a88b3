"""What follows a convolution or a product whose batch norm is folded into it."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.epilogue import LARGEST
from dfine_jax.ops.activations import ACTIVATIONS
from dfine_jax.ops.resampling import upsample2x


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("bias", "affine", "coarse", "shortcut"),
    meta_fields=("activation", "dtype"),
)
@dataclass(frozen=True)
class Epilogue:
    """What follows the sums."""

    bias: Float[Array, " O"]
    activation: str | None
    affine: Float[Array, "2"] | None = None
    """Scale and shift of all."""
    coarse: Float[Array, "B h w O"] | None = None
    """A map half as high and wide, of which every cell is added to four before the activation."""
    shortcut: Float[Array, "*B O"] | None = None
    """A map that is added last."""
    dtype: str = "float32"
    """Of the result, to which it is rounded: float32 or float16. What is beyond the latter's range becomes its largest
    number."""

    def __call__(self, x: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        x = x + self.bias
        if self.coarse is not None:
            x = x + upsample2x(self.coarse)
        x = ACTIVATIONS[self.activation](x)
        if self.affine is not None:
            x = x * self.affine[0] + self.affine[1]
        return self.rounded(x if self.shortcut is None else x + self.shortcut.astype(x.dtype))

    def rounded(self, x: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        """In the type of the result."""
        return x if self.dtype == "float32" else jnp.clip(x, -LARGEST, LARGEST).astype(self.dtype)
