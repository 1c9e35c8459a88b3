"""Several processes that train one model together, on one machine or many; when one ends, all end, with one line."""

import atexit
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import numpy as np

from dfine_jax.errors import InputError
from dfine_jax.training import native_errors
from dfine_jax.training.errors import TrainingError, first_line
from dfine_jax.training.peers import Peers, end_with, filter_native_errors

MEETING_SECONDS = 300
"""So long the processes wait for each other at the start."""
HEARTBEAT_SECONDS = 40
"""After so long JAX gives a process up that nothing is heard of, where its connection to process 0 does not tell."""
NOTICING_SECONDS = 10.0
"""So long an error waits for news of another process, whose end may be its cause."""
LOST = ("Gloo", "Connection reset", "Connection closed", "coordination service", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""Words of JAX's errors about processes that can't be reached any more."""
PLACE = ("coordinator_address", "num_processes", "process_id")


@dataclass(frozen=True)
class Processes:
    """Only for a training over several processes, which all run the same command.

    On a Cloud TPU pod and under SLURM (``srun``) nothing need be given: the processes find each other.
    """

    coordinator: str | None = None
    """HOST:PORT at which process 0 can be reached; any free port."""
    count: int | None = None
    """How many processes there are."""
    index: int | None = None
    """Which of them this is, from 0."""


@contextmanager
def joined(processes: Processes = Processes()) -> Iterator[None]:
    """Meets the other processes, if there are any; must come before anything else that JAX does.

    It ends this process with one line, and exit code 2, if the others don't come, or as soon as one of them has ended:
    alone none can go on. If the block ends with an exception the others are told, and this process ends without
    waiting for them.

    Raises:
        TrainingError: only some of the three values are given, or they make no sense.
    """
    if not _are_several(processes):
        yield
        return
    filter_native_errors()
    peers = _meet(processes)
    try:
        yield
    except BaseException as error:
        if not isinstance(error, InputError | KeyboardInterrupt | SystemExit):
            time.sleep(NOTICING_SECONDS)  # the end of another process ends this one meanwhile
        if isinstance(error, jax.errors.JaxRuntimeError) and any(words in str(error) for words in LOST):
            end_with(native_errors.ENDED.decode().rstrip())  # one that ended before it was connected
        peers.close()
        _end_alone(
            130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, ValueError | OSError) else 70
        )
        raise
    peers.leave()


def _are_several(processes: Processes) -> bool:
    given = [value is not None for value in (processes.coordinator, processes.count, processes.index)]
    if any(given) and not all(given):
        raise TrainingError("processes: give all of coordinator (HOST:PORT), count and index, or none")
    if not any(given):
        return _is_one_of_many()
    if not re.fullmatch(r".+:\d{1,5}", processes.coordinator):
        raise TrainingError(
            f"processes: the coordinator is HOST:PORT, such as 10.0.0.1:1234, not {processes.coordinator!r}"
        )
    if not 0 <= processes.index < processes.count:
        raise TrainingError(
            f"processes: index {processes.index} of count {processes.count}: indices go from 0 to the count less 1"
        )
    return processes.count > 1


def _meet(processes: Processes) -> Peers:
    place, host = {}, None
    if processes.coordinator is not None:
        place = dict(zip(PLACE, (processes.coordinator, processes.count, processes.index), strict=True))
        host = processes.coordinator.rpartition(":")[0]
    seconds = dict(initialization_timeout=MEETING_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    try:
        jax.distributed.initialize(**place, **seconds)
        return Peers(host)
    except (RuntimeError, ValueError, OSError) as error:
        end_with(
            f"dfine train: the processes did not all meet ({first_line(error)}): start as many as --processes.count "
            "says, each with an index of its own and the same coordinator, a free port of process 0's machine"
        )


def _is_one_of_many() -> bool:
    """Whether a cluster's environment says that there are more processes than this."""
    in_slurm_step = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    on_tpu_pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return in_slurm_step or on_tpu_pod


def first_of_all(text: str) -> str:
    """The first process's text, in all of them."""
    if jax.process_count() == 1:
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    own = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(own))))
    padded = np.zeros(length, np.uint8)
    padded[: min(length, len(own))] = own[:length]
    return bytes(np.asarray(broadcast_one_to_all(padded))).decode()


def _end_alone(code: int) -> None:
    """Lets this process end without JAX's way of doing so, which waits for the others and then aborts."""

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    atexit.register(end)
