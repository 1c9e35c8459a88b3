"""Times contenders in turn, each in a process of its own, so that none disturbs another's threads or settings."""

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from rich.progress import track

from dfine_jax.processor import name_and_instructions  # brings neither JAX nor NumPy

PAUSE = 0.2
"""Seconds between contenders. Threads of ONNX Runtime and others spin for a while after their work is done, which takes
a core from whoever comes next."""

Make = Callable[[], Callable[[], Any]]
"""Sets a contender up (imports, weights, compilation) and returns what is timed; has to be picklable."""


class Timing(NamedTuple):
    """What was seen of one contender."""

    seconds: np.ndarray
    """One value a round."""
    setup_seconds: float
    """Importing, making the model, compiling and the first run."""
    peak_bytes: int
    """Largest resident memory of its process so far."""
    answer: Any
    """What its first run returned, to be compared with others'."""

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))


def in_turn(
    contenders: Mapping[str, Make],
    rounds: int,
    threads: int = 2,
    title: str = "",
    warm: bool = False,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Timing]:
    """Runs every contender once a round, ``rounds`` times, after setting up one after another.

    Each process is bound to the first ``threads`` CPUs before it imports anything. With ``warm`` it runs untimed just
    before, as in steady use: else it finds the caches as the contender before left them. ``environments``
    sets variables for some contenders' processes, by name. A contender that fails raises ``RuntimeError`` with its name
    and its error.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = {}
        setups = {}
        for name, make in track(contenders.items(), f"{title} setting up", transient=True):
            pipes[name], end = context.Pipe()
            process = context.Process(target=_serve, args=(end, make, threads), daemon=True)
            with patch.dict(os.environ, (environments or {}).get(name, {}), OMP_NUM_THREADS=str(threads)):
                process.start()
            end.close()
            stack.callback(_stop, process, pipes[name])
            setups[name] = _answer(name, pipes[name])
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        peaks = {}
        for turn in track(range(rounds + 1), f"{title} timing", transient=True):
            for name, pipe in pipes.items():
                time.sleep(PAUSE)
                if warm:
                    pipe.send("run")
                    _answer(name, pipe)
                pipe.send("run")
                taken, peaks[name] = _answer(name, pipe)
                if turn:  # the first round warms up
                    seconds[name].append(taken)
    return {name: Timing(np.array(seconds[name]), setups[name][0], peaks[name], setups[name][1]) for name in contenders}


def versions(*packages: str) -> str:
    """Names and versions of those that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def machine(threads: int = 2) -> str:
    """Processor, threads used and Python."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {threads} threads, Python {platform.python_version()}"


def types() -> tuple[str, ...]:
    """Of products: float32, and bfloat16 where the processor has instructions for it or that can't be found out.

    Without them products take up to a hundred times as long.
    """
    _, instructions = name_and_instructions()
    multiplies = not instructions or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(instructions)
    return ("float32", "bfloat16") if multiplies else ("float32",)


def _serve(pipe, make: Make, threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        began = time.perf_counter()
        run = make()
        answer = run()
        pipe.send((time.perf_counter() - began, answer))
        while pipe.recv() == "run":
            began = time.perf_counter()
            run()
            pipe.send((time.perf_counter() - began, _peak_bytes()))
    except EOFError:
        return
    except BaseException as error:
        pipe.send(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _answer(name: str, pipe) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process ended") from None
    if isinstance(answer, Exception):
        raise RuntimeError(f"{name}: {type(answer).__name__}: {answer}") from answer
    return answer


def _stop(process, pipe) -> None:
    pipe.close()
    process.join(5)
    if process.is_alive():
        process.terminate()
