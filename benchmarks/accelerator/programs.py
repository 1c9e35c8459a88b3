"""The library's model as programs of this device, their pictures, and how a call is timed."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.scale import Row, Task
from dfine_jax import Compute, DFine, functional, fuse
from dfine_jax.data.shapes import draw
from dfine_jax.inference.arguments import of_packed, pack
from dfine_jax.inference.compiled import compile_lowered, picture_by_picture
from dfine_jax.model.dfine import load, variables

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from reference import reference_model

from dfine_jax.weights.rules import HUB

SEED = 1
WARM = 3
"""Calls before those that are timed."""
COMPUTES = {
    "float32": Compute.named("float32"),
    "tf32": Compute(precision=None),
    "bfloat16": Compute.named("bfloat16"),
}


STEPS = ("bytes to pixels", "logits to detections")
"""What comes before the model and after it."""


class Program(NamedTuple):
    """A compiled function of pictures alone."""

    run: Callable[[jax.Array], Any]
    compiled: jax.stages.Compiled
    trace_seconds: float
    compile_seconds: float

    @property
    def memory_bytes(self) -> int:
        """Of weights, pictures, results and all in between."""
        memory = self.compiled.memory_analysis()
        return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def model_of(size: str, products: str, seed: int = SEED) -> DFine:
    """The model with weights made by a rule, which computes its products so; not fused."""
    made = reference_model(size, HUB, seed)
    model = DFine(made.config, compute=COMPUTES[products])
    params, batch_stats = variables(made)
    load(model, {**params, **batch_stats})
    return model


def model_alone(size: str, products: str, batch: int, side: int, options: dict[str, Any] | None = None) -> Program:
    """From pixels in 0..1 (B, S, S, 3) to logits and boxes, as a detector has it; ``options`` are XLA's."""
    began = time.perf_counter()
    apply, params, batch_stats = functional(fuse(model_of(size, products)))
    apply, _ = of_packed(apply, params)
    values = jax.device_put((pack(params), batch_stats))

    def predict(params, batch_stats, pixels):
        def in_batch(pixels):
            output = apply(params, batch_stats, pixels)
            return output.logits, output.boxes

        return picture_by_picture(in_batch)(pixels)

    pixels = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    lowered = jax.jit(predict).lower(*values, pixels)
    traced = time.perf_counter()
    compiled = compile_lowered(lowered) if options is None else lowered.compile(compiler_options=options)
    seconds = time.perf_counter() - traced
    return Program(lambda pixels: compiled(*values, pixels), compiled, traced - began, seconds)


def pictures(batch: int, side: int) -> np.ndarray:
    """Drawn ones, bytes (B, S, S, 3)."""
    return np.stack([draw(index, size=side).picture for index in range(batch)])


def timed(call: Callable[[], Any], wait: Callable[[Any], Any], batch: int, rounds: int) -> Row:
    """How long a call takes with nobody else waiting, and how many pictures a second go through one after another.

    ``wait`` returns once its argument is computed. ``host_ms`` is the time after which a call returns, whether or not
    the device is done by then: where it is nearly all of ``ms``, the device waits for the host.
    """
    for _ in range(WARM if rounds > 1 else 1):
        wait(call())
    seconds, host = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        result = call()
        host.append(time.perf_counter() - began)
        wait(result)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(rounds):
        result = call()
    wait(result)
    together = time.perf_counter() - began
    return {
        "ms": 1e3 * float(np.median(seconds)),
        "p90_ms": 1e3 * float(np.percentile(seconds, 90)),
        "host_ms": 1e3 * float(np.median(host)),
        "pictures_per_second": rounds * batch / together,
    }


def step_cases(task: Task) -> list[Row]:
    """Cases of a table of what surrounds the model."""
    return [{"step": step, "batch": batch} for step in STEPS for batch in task.scale.batches]


def made_up(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (B, 300, 80) and boxes (B, 300, 4), random."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 300, 80), np.float32), rng.uniform(0.1, 0.9, (batch, 300, 4)).astype(np.float32)
