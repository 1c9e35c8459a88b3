"""Whether a training fits in memory: what its step needs, what there is, and one line where it is too little."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax

from dfine_jax.host_memory import UNITS, as_text, host_memory
from dfine_jax.training.errors import TrainingError
from dfine_jax.training.recipe import Recipe

CLEARLY = 1.1
"""A step is refused where it needs so many times what is free: what is free on a host is an estimate."""
_ASKED = re.compile(r"(?:allocat\w*|Used) ([\d.]+) ?([KMGT]?)i?(?:B|b|\b)")


class OutOfMemoryError(TrainingError):
    """A training that needs more memory than there is. The message says how much, and which settings to lower."""


def available_memory(device: jax.Device) -> int | None:
    """Gives the bytes that can still be allocated on a device; a CPU's are the host's. None where nobody knows.

    Swap space does not count.
    """
    if device.platform == "cpu":
        return host_memory()
    statistics = device.memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return max(0, statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))


def needed(compiled: jax.stages.Compiled, *, with_arguments: bool = False) -> int | None:
    """Gives the bytes that a run of a program takes on each device; None where the backend doesn't tell.

    ``with_arguments`` counts what the program is given, too; without it that is taken to be there already.
    """
    with suppress(jax.errors.JaxRuntimeError, NotImplementedError):
        if (sizes := compiled.memory_analysis()) is not None:
            arguments = sizes.argument_size_in_bytes if with_arguments else 0
            results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            return arguments + results + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
    return None


def require_memory(compiled: jax.stages.Compiled, devices: list[jax.Device], recipe: Recipe) -> None:
    """Refuses a step that clearly can't run on these devices of this process, whose arguments are there already.

    Raises:
        OutOfMemoryError: it needs more than is free. Without this the system would end the process without a word.
    """
    wanted, free = needed(compiled), available_memory(devices[0])
    if wanted is None or free is None:
        return
    if devices[0].platform == "cpu":
        wanted *= len(devices)  # they all share what the host has
    if wanted > CLEARLY * free:
        raise _too_little(wanted, devices[0], recipe)


@contextmanager
def memory_errors(device: jax.Device, recipe: Recipe) -> Iterator[None]:
    """Turns what Python and XLA raise where memory is exhausted, at work or while compiling, into one line.

    Raises:
        OutOfMemoryError: instead of those. All other exceptions pass.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not _is_about_memory(error):
            raise
        raise _too_little(asked_for(str(error)), device, recipe) from error


def asked_for(message: str) -> int | None:
    """Finds the bytes in what XLA says when memory is exhausted; None if there are none."""
    found = _ASKED.search(message)
    return round(float(found[1]) * UNITS[found[2]]) if found else None


def _is_about_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


def _too_little(wanted: int | None, device: jax.Device, recipe: Recipe) -> OutOfMemoryError:
    free, parts = available_memory(device), recipe.optimization.accumulate
    place = "this machine" if device.platform == "cpu" else str(device)
    asked = "" if wanted is None else f" {as_text(wanted)} were asked for,"
    there = "" if free is None else f" {as_text(free)} are free on {place};"
    return OutOfMemoryError(
        f"the training does not fit in memory:{asked}{there} lower the batch size (now {recipe.batch_size}) or the "
        f"image size (now {recipe.image_size}), or let each batch go through in more parts (accumulate, now {parts})"
    )
