"""Several processes that train one model together, on one machine or many."""

import os
from dataclasses import dataclass

import jax
import numpy as np


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


def join(processes: Processes = Processes()) -> None:
    """Meets the other processes, if there are any; must come before anything else that JAX does.

    ``ValueError`` if only some of the three values are given.
    """
    given = [value is not None for value in (processes.coordinator, processes.count, processes.index)]
    if any(given) and not all(given):
        raise ValueError("processes: give all of coordinator (HOST:PORT), count and index, or none")
    if all(given):
        jax.distributed.initialize(processes.coordinator, processes.count, processes.index)
    elif _is_one_of_many():
        jax.distributed.initialize()


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
