"""Parts that go well and badly, for ``test_accelerator.py``; each runs in a process of its own."""

import os
import time
from collections.abc import Iterator

from benchmarks.accelerator.scale import Row, Task, attempted


def goes_well(task: Task) -> Iterator[Row]:
    yield {"given": task.earlier["before"][0]["ms"], "variable": os.environ["GIVEN"]}
    yield from attempted([{"n": 1}, {"n": 0}, {"n": 2}], lambda n: {"inverse": 1 / n})


def fails(task: Task) -> Iterator[Row]:
    yield {"row": 1}
    raise RuntimeError("\nout of memory\nand much more")


def crashes(task: Task) -> Iterator[Row]:
    yield {"row": 1}
    os._exit(3)


def hangs(task: Task) -> Iterator[Row]:
    yield {"row": 1}
    time.sleep(600)
