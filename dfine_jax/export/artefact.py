"""Exports a model to a folder: the program and a manifest, complete or not at all."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dfine_jax.errors import InputError
from dfine_jax.export import onnx_file, stablehlo
from dfine_jax.export.exportable import exportable
from dfine_jax.export.manifest import Manifest
from dfine_jax.inference.detector import MOST_AT_A_TIME
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.atomic import new_folder

if TYPE_CHECKING:
    from dfine_jax.weights.folder import StoredModel


def export_model(
    stored: "StoredModel",
    target: Path,
    kind: str,
    *,
    name: str,
    settings: Preprocessing | None = None,
    batch_size: int | None = 1,
    end_to_end: bool = False,
    dtype: str = "float32",
    weights_beside: bool = False,
    replace: bool = False,
) -> Manifest:
    """Writes a model as ``"stablehlo"`` or ``"onnx"`` and returns what its manifest says.

    ``name`` is what the model was opened by, ``settings`` replace its own preprocessing, ``batch_size`` is None for any
    number of pictures; for ``end_to_end`` and ``dtype`` see ``exportable``. ``InputError`` for what can't be said in a
    format or what is missing to write it. For an existing target see ``new_folder``.
    """
    check_options(kind, batch_size=batch_size, dtype=dtype, weights_beside=weights_beside)
    settings = settings or stored.preprocessing
    what = exportable(stored, settings, end_to_end=end_to_end, dtype=dtype)
    versions = {package: version(package) for package in ("dfine-jax", "jax", "jaxlib")}
    with new_folder(target, replace=replace) as folder:
        if kind == "onnx":
            versions |= onnx_file.save_onnx(what, folder, batch_size=batch_size)
            file, window = onnx_file.PROGRAM, onnx_file.WINDOW
        else:
            exported = stablehlo.save_stablehlo(what, folder, batch_size=batch_size, weights_beside=weights_beside)
            versions["jax.export"] = str(exported.calling_convention_version)
            file, window = stablehlo.PROGRAM, stablehlo.WINDOW
        manifest = Manifest(
            kind=kind,
            file=file,
            weights=stablehlo.WEIGHTS if weights_beside else None,
            model=name,
            end_to_end=end_to_end,
            batch_size=batch_size,
            dtype=dtype,
            inputs=what.inputs,
            outputs=what.outputs,
            classes=stored.config.class_names,
            preprocessing=settings,
            versions=versions,
            readable=window,
        )
        manifest.save(folder)
    return manifest


def check_options(kind: str, *, batch_size: int | None, dtype: str, weights_beside: bool) -> None:
    """``InputError`` for what a format can't say or what is missing to write it; to be known before the work."""
    if batch_size is not None and not 1 <= batch_size <= MOST_AT_A_TIME:
        raise InputError(f"batch size {batch_size}: give 1 to {MOST_AT_A_TIME:,}, or any")
    if kind == "onnx":
        onnx_file.require_packages()
        if dtype != "float32":
            raise InputError(f"dtype {dtype}: ONNX is written in float32; runtimes convert it with tools of their own")
        if weights_beside:
            raise InputError("weights beside the program are for --to stablehlo: ONNX has them inside")
        return
    stablehlo.require_flatbuffers()
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype {dtype}: --to stablehlo takes float32 or bfloat16")
