"""``dfine bench``: how fast a model is on this machine."""

import json as json_format
import os
import platform
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jaxlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dfine_jax.cli.inputs import Inputs
from dfine_jax.cli.options import model_of, parse_size
from dfine_jax.config import SIZES
from dfine_jax.display import storable, verbatim
from dfine_jax.errors import InputError
from dfine_jax.inference.compiled import count_operations
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.memory import keep_freed_memory
from dfine_jax.machine import arithmetic
from dfine_jax.whole_files import require_writable, write_whole

PERCENTILES = (50, 90, 99)


def run(
    *,
    model: str | None = None,
    batch_size: tuple[int, ...] | None = None,
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    runs: int = 30,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    compile_for: Annotated[str | None, tyro.conf.arg(metavar="TOPOLOGY")] = None,
) -> int:
    """Measure how fast a model is on this machine.

    From a batch of resized pictures to its best detections: what the device computes, without reading and drawing. The
    first two of all runs don't count. Memory is what the compiled program needs for weights, pictures and all that is
    in between.

    For example, "dfine bench" measures size N with a picture at a time, and "dfine bench --model s --batch-size 1 8 32
    --dtype bfloat16 --json speed.json" size S with three batch sizes. "dfine bench --compile-for tpu:v5e:2x2" needs no
    TPU: it compiles inference for one chip and the training step for all four, and shows what they need there.

    Args:
        model: A size (n, s, m, l, x; weights are random), a short name, a Hub id, a folder, or a .pth; n if not given.
            With --compile-for a size; all five if not given.
        batch_size: Pictures given to the device at a time; a CPU computes them one by one. Several sizes are measured
            one after another. 1 if not given, with --compile-for 1 and 32.
        size: Height and width of the pictures, each divisible by 32; the model's own if not given.
        dtype: Type of the large products; float32 if not given, with --compile-for bfloat16. For bfloat16 CPUs take
            float16, int16 or float32 where they are faster so.
        runs: How often each batch is computed.
        json: Write the numbers to this file, with the versions and the device.
        compile_for: Measure nothing, but compile for such TPU chips; needs jax[tpu], in an environment of its own.
    """
    if runs < 1:
        raise InputError(f"runs={runs}: give 1 or more")
    if json is not None:
        require_writable(json, "--json")
    if compile_for is not None:
        if size is not None:
            raise InputError("--size can't be combined with --compile-for: the sizes' own 640x640 is compiled")
        from dfine_jax.cli.compile_for import BATCHES, compile_all  # brings all that training needs

        sizes = tuple(SIZES) if model is None else (model,)
        batches = BATCHES if batch_size is None else batch_size
        compile_all(compile_for, sizes, batches, dtype or "bfloat16", json, Console())
        return 0
    keep_freed_memory()
    model, batch_size, dtype = model or "n", batch_size or (1,), dtype or "float32"
    numbers = arithmetic(dtype)
    network, settings = model_of(model, parse_size(size), numbers.compute)
    if json is not None and model not in SIZES:
        inputs = Inputs()
        inputs.add_model(model)
        inputs.refuse(json, "--json")
    console = Console()
    if told := numbers.instead_of(dtype):
        console.print(verbatim(told), soft_wrap=True)
    gflops = round(count_operations(network, settings) / 1e9, 2)
    rows = []
    for batch in batch_size:
        detector = Detector(network, settings, batch_size=batch, operands=numbers.operands)
        rows.append({**_measured(detector, runs, console), "gflops_a_picture": gflops})
    shape = f"{settings.height}x{settings.width}"
    console.print(_table(f"{model}, {shape}, {numbers.narrowest}, on {_device()}", rows), soft_wrap=True)
    if json is not None:
        kind = {"model": storable(model), "size": shape, "dtype": numbers.narrowest.name}
        about = {**kind, "runs": runs, "device": _device(), **_versions()}
        write_whole(json, (json_format.dumps({**about, "results": rows}, indent=1) + "\n").encode())
    return 0


def _measured(detector: Detector, runs: int, console: Console) -> dict[str, Any]:
    batch, settings = detector.batch_size, detector.preprocessing
    began = time.perf_counter()
    with console.status(f"compiling for {batch} picture(s)"):
        _ = detector.compiled
    compiled = time.perf_counter() - began
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.integers(0, 256, (batch, settings.height, settings.width, 3), np.uint8))
    sizes = jax.device_put(np.full((batch, 2), 640, np.int32))
    seconds = []
    for _ in track(range(runs + 2), f"{batch} picture(s)", console=console, transient=True):
        began = time.perf_counter()
        jax.block_until_ready(detector.run(images, sizes))
        seconds.append(time.perf_counter() - began)
    seconds = np.array(seconds[2:])
    memory = detector.compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    latencies = {f"p{p}_ms": round(1e3 * float(np.percentile(seconds, p)), 3) for p in PERCENTILES}
    return {
        "batch_size": batch,
        "compile_seconds": round(compiled, 2),
        **latencies,
        "pictures_per_second": round(batch / float(np.median(seconds)), 2),
        "memory_bytes": int(needed),
    }


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=verbatim(title, "italic"), title_justify="left")
    latencies = [f"p{p} ms" for p in PERCENTILES]
    for heading in ("batch", "compile s", *latencies, "pictures/s", "memory MiB", "GFLOP a picture"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = [f"{row[f'p{p}_ms']:.1f}" for p in PERCENTILES]
        memory, gflops = f"{row['memory_bytes'] / 2**20:,.0f}", f"{row['gflops_a_picture']:.1f}"
        cells = (f"{row['compile_seconds']:.1f}", *numbers, f"{row['pictures_per_second']:,.1f}", memory, gflops)
        table.add_row(str(row["batch_size"]), *cells)
    return table


def _device() -> str:
    device = jax.devices()[0]
    cores = f" with {len(os.sched_getaffinity(0))} cores" if hasattr(os, "sched_getaffinity") else ""
    return f"{platform.machine()} CPU{cores}" if device.platform == "cpu" else device.device_kind


def _versions() -> dict[str, str]:
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": platform.python_version()}
