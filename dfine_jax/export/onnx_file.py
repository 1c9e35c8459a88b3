"""A detector as ONNX, by jax2onnx: without PyTorch, from the forms of operations that every platform has."""

import logging
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from dfine_jax.errors import InputError
from dfine_jax.export.exportable import Exportable
from dfine_jax.ops.platform import portable

PROGRAM = "model.onnx"
OPSET = 21
WINDOW = "runtimes read the opset named here and all older ones"
INSTALL = "python -m pip install 'dfine-jax[onnx]'"


def require_packages() -> None:
    """``InputError`` unless what writes ONNX is installed."""
    if find_spec("jax2onnx") is None:
        raise InputError(f"ONNX is written by the package jax2onnx: {INSTALL}")


def save_onnx(exportable: Exportable, folder: Path, *, batch_size: int | None) -> dict[str, str]:
    """Writes the program into a folder that is there; returns the versions of what it was written with.

    ``batch_size`` is None for any number of pictures.
    """
    require_packages()
    import onnx
    from jax2onnx import to_onnx

    logging.getLogger("onnx_ir.serde").setLevel(logging.ERROR)  # it warns of every shape that it leaves out, harmlessly
    function = exportable.bound()
    names = [port.name for port in exportable.outputs]

    def in_order(*inputs: Array) -> tuple[Array, ...]:
        outputs = function(*inputs)
        return tuple(outputs[name] for name in names)

    count = "batch" if batch_size is None else batch_size
    with portable():
        model = to_onnx(
            in_order,
            [jax.ShapeDtypeStruct((count, *port.shape), port.dtype) for port in exportable.inputs],
            model_name="dfine",
            opset=OPSET,
            input_names=[port.name for port in exportable.inputs],
            output_names=names,
        )
    onnx.checker.check_model(model)
    onnx.save(model, folder / PROGRAM)
    return {"jax2onnx": version("jax2onnx"), "onnx opset": str(OPSET)}


def run_onnx_runtime(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes of these inputs, on the CPU."""
    if find_spec("onnxruntime") is None:
        raise InputError(f"running ONNX needs the package onnxruntime: {INSTALL}")
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / PROGRAM, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_openvino(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What OpenVINO computes of these inputs, on the CPU, in float32 as the file says."""
    # A thread of OpenVINO's starts a process that counts its uses, at some time; JAX warns of that.
    warnings.filterwarnings("ignore", message=r"os\.fork", category=RuntimeWarning)
    import openvino

    compiled = openvino.compile_model(folder / PROGRAM, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled(inputs)
    return {output.get_any_name(): outputs[output] for output in compiled.outputs}


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None
