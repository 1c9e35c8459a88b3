"""Processes that compute the items of a sequence ahead of time, in order.

Each process is a plain Python of its own that computes every n-th item and writes it to a pipe. It imports neither the
program's main module nor JAX, needs no guard in scripts, and ends by itself when nobody reads the pipe any more:
however the program dies, nothing is left behind, neither processes nor shared memory.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from dfine_jax.data.samples import DataError

BOOT = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from dfine_jax.data.workers import work; work()"
)
PIPE_BYTES = 1 << 20
READY = 1
"""Finished items kept per process; one more waits in its pipe, and one in the hands of its thread."""


class Computed(Protocol):
    """A sequence whose items are computed when asked for; it must be picklable."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class _Task(NamedTuple):
    source: Computed
    start: int
    step: int


class _Failure(NamedTuple):
    message: str
    trace: str = ""


def work() -> None:
    """What a worker process does: reads its task, writes its items."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; ours is told by the closed pipe
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that a stray print doesn't end up between the items
    try:
        task: _Task = pickle.load(sys.stdin.buffer)
        for index in range(task.start, len(task.source), task.step):
            item = _item(task.source, index)
            pickle.dump(item, out, protocol=5)
            out.flush()
            if isinstance(item, _Failure):
                break
    except (BrokenPipeError, EOFError):
        os._exit(0)


def _item(source: Computed, index: int) -> Any:
    try:
        return source[index]
    except DataError as error:
        return _Failure(str(error), traceback.format_exc())
    except Exception as error:
        return _Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


class _Worker:
    """One process, and the thread that feeds it and takes its items."""

    def __init__(self, task: _Task):
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES
        )
        self.items: queue.Queue[Any] = queue.Queue(READY)
        self.thread = threading.Thread(target=self._run, args=(task,), daemon=True)
        self.thread.start()

    def _run(self, task: _Task) -> None:
        try:
            pickle.dump(list(sys.path), self.process.stdin)
            pickle.dump(task, self.process.stdin, protocol=5)
            self.process.stdin.flush()
            while True:
                self.items.put(pickle.load(self.process.stdout))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = self.process.wait()
            hint = "killed, most likely for lack of memory: use fewer workers" if code == -9 else "see its output above"
            self.items.put(_Failure(f"a data worker ended with code {code}: {hint}"))
        except Exception as error:
            self.items.put(_Failure(f"can't hand the data set to a worker: {type(error).__name__}: {error}"))

    def close(self) -> None:
        self.process.kill()
        while self.thread.is_alive():
            try:
                self.items.get(timeout=0.05)
            except queue.Empty:
                continue
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        self.process.wait()


class Prefetch(Iterator[Any]):
    """Gives `source[start]`, `source[start + 1]`, ... while `workers` processes compute those to come.

    With no workers the items are computed when asked for. `close` ends the processes; so does the end of the program.
    """

    def __init__(self, source: Computed, start: int, workers: int):
        self._source = source
        self._next = start
        self._workers = [_Worker(_Task(source, start + number, workers)) for number in range(workers)]
        self._start = start
        self._finalizer = weakref.finalize(self, _close_all, self._workers)

    def __next__(self) -> Any:
        """The next item; raises DataError, with one line, if it could not be computed, and nothing comes after that."""
        if self._next >= len(self._source):
            self.close()
            raise StopIteration
        if self._workers:
            item = self._workers[(self._next - self._start) % len(self._workers)].items.get()
        else:
            item = _item(self._source, self._next)
        if isinstance(item, _Failure):
            self.close()
            self._next = len(self._source)
            error = DataError(item.message)
            if item.trace:
                error.add_note(item.trace)
            raise error
        self._next += 1
        return item

    def close(self) -> None:
        """Ends the processes; may be called more than once."""
        self._finalizer()


def _close_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.close()
