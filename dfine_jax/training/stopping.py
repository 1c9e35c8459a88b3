"""What ends a training early: a signal from outside, or losses that are not finite."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

from dfine_jax.data.batches import Batch
from dfine_jax.data.samples import Dataset
from dfine_jax.training.errors import TrainingError

NAMED = 8
"""So many pictures are named when losses are not finite."""


class NotFiniteError(TrainingError):
    """Losses that are not finite, again and again."""


class SkippedBatches:
    """Counts updates that were skipped one after another, and remembers what was in them."""

    def __init__(self, dataset: Dataset, most: int):
        self._dataset, self._most = dataset, most
        self._steps: list[int] = []
        self._files: list[str] = []

    def look_at(self, step: int, batch: Batch, finite: bool) -> None:
        """``NotFiniteError`` after too many."""
        if finite:
            self._steps, self._files = [], []
            return
        self._steps.append(step)
        self._files += [self._dataset.records[index].name for index in batch.indices]
        if len(self._steps) >= self._most:
            names = list(dict.fromkeys(self._files))
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise NotFiniteError(
                f"the loss or its gradient was not finite in steps {self._steps[0]} to {self._steps[-1]}: lower the "
                "learning rate (--optimization.learning-rate, --optimization.backbone-learning-rate) and start again "
                "in another folder, or look "
                f"at these pictures: {', '.join(names[:NAMED])}{more}"
            )


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second ends the process at once, whatever it is doing.

    Only where this is the only process: others would wait for it. ``say`` is told what the first leads to.
    """
    event = threading.Event()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield event
        return

    # Python's handlers run between two instructions of its own, which may be minutes apart while XLA compiles. The
    # number of the signal is written to a socket as it comes, and a thread waits for that.
    here, there = socket.socketpair()
    there.setblocking(False)
    usual = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    usual_socket = signal.set_wakeup_fd(there.fileno())

    def wait() -> None:
        while received := here.recv(1):
            if received[0] not in usual:
                continue
            if event.is_set():
                sys.stderr.write("dfine train: stopped at once\n")
                sys.stderr.flush()
                os._exit(128 + received[0])
            event.set()
            say("stopping after this step, with a checkpoint; the same once more ends at once, without")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield event
    finally:
        signal.set_wakeup_fd(usual_socket)
        for number, handler in usual.items():
            signal.signal(number, handler)
        there.close()
        thread.join()
        here.close()
