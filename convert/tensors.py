"""Files of tensors, read one tensor at a time: safetensors, in one file or several, and the original's ``.pth``."""

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from convert.fill import CheckpointError, Shape

REOPEN_AFTER = 32 * 2**20
"""Bytes read from a file before it is opened anew: it is mapped into memory, and what has been read stays there."""


class SafetensorsFiles:
    """The tensors of one or several safetensors files. bfloat16 is read as NumPy's extension type."""

    def __init__(self, paths: Iterable[Path]):
        """``CheckpointError`` where a file is missing, cut short or no safetensors file."""
        self.shapes: dict[str, Shape] = {}
        self._paths: dict[str, Path] = {}
        for path in paths:
            file = _opened(path)
            names = file.keys()
            for name in names:
                if name in self._paths:
                    raise CheckpointError(f"{name} is both in {self._paths[name]} and in {path}")
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
                self._paths[name] = path
        self._open: tuple[Path, Any] | None = None
        self._bytes_read = 0

    @classmethod
    def from_folder(cls, folder: Path) -> "SafetensorsFiles":
        """The files that make up a Hub-layout folder: ``model.safetensors``, or the parts that its index lists."""
        whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if whole.exists() or not index.exists():
            return cls([whole])
        try:
            parts = json.loads(index.read_text("utf-8"))["weight_map"]
            paths = [folder / part for part in sorted(set(parts.values()))]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f'{index}: expected a JSON object with a "weight_map" from names to files') from None
        files = cls(paths)
        if missing := sorted(parts.keys() - files.shapes.keys()):
            raise CheckpointError(f"{index} lists tensors that are in none of its files: {', '.join(missing)}")
        return files

    def read(self, name: str) -> np.ndarray:
        """One tensor; ``CheckpointError`` unless it holds floating-point numbers."""
        path = self._paths[name]
        if self._open is None or self._open[0] != path or self._bytes_read > REOPEN_AFTER:
            self._open = None  # unmaps the file before it is mapped again
            self._open, self._bytes_read = (path, _opened(path)), 0
        tensor = self._open[1].get_tensor(name)
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, expected floating-point numbers")
        self._bytes_read += tensor.nbytes
        return tensor


class PthFile:
    """The weights in a ``.pth`` of the original release: the moving average where there is one. Needs PyTorch."""

    def __init__(self, path: Path, *, bare: bool = False):
        """``CheckpointError`` for a file that is damaged or something else, or without PyTorch.

        ``bare``: the tensors may also lie in the file as they are, as a backbone's do.
        """
        try:
            import torch
        except ImportError:
            raise CheckpointError(
                f"reading {path} needs PyTorch: pip install 'dfine-jax[torch]', or give a folder with model.safetensors"
            ) from None
        _require_content(path)
        loaded = _load_pth(torch, path)
        weights = _average(loaded) or (loaded if bare and isinstance(loaded, Mapping) else {})
        if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
            found = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
            raise CheckpointError(f'{path} holds {found:.200}; expected weights under "ema", "module" or under "model"')
        self.shapes: dict[str, Shape] = {name: tuple(value.shape) for name, value in weights.items()}
        self._weights = weights
        self._path = path

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32; ``CheckpointError`` unless it holds floating-point numbers."""
        tensor = self._weights[name]
        if not tensor.is_floating_point():
            raise CheckpointError(f"{self._path}: {name} holds {tensor.dtype}, expected floating-point numbers")
        return tensor.float().numpy().copy()  # not the mapped file, which may change


def _opened(path: Path) -> Any:
    _require_content(path)
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut short, damaged, or no safetensors file ({error})") from None


def _require_content(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty")
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull`")


def _load_pth(torch: Any, path: Path) -> Any:
    options = dict(map_location="cpu", weights_only=True)
    try:
        try:
            return torch.load(path, mmap=True, **options)
        except RuntimeError:  # a file in PyTorch's old format can't be mapped
            return torch.load(path, **options)
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, pickle.UnpicklingError) as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            reason = "holds Python objects beside tensors; they are not loaded, because that could run any code"
        else:
            said = str(error).split(". ")[0].strip()
            reason = f"is cut short, damaged, or no PyTorch checkpoint ({type(error).__name__}: {said:.100})"
        raise CheckpointError(f"{path} {reason}") from None


def _average(loaded: Any) -> Mapping[str, Any]:
    """The exponential moving average of a training checkpoint, or the weights themselves."""
    for place in (("ema", "module"), ("model",)):
        found = loaded
        for name in place:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            return found
    return {}
