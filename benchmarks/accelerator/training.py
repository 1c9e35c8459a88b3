"""A training step of this library's and of transformers', and the matching alone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.accelerator.scale import Row, Task, attempted
from benchmarks.accelerator.weights import hub_folder
from benchmarks.training_step import BOXES, Answer, Pictures, random_pictures
from benchmarks.training_step import ours as our_step
from benchmarks.training_step import theirs as their_step

QUERIES, CLASSES, PLACES = 300, 80, 8
"""Places are the heads of a step that are matched: of the encoder, the first layer's plain one and six layers."""


def ours(task: Task) -> Iterator[Row]:
    """The matching alone, since it goes from one box to the next, and a row for each size and kind of product."""
    import jax

    def step(size: str, batch: int, products: str) -> Row:
        run = step_of(task, size, batch, products)
        first = run()
        seconds = _seconds(run, task.scale.rounds)
        memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return {
            "ms": 1e3 * float(np.median(seconds)),
            "pictures_per_second": batch / float(np.median(seconds)),
            "loss": first.loss,
            "trace_s": first.lower_seconds,
            "compile_s": first.compile_seconds,
            "memory_MiB": memory and memory / 2**20,  # the most that this process has had so far
        }

    batch = max(task.scale.training.values())
    yield from attempted([{"size": "matching alone", "batch": batch}], lambda size, batch: _matching(task, batch))
    yield from attempted(_cases(task), step)


def step_of(task: Task, size: str, batch: int, products: str) -> Callable[[], Answer]:
    """The library's step, compiled; each call is one update, and waits for its loss."""
    return our_step(_model(task, size), products, _pictures(task, batch), size)


def theirs(task: Task) -> Iterator[Row]:
    """Transformers' model and loss, with its matching on the host; in bfloat16 PyTorch chooses what is rounded."""
    import torch

    from benchmarks.accelerator.torch_speed import DEVICE, round_products

    fastest = {(row["size"], row.get("products")): row["ms"] for row in task.earlier.get("training", []) if "ms" in row}

    def step(size: str, batch: int, products: str) -> Row:
        round_products(products)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        run = their_step(_model(task, size), _pictures(task, batch), size, DEVICE, products)
        first = run()
        seconds = float(np.median(_seconds(run, task.scale.rounds)))
        ours = fastest.get((size, products))
        return {
            "ms": 1e3 * seconds,
            "pictures_per_second": batch / seconds,
            "loss": first.loss,
            "memory_MiB": torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else None,
            "ours / this": ours and ours / (1e3 * seconds),
        }

    yield from attempted(_cases(task), step)


def _cases(task: Task) -> list[Row]:
    steps = task.scale.training.items()
    return [{"size": size, "batch": batch, "products": kind} for kind in task.scale.products for size, batch in steps]


def _model(task: Task, size: str) -> Path:
    return hub_folder(task, size) / peers.MODEL


def _pictures(task: Task, batch: int) -> Pictures:
    return random_pictures(task.scale.side, batch)


def _seconds(run, rounds: int) -> list[float]:
    """What a step takes, with its pictures' way to the device and its loss's way back."""
    seconds = []
    for turn in range(rounds + 1):
        began = time.perf_counter()
        run()
        if turn or rounds == 1:
            seconds.append(time.perf_counter() - began)
    return seconds


def _matching(task: Task, batch: int) -> Row:
    import jax

    from benchmarks.accelerator.programs import timed
    from dfine_jax.training.matching import match
    from dfine_jax.training.targets import Targets

    pictures, rng = _pictures(task, batch), np.random.default_rng(0)
    logits = jax.device_put(rng.standard_normal((PLACES, batch, QUERIES, CLASSES), np.float32))
    boxes = jax.device_put(rng.uniform(0.1, 0.4, (PLACES, batch, QUERIES, 4)).astype(np.float32))
    targets = jax.device_put(Targets(*pictures[1:]))
    matched = jax.jit(match)
    row = timed(lambda: matched(logits, boxes, targets), jax.block_until_ready, batch, task.scale.rounds)
    return {"products": f"{PLACES} heads, {BOXES} boxes", **row}
