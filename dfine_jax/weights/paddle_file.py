"""PaddlePaddle's weights: a pickle of NumPy arrays by their names, of which nothing is run."""

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np

from dfine_jax.plain_file import plain_size
from dfine_jax.weights.fill import MOST_TENSORS, CheckpointError, Shape

LARGEST = 4 * 2**30
"""Bytes of a file; the largest backbone has 300 million."""


class PaddleFile:
    """The arrays of a ``.pdparams`` file."""

    def __init__(self, path: Path):
        """``CheckpointError`` for a file that is damaged, or holds more than arrays and plain data."""
        if (size := plain_size(path, CheckpointError)) > LARGEST:
            raise CheckpointError(f"{path} has {size:,} bytes, up to {LARGEST:,} are read")
        try:
            with path.open("rb") as file:
                loaded = _Reader(file, path).load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle may fail in any way; nothing that it names is run
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.100}"
            raise CheckpointError(f"{path} is cut short, damaged, or not PaddlePaddle's ({said})") from None
        if not isinstance(loaded, dict):
            raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected arrays by their names")
        self._arrays = {str(name): value for name, value in loaded.items() if isinstance(value, _Array)}
        if not 0 < len(self._arrays) <= MOST_TENSORS:
            raise CheckpointError(f"{path} holds {len(self._arrays):,} arrays, from 1 to {MOST_TENSORS:,} are read")
        self._path = path
        for name, array in self._arrays.items():
            array.check(f"{path}: {name[:100]}")
        self.shapes: dict[str, Shape] = {name: array.shape for name, array in self._arrays.items()}
        self.types = {name: array.type.name for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """One array."""
        return self._arrays[name].value()


class _Type:
    """Stands for ``numpy.dtype``: its name, and which way round its bytes are."""

    def __init__(self, name: Any, *_: Any):
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


class _Array:
    """Stands for ``numpy.ndarray``: what an array is made of, which is looked at before it is made."""

    shape: Shape = ()
    type: np.dtype
    data: bytes = b""
    by_column = False

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, data = state
        self.set(data, kind, shape, "F" if by_column else "C")

    def set(self, data: Any, kind: _Type, shape: Any, order: str) -> None:
        """Notes what it is made of."""
        self.shape, self.by_column = tuple(int(side) for side in shape), order == "F"
        self.data = bytes(data) if isinstance(data, bytes | bytearray) else b""
        self.type = np.dtype(kind.name).newbyteorder(kind.order) if kind.name[:1] in "fiub" else np.dtype("V1")

    def check(self, called: str) -> None:
        """``CheckpointError`` unless the bytes are as many as numbers of that type and shape have."""
        if not hasattr(self, "type"):
            raise CheckpointError(f"{called} is no array")
        claimed = math.prod(self.shape) * self.type.itemsize
        if min(self.shape, default=0) < 0 or claimed != len(self.data):
            raise CheckpointError(f"{called} claims {claimed:,} bytes, and has {len(self.data):,}")

    def value(self) -> np.ndarray:
        """The array."""
        return np.frombuffer(self.data, self.type).reshape(self.shape, order="F" if self.by_column else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of older protocols hold bytes."""
    return text.encode("latin1")


def _from_buffer(data: Any, kind: _Type, shape: Any, order: str) -> _Array:
    """How pickles of protocol 5 hold arrays."""
    array = _Array()
    array.set(data, kind, shape, order)
    return array


_STANDS_FOR = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
"""What a pickle of arrays names, and what is called instead."""


class _Reader(pickle.Unpickler):
    """Calls stand-ins for what arrays are made by, and refuses all else."""

    def __init__(self, file: IO[bytes], path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands for something that a pickle names."""
        if (module, name) in _STANDS_FOR:
            return _STANDS_FOR[module, name]
        raise CheckpointError(
            f"{self._path} holds Python objects beside arrays ({module[:60]}.{name[:60]}); they are not loaded, "
            "because that could run any code"
        )
