"""What is measured on, and with which versions."""

import os
import platform
from collections.abc import Iterator

from benchmarks.accelerator.scale import Row, Task
from benchmarks.measure import machine, versions

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "numpy", "torch", "transformers")


def about(task: Task) -> Iterator[Row]:
    """One row: the device by name, and whether its numbers mean something."""
    import jax

    device = jax.devices()[0]
    yield {
        "meaningful": device.platform != "cpu",
        "device": f"{device.device_kind} ({device.platform}), {jax.device_count()} of them",
        "host": machine(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
        "python": platform.python_version(),
        "versions": versions(*PACKAGES),
    }
