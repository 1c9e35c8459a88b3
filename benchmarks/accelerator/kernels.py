"""Which kernels take a program's time, by XLA's own profile."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from benchmarks.accelerator.programs import model_alone, pictures
from benchmarks.accelerator.scale import Row, Task
from benchmarks.accelerator.training import step_of

LONGEST = 10
CALLS = 5


def slowest(task: Task) -> Iterator[Row]:
    """The kernels of the program that is slowest beside PyTorch."""
    size, batch, products = _slowest_case(task)
    program = model_alone(size, products, batch, task.scale.side)
    pixels = jax.device_put(pictures(batch, task.scale.side).astype("float32") / 255)
    yield from _longest(f"{size}, {batch} at a time, {products}", lambda: jax.block_until_ready(program.run(pixels)))


def of_training(task: Task) -> Iterator[Row]:
    """Those of a training step of the first size."""
    (size, batch), products = next(iter(task.scale.training.items())), task.scale.products[-1]
    yield from _longest(f"{size}, {batch} trained on, {products}", step_of(task, size, batch, products))


def _longest(case: str, call: Callable[[], object]) -> Iterator[Row]:
    """The ten kernels that take longest in a call that waits for its result, and what all others take."""
    call()
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        spent = kernel_milliseconds(jax.profiler.ProfileData.from_file(str(path)))
    if not spent:
        raise ValueError("the profile names no kernel")
    whole = sum(milliseconds for milliseconds, _ in spent.values())
    longest = sorted(spent.items(), key=lambda item: -item[1][0])
    for (kernel, operation), (milliseconds, count) in longest[:LONGEST]:
        yield _row(case, kernel, operation, milliseconds, count, whole)
    others = [numbers for _, numbers in longest[LONGEST:]]
    if others:
        name = f"{len(others)} others"
        yield _row(case, name, "", sum(each for each, _ in others), sum(count for _, count in others), whole)


def kernel_milliseconds(profile: jax.profiler.ProfileData) -> dict[tuple[str, str], tuple[float, int]]:
    """By kernel and operation of the program: milliseconds in all, and how often it ran.

    On a GPU kernels are what its streams ran. XLA for CPUs names the operations that it ran, in any of its threads.
    """
    planes = list(profile.planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for plane in on_device or planes:
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")] if on_device else []
        for line in streams or lines:
            for event in line.events:
                statistics = dict(event.stats)
                if "hlo_op" in statistics or streams:
                    spent[event.name, str(statistics.get("hlo_op", ""))].append(event.duration_ns / 1e6)
    return {name: (sum(each), len(each)) for name, each in spent.items()}


def _row(case: str, kernel: str, operation: str, milliseconds: float, count: int, whole: float) -> Row:
    return {
        "program": case,
        "kernel": kernel[:100],
        "operation": operation[:60],
        "ms a call": milliseconds / CALLS,
        "runs a call": count / CALLS,
        "share": f"{milliseconds / whole:.1%}",
    }


def _slowest_case(task: Task) -> tuple[str, int, str]:
    """Where the ratio to PyTorch's time is largest; if that is not known, where a picture takes longest."""
    beside = [row for row in task.earlier.get("torch", []) if "ours / this" in row]
    alone = [row for row in task.earlier.get("speed", []) if "ms" in row]
    if beside:
        row = max(beside, key=lambda row: row["ours / this"])
    elif alone:
        row = max(alone, key=lambda row: row["ms"] / row["batch"])
    else:
        return task.scale.sizes[-1], task.scale.batches[0], "bfloat16"
    return row["size"], row["batch"], row["products"]
