"""A safetensors file, read one tensor at a time."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dfine_jax.plain_file import plain_size
from dfine_jax.weights.fill import MOST_TENSORS, CheckpointError, Shape

REOPEN_AFTER = 32 * 2**20
"""Bytes read from a file before it is opened anew: it is mapped into memory, and what has been read stays there."""
LARGEST_HEAD = 16 * 2**20
"""Bytes of the names, types and places of tensors; those of the largest model take 150 thousand."""

_KINDS = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}


class SafetensorsFile:
    """The tensors of a safetensors file. bfloat16 is read as NumPy's extension type."""

    def __init__(self, path: Path):
        """``CheckpointError`` where the file is missing, cut short or no safetensors file."""
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, str] = {}
        self._path = path
        self._file: Any = None
        self._bytes_read = 0
        file = self._opened()
        names = file.keys()
        if len(names) > MOST_TENSORS:
            raise CheckpointError(f"{path} holds {len(names):,} tensors, up to {MOST_TENSORS:,} are read")
        for name in names:
            entry = file.get_slice(name)
            self.shapes[name] = tuple(entry.get_shape())
            self.types[name] = _plain(entry.get_dtype())

    def read(self, name: str) -> np.ndarray:
        """One tensor, of a type that ``fill.FLOATS`` names."""
        if self._file is None or self._bytes_read > REOPEN_AFTER:
            self._file = None  # unmaps the file before it is mapped again
            self._file, self._bytes_read = self._opened(), 0
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self._path}: {name} can't be read ({error!s:.200})") from None
        self._bytes_read += tensor.nbytes
        return tensor

    def _opened(self) -> Any:
        path = self._path
        size = plain_size(path, CheckpointError)
        try:
            with path.open("rb") as file:
                head = int.from_bytes(file.read(8), "little")
            if LARGEST_HEAD < head < size:
                raise CheckpointError(f"{path} begins with {head:,} bytes of names, up to {LARGEST_HEAD:,} are read")
            return safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is cut short, damaged, or no safetensors file ({error!s:.200})") from None


def _plain(kind: str) -> str:
    """NumPy's name for a type of numbers: ``float32`` for ``F32``."""
    match = re.fullmatch(r"(BF|[FIUC])(\d+)(_.*)?", kind)
    return f"{_KINDS[match[1]]}{match[2]}{(match[3] or '').lower()}" if match else kind.lower()
