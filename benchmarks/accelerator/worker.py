"""Runs a part in a process of its own, within a limit of time."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from importlib import import_module
from unittest.mock import patch

from benchmarks.accelerator.scale import Row, Task, one_line

ENDING = 5
"""Seconds that a process is given to end by itself."""


class PartError(Exception):
    """A part that failed or was cut short. The message says how, in one line."""


def rows_of(where: str, task: Task, seconds: float, **variables: str) -> Iterator[Row]:
    """The rows of the part ``module:function`` as they come; ``PartError`` where it fails or takes too long.

    What it has given by then stays. The process, which has the environment's ``variables`` besides, is ended in any
    case, so that nothing of it is left on the device.
    """
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    process = context.Process(target=_serve, args=(end, where, task), daemon=True)
    ends_at = time.monotonic() + seconds
    # Compiled programs are found by later parts. Memory is taken as it is needed, so that its peak is seen.
    environment = {"JAX_COMPILATION_CACHE_DIR": str(task.scratch / "compiled"), "HF_HUB_OFFLINE": "1"}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with patch.dict(os.environ, environment | variables):
        process.start()
    end.close()
    try:
        while True:
            if not pipe.poll(max(0.0, ends_at - time.monotonic())):
                raise PartError(f"cut short after {seconds:.0f} s")
            kind, value = pipe.recv()
            if kind == "row":
                yield value
            elif kind == "error":
                raise PartError(value)
            else:
                return
    except EOFError:
        process.join(ENDING)
        raise PartError(f"its process ended with {process.exitcode}") from None
    finally:
        pipe.close()
        process.join(0.0 if process.is_alive() and time.monotonic() >= ends_at else ENDING)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(pipe, where: str, task: Task) -> None:
    try:
        module, function = where.split(":")
        for row in getattr(import_module(module), function)(task):
            pipe.send(("row", row))
        pipe.send(("done", None))
    except BrokenPipeError:  # nobody listens any more
        return
    except BaseException as error:
        pipe.send(("error", one_line(error)))
