"""``dfine export``: a model as one file for other programs, or a folder for transformers."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from dfine_jax.cli.options import parse_size, say_remarks
from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.pretrained import open_pretrained
from dfine_jax.weights.atomic import check_target
from dfine_jax.weights.hub_layout import save_hub_folder


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    to: Literal["stablehlo", "onnx", "hub"] = "stablehlo",
    batch_size: Annotated[str, tyro.conf.arg(metavar="N|any")] = "1",
    end_to_end: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
    weights: Literal["inside", "beside"] = "inside",
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Export a model for programs that don't have this package.

    Makes the folder OUT, complete or not at all: the program, and manifest.json, which says what goes in and comes out,
    names the classes, and tells how pictures are made ready. "dfine verify OUT PICTURE" runs it beside the detector.

    For JAX on CPUs, NVIDIA's GPUs and TPUs, from pictures to boxes, for any number of them at a time:

    dfine export nano-coco nano --end-to-end --batch-size any

    For ONNX Runtime, OpenVINO and others (needs: python -m pip install "dfine-jax[onnx]"):

    dfine export nano-coco nano-onnx --to onnx --end-to-end

    For transformers, as dfine convert makes it:

    dfine export blood blood-hub --to hub

    Args:
        model: A short name (nano-coco, or shapes, which comes with the package), a Hub id, a folder, or a .pth.
        out: The folder to make.
        to: "stablehlo" for JAX, one file for cpu, cuda and tpu; "onnx"; "hub" for transformers.
        batch_size: Pictures at a time, or "any" for as many as are given at each call.
        end_to_end: From 8-bit RGB pictures of the model's size, and the original pictures' heights and widths, to
            boxes, scores and labels. Otherwise from normalised pictures to logits and boxes of every query.
        dtype: Type of the large products: float32, or bfloat16 for stablehlo; float16 is how --to hub may store them.
        size: Height and width of the model's pictures, each divisible by 32; the model's own if not given.
        weights: With --to stablehlo, "beside" puts them in weights.npz, the program's first argument.
        force: Replace OUT if it is there already.
    """
    count = _count(batch_size)
    target = Path(os.path.expanduser(out))
    _check(to, count, dtype, size, weights, end_to_end)
    check_target(target, replace=force, source=Path(model))
    stored = open_pretrained(model)
    say_remarks(stored)
    check_target(target, replace=force, source=stored.place)
    console = Console()
    if to == "hub":
        options = dict(half=dtype == "float16", described_by=stored.place, replace=force)
        save_hub_folder(target, stored.config, stored.preprocessing, stored.arrays(), **options)
        made = "for transformers"
    else:
        from dfine_jax.export.artefact import export_model

        settings, wanted = stored.preprocessing, parse_size(size)
        if wanted is not None:
            settings = replace(settings, height=wanted[0], width=wanted[1])
        with Console(stderr=True).status("exporting"):
            manifest = export_model(
                stored,
                target,
                to,
                name=model,
                settings=settings,
                batch_size=count,
                end_to_end=end_to_end,
                dtype=dtype,
                weights_beside=weights == "beside",
                replace=force,
            )
        takes = ", ".join(f"{port.name} {_shape(count, port.shape)} {port.dtype}" for port in manifest.inputs)
        gives = ", ".join(f"{port.name} {_shape(count, port.shape)} {port.dtype}" for port in manifest.outputs)
        console.print(printable(f"takes {takes}"), markup=False, highlight=False, soft_wrap=True)
        console.print(printable(f"gives {gives}"), markup=False, highlight=False, soft_wrap=True)
        made = manifest.file
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    line = f"{stored.source} -> {target} ({made}, {total:,} bytes)"
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    return 0


def _check(to: str, count: int | None, dtype: str, size: str | None, weights: str, end_to_end: bool) -> None:
    """``InputError`` for options that don't go together, before anything is read."""
    parse_size(size)
    if to != "hub":
        from dfine_jax.export.artefact import check_options

        check_options(to, batch_size=count, dtype=dtype, weights_beside=weights == "beside")
        return
    if dtype == "bfloat16":
        raise InputError("dtype bfloat16: --to hub stores float32, or float16 for half the size")
    given = {"--batch-size": count != 1, "--end-to-end": end_to_end, "--size": size, "--weights": weights != "inside"}
    if other := [name for name, is_given in given.items() if is_given]:
        raise InputError(f"{other[0]} says nothing about --to hub: transformers loads weights, not a program")


def _count(text: str) -> int | None:
    """``"any"`` to None; ``InputError`` for what is neither that nor a whole number."""
    if text.strip().lower() == "any":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"batch size {text!r:.40}: give a whole number, or any")
    return int(text)


def _shape(count: int | None, shape: tuple[int, ...]) -> str:
    return "x".join(map(str, ("any" if count is None else count, *shape)))
