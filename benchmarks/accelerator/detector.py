"""A detector as users have it: its start, pictures in the host's memory to detections, and what surrounds the model."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from benchmarks.accelerator.programs import STEPS, made_up, model_alone, pictures, step_cases, timed
from benchmarks.accelerator.scale import Row, Task, attempted
from benchmarks.accelerator.weights import hub_folder
from dfine_jax import Detector
from dfine_jax.inference.postprocess import postprocess
from dfine_jax.inference.preprocess import normalise
from dfine_jax.kept import keep_in
from dfine_jax.preprocessing import Preprocessing

CACHE_HIT = "/jax/compilation_cache/cache_hits"


def first(task: Task) -> Iterator[Row]:
    """A row for each size and number of pictures."""
    yield from _rows(task)


def again(task: Task) -> Iterator[Row]:
    """The same with programs that an earlier part kept; and how long the model alone compiles with JAX's cache."""
    yield from _rows(task)

    def compiled(size: str, batch: int, products: str) -> Row:
        hits: list[str] = []
        jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event == CACHE_HIT else None)
        program = model_alone(size, products, batch, task.scale.side)
        found = "yes" if hits else "no"
        return {"trace_s": program.trace_seconds, "compile_s": program.compile_seconds, "found_in_cache": found}

    cases = [{"size": size, "batch": task.scale.batches[0], "products": "float32"} for size in task.scale.sizes]
    yield from attempted(cases, compiled)


def ends(task: Task) -> Iterator[Row]:
    """Pixels from bytes, and detections from logits and boxes, each as a program of its own."""
    side = task.scale.side

    def measure(step: str, batch: int) -> Row:
        if step == STEPS[0]:
            arguments = (pictures(batch, side),)
            run = jax.jit(lambda images: normalise(images, Preprocessing(side, side)))
        else:
            arguments, run = (*made_up(batch), np.full((batch, 2), side, np.int32)), jax.jit(postprocess)
        arguments = jax.device_put(arguments)
        return timed(lambda: run(*arguments), jax.block_until_ready, batch, task.scale.rounds)

    yield from attempted(step_cases(task), measure)


def _rows(task: Task) -> Iterator[Row]:
    keep_in(task.scratch / "kept")
    scale = task.scale
    settings = dict.fromkeys([(scale.products[0], scale.batches[0]), (scale.products[-1], max(scale.batches))])
    cases = [{"size": size, "batch": batch, "products": kind} for size in scale.sizes for kind, batch in settings]

    def measure(size: str, batch: int, products: str) -> Row:
        began = time.perf_counter()
        detector = Detector.from_pretrained(hub_folder(task, size) / peers.MODEL, dtype=products, batch_size=batch)
        started = time.perf_counter() - began
        sources = list(pictures(task.scale.pictures, task.scale.side))
        detector(sources[: 2 * batch])
        began = time.perf_counter()
        found = sum(len(each.outcome) for each in detector.stream(sources, threshold=0.5))
        seconds = time.perf_counter() - began
        images = jnp.asarray(np.stack(sources[:1] * batch))
        sizes = jnp.full((batch, 2), task.scale.side, jnp.int32)
        program = timed(lambda: detector.run(images, sizes), jax.block_until_ready, batch, task.scale.rounds)
        return {
            "start_s": started,
            "found": found,
            "stream_pictures_per_second": len(sources) / seconds,
            "program_ms": program["ms"],
            "program_pictures_per_second": program["pictures_per_second"],
        }

    yield from attempted(cases, measure)
