"""What a training says while it runs: a line on the screen, a file with a JSON object a line, and TensorBoard's."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from dfine_jax.display import printable
from dfine_jax.training.criterion import CLASS_LOSSES
from dfine_jax.training.folder import require_ours, writing
from dfine_jax.training.log import append_line, forget_after

QUIET_SECONDS = 15.0
"""Where there is no terminal, a line is printed this often instead of a moving one."""
SHOWN = (*CLASS_LOSSES, "bbox", "giou", "fgl", "ddf")
"""Kinds of terms that a line on the screen sums up, where there are any."""


class Journal:
    """Collects what every step reports and writes means: to ``path`` every ``every`` steps, to the screen always.

    A line holds ``step``, ``epoch``, ``loss``, ``gradient_norm``, ``pictures_per_second`` and ``terms``; lines of
    evaluations hold ``step``, ``epoch`` and ``ap``. The same numbers go to the folder ``tensorboard`` beside it.
    """

    def __init__(self, path: Path, total_steps: int, *, every: int, first_step: int, console: Console, writes: bool):
        self.path, self.every, self.total_steps, self.console = path, every, total_steps, console
        self._writes = writes
        self._steps: list[Mapping[str, Any]] = []
        self._pictures, self._since, self._printed = 0, time.monotonic(), 0.0
        self._first = first_step + 1
        self._board: Board | None = None
        if writes:
            with writing("to", path):
                damaged = forget_after(path, first_step)
            if damaged:
                self.say(f"{path}: left out {damaged} line(s) that a crash has damaged")
            self._board = Board(path.parent / "tensorboard", first_step)
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not (writes and console.is_terminal))
        self._task = self._bar.add_task("", total=total_steps, completed=first_step, epoch="", numbers="compiling")

    def __enter__(self) -> "Journal":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def step(self, step: int, epoch: int, pictures: int, numbers: Mapping[str, Any]) -> None:
        """Takes the numbers of one step: ``loss``, ``gradient_norm``, ``terms``, all finite or left out by the mean."""
        self._steps.append(numbers)
        self._pictures += pictures
        if step % self.every and step != self.total_steps:
            self._bar.update(self._task, completed=step)
            if step == self._first:  # what compiling took doesn't count for the speed either
                self.restart_clock()
            return
        means = _means(self._steps)
        now = time.monotonic()
        speed = self._pictures / max(now - self._since, 1e-9)
        self._steps, self._pictures, self._since = [], 0, now
        self.write({"step": step, "epoch": epoch, **means, "pictures_per_second": round(speed, 2)})
        kinds = {kind: [v for name, v in means["terms"].items() if name.split("_")[1] == kind] for kind in SHOWN}
        shown = " ".join(f"{kind} {sum(values):.2f}" for kind, values in kinds.items() if values)
        text = f"loss {means['loss']:.2f} ({shown}) {speed:.1f} pictures/s"
        self._bar.update(self._task, completed=step, epoch=epoch, numbers=text)
        if self._writes and not self.console.is_terminal and now - self._printed > QUIET_SECONDS:
            self._printed = now
            left = (self.total_steps - step) * pictures / max(speed, 1e-9)
            self.say(f"epoch {epoch} step {step}/{self.total_steps} {text}, {duration(left)} left")

    def lay(self, step: int, total_steps: int, falls_after: int) -> None:
        """From ``step`` on there are so many steps in all, and learning rates fall after that one."""
        self.total_steps = total_steps
        self._bar.update(self._task, total=total_steps)
        falls = f"fall after step {falls_after:,}" if falls_after > step else "are falling"
        self.say(f"{total_steps:,} steps in all, by the time that those so far took; learning rates {falls}")

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds a line to the file."""
        if self._board is None:
            return
        require_ours(self.path.parent)
        with writing("to", self.path):
            append_line(self.path, line)
        numbers = {**line, **line.get("terms", {})}
        self._board.add(line["step"], {name: v for name, v in numbers.items() if name not in ("step", "terms")})

    def say(self, text: str) -> None:
        """Prints a line above the moving one."""
        if self._writes:
            self.console.print(printable(text, lines=True), markup=False, highlight=False, soft_wrap=True)

    def restart_clock(self) -> None:
        """What was done since the last line, an evaluation for example, does not count for the speed."""
        self._since, self._pictures = time.monotonic(), 0


def _means(steps: list[Mapping[str, Any]]) -> dict[str, Any]:
    finite = [step for step in steps if np.isfinite(step["loss"])] or steps
    names = finite[0]["terms"]
    return {
        "loss": float(np.mean([step["loss"] for step in finite])),
        "gradient_norm": float(np.mean([step["gradient_norm"] for step in finite])),
        "terms": {name: float(np.mean([step["terms"][name] for step in finite])) for name in names},
    }


class Board:
    """Files of TensorBoard's. It is told to forget what earlier ones hold of steps that are about to be done again.

    All numbers are written at once: tensorboardX's usual writer has a thread, from which a full disk is heard of too
    late and in many lines.
    """

    def __init__(self, folder: Path, first_step: int):
        self._folder = folder
        with writing("to", folder):
            folder.mkdir(exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            self._writer.write_event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))
            self._writer.flush()

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name; ``WriteError`` where they can't be written."""
        with writing("to", self._folder):
            for name, value in numbers.items():
                if np.isfinite(value):  # of others there is nothing to draw
                    self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self._writer.flush()

    def close(self) -> None:
        """Closes the file; what was added is in it already, so there is nothing more to fail."""
        with suppress(OSError):
            self._writer.close()


def duration(seconds: float) -> str:
    """In words, as exact as one wants to know it."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
