"""How fast the library's model is on this device, and with other options of XLA's."""

from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.accelerator.answers import compared, keep_answer
from benchmarks.accelerator.programs import model_alone, pictures, timed
from benchmarks.accelerator.scale import Row, Scale, Task, attempted

CHOICES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "convolutions in NHWC": {"xla_gpu_force_conv_nhwc": True},
    "convolutions in NCHW": {"xla_gpu_force_conv_nchw": True},
    "without CUDA graphs": {"xla_gpu_enable_command_buffer": ""},
    "products by Triton, all": {"xla_gpu_triton_gemm_any": True},
    "products by cuBLAS": {"xla_gpu_enable_triton_gemm": False},
    "little autotuning": {"xla_gpu_autotune_level": 1},
}
"""What a GPU could be faster with; a CPU knows none but the first."""


def cells(scale: Scale) -> list[Row]:
    """Cases of a table of speeds, those worth most first."""
    cases = [(size, batch, kind) for batch in scale.batches for kind in scale.products for size in scale.sizes]
    if "tf32" in scale.rounded:
        cases += [(size, scale.batches[0], "tf32") for size in scale.sizes]
    return [{"size": size, "batch": batch, "products": kind} for size, batch, kind in cases]


def ours(task: Task) -> Iterator[Row]:
    """A row for each size, number of pictures and kind of product."""

    def measure(size: str, batch: int, products: str) -> Row:
        program = model_alone(size, products, batch, task.scale.side)
        pixels = jax.device_put(pictures(batch, task.scale.side).astype("float32") / 255)
        answer = program.run(pixels)
        if products == "float32" and batch == task.scale.batches[0]:
            keep_answer(task, size, *answer)
        return {
            **timed(lambda: program.run(pixels), jax.block_until_ready, batch, task.scale.rounds),
            "memory_MiB": program.memory_bytes / 2**20,
            "trace_s": program.trace_seconds,
            "compile_s": program.compile_seconds,
            **compared(task, size, *answer),
        }

    yield from attempted(cells(task.scale), measure)


def choices(task: Task) -> Iterator[Row]:
    """A row for each of XLA's options, in both kinds of product."""
    batch = task.scale.batches[0]

    def measure(option: str, size: str, products: str) -> Row:
        program = model_alone(size, products, batch, task.scale.side, CHOICES[option])
        pixels = jax.device_put(pictures(batch, task.scale.side).astype("float32") / 255)
        return {
            **timed(lambda: program.run(pixels), jax.block_until_ready, batch, task.scale.rounds),
            "compile_s": program.compile_seconds,
        }

    size = task.scale.sizes[-1]
    options = CHOICES if jax.default_backend() != "cpu" else ["as it is"]
    kinds = task.scale.products
    cases = [{"option": option, "size": size, "products": kind} for option in options for kind in kinds]
    yield from attempted(cases, measure)
