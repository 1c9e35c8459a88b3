"""From a picture to the model's input: stretched to one size and scaled to 0..1.

The numbers are those of transformers' RTDetrImageProcessor on Pillow, to the last bit. All but the end
works on bytes, so the host may stop after `resize` and leave the rest to `normalise` on the device: a quarter
of the memory to move.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from dfine_jax.preprocessing import Preprocessing


def resize(image: Image.Image, settings: Preprocessing) -> UInt8[np.ndarray, "H W 3"]:
    """Stretches an RGB picture, as `load_picture` gives it, to the model's size. Bytes in, bytes out."""
    if image.mode != "RGB":
        raise ValueError(f"a picture of mode {image.mode!r}; expected RGB: read it with load_picture")
    return np.asarray(image.resize((settings.width, settings.height), settings.resample))


def preprocess(image: Image.Image, settings: Preprocessing) -> Float[np.ndarray, "H W 3"]:
    """The model's input for one RGB picture, on the host: `resize`, then the numbers of `normalise`."""
    return _scaled(resize(image, settings), settings)


def normalise(images: UInt8[Array, "... H W 3"], settings: Preprocessing) -> Float[Array, "... H W 3"]:
    """What `preprocess` does after `resize`, on the device: the same float32 numbers to the bit.

    Multiplying by 1/255 in float32 gives other numbers for half of the levels, and dividing by 255 does too,
    because XLA makes it a multiplication.
    """
    if settings.mean is not None:
        levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        return jnp.asarray(_scaled(levels, settings))[images, jnp.arange(3)]
    # A byte times the factor's 16 leading bits is exact in float32 and the rest is 2**-16 of it, so only the
    # sum's rounding shows, whether or not the compiler fuses it with a product.
    mantissa, exponent = np.frexp(settings.rescale_factor)
    leading = np.ldexp(np.trunc(np.ldexp(mantissa, 16)), exponent - 16)
    x = images.astype(jnp.float32)
    return x * jnp.float32(leading) + x * jnp.float32(settings.rescale_factor - leading)


def _scaled(image: UInt8[np.ndarray, "... 3"], settings: Preprocessing) -> Float[np.ndarray, "... 3"]:
    """Rescaled and normalised in transformers' order of operations and of types."""
    scaled = (image.astype(np.float64) * settings.rescale_factor).astype(np.float32)
    if settings.mean is not None:
        scaled = (scaled - np.asarray(settings.mean, np.float32)) / np.asarray(settings.std, np.float32)
    return scaled
