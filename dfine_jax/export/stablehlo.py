"""A detector as StableHLO, by ``jax.export``: one file for CPUs, GPUs and TPUs, read with nothing but JAX."""

from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
from jax import export
from jaxtyping import Array

from dfine_jax.errors import InputError
from dfine_jax.export.exportable import Exportable, Weights, host_weights

PROGRAM, WEIGHTS = "model.stablehlo", "weights.npz"
"""Files of an artefact; the second is there where weights lie beside the program."""
PLATFORMS = ("cpu", "cuda", "tpu")
WINDOW = (
    "JAX reads it for at least six months after the release of the jaxlib that wrote it, and in releases up to three "
    "weeks older than that"
)
"""What JAX promises of exported programs, see https://docs.jax.dev/en/latest/export/export.html."""


def require_flatbuffers() -> None:
    """``InputError`` unless the package is there by which JAX writes and reads exported programs."""
    if find_spec("flatbuffers") is None:
        raise InputError("JAX writes and reads StableHLO by the package flatbuffers: python -m pip install flatbuffers")


def save_stablehlo(
    exportable: Exportable, folder: Path, *, batch_size: int | None, weights_beside: bool = False
) -> export.Exported:
    """Writes the program, and the weights where they are to lie beside it, into a folder that is there.

    ``batch_size`` is None for any number of pictures, which one and the same program then takes.
    """
    require_flatbuffers()
    count = export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    inputs = [jax.ShapeDtypeStruct((count, *port.shape), port.dtype) for port in exportable.inputs]
    if weights_beside:
        exported = export.export(jax.jit(_widened(exportable)), platforms=PLATFORMS)(
            {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in _stored(exportable).items()},
            *inputs,
        )
        np.savez(folder / WEIGHTS, **_stored(exportable))
    else:
        exported = export.export(jax.jit(exportable.bound()), platforms=PLATFORMS)(*inputs)
    (folder / PROGRAM).write_bytes(exported.serialize())
    return exported


def _stored(exportable: Exportable) -> dict[str, np.ndarray]:
    return host_weights(exportable.weights)


def _widened(exportable: Exportable):
    """The function of weights as they are stored, which it rounds to the type of the products itself."""
    types = {name: value.dtype for name, value in exportable.weights.items()}

    def function(weights: Weights, *inputs: Array) -> dict[str, Array]:
        rounded = {name: value.astype(types[name]) for name, value in weights.items()}
        return exportable.function(rounded, *inputs)

    return function


def run_stablehlo(folder: Path, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What an artefact's program computes of these inputs, on JAX's default device."""
    require_flatbuffers()
    program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    beside = folder / WEIGHTS
    weights = [dict(np.load(beside))] if beside.exists() else []
    return jax.device_get(jax.jit(program.call)(*weights, *inputs))
