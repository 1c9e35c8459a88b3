"""Arrays and deep greys as 8-bit RGB pictures."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from dfine_jax.inference.picture_error import PictureError

ROWS = 256
"""So many at a time are computed, since what is in between takes several times the memory of the values."""


def sixteen_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Greys as uint16; ``PictureError`` where some are outside of its range, so that their scale isn't known."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PictureError(f"{name}: greys from {low} to {high}, of no known scale; convert it to 8 or 16 bits first")
    return values.astype(np.uint16, copy=False)


def from_array(array: np.ndarray, name: str) -> Image.Image:
    """RGB from an array as ``load_picture`` takes it; ``PictureError`` says what is wrong with its shape or values."""
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"{name}: of shape {array.shape}; expected one picture, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    values = _eight_bits(array, name)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """The array's values on the scale of uint8, by its type's own scale and never by its content."""
    kind = array.dtype
    if kind.kind == "u" and kind.itemsize == 1:
        return array
    if kind.kind == "b":
        return array.astype(np.uint8) * 255
    if kind.kind == "u" and kind.itemsize == 2:
        return _by_rows(lambda rows: (rows.astype(np.uint32) + 128) // 257, array)
    if kind.kind in "iu":
        low, high, most, advice = int(array.min()), int(array.max()), 255, "give uint8 or uint16"
    elif kind.kind == "f" or kind.name == "bfloat16":
        array = array.astype(np.float32)
        low, high, most, advice = (
            float(array.min()),
            float(array.max()),
            1.0,
            "divide by its largest possible value",
        )
    else:
        raise PictureError(f"{name}: values of type {kind}; expected uint8, uint16, bool or floats from 0 to 1")
    if not (low >= -1e-3 and high <= most + 1e-3):  # not: a NaN is wrong too. Resizing floats overshoots a little.
        raise PictureError(f"{name}: {kind} values from {low:g} to {high:g}; expected 0 to {most:g}: {advice}")
    return _by_rows(lambda rows: np.round(np.clip(rows, 0, most) * (255 / most)), array)


def _by_rows(function: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    """The function's values as uint8."""
    result = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), ROWS):
        result[start : start + ROWS] = function(array[start : start + ROWS])
    return result
