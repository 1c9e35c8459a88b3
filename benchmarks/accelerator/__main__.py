"""The command: which parts there are, in the order of their worth, and how they share the time."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.accelerator import __doc__ as about
from benchmarks.accelerator.report import Report
from benchmarks.accelerator.scale import ACCELERATOR, SMALLEST, Task, one_line
from benchmarks.accelerator.worker import PartError, rows_of

LEAST = 5
"""Seconds below which no part is begun."""


class Part(NamedTuple):
    """One question, and how long its answer may take."""

    title: str
    where: str
    """The function that gives its rows, as ``module:function`` in this package."""
    share: float
    """Of all the time, at most. What a part leaves is the next ones'."""
    is_torch: bool = False
    """Whether the device is PyTorch's: JAX, which makes the weights, then keeps to the host."""


PARTS = {
    "parity": Part("As exact as on a CPU? Products in float32, exact", "parity:exact", 0.3),
    "speed": Part("The model alone: pixels in the device's memory to logits and boxes", "speed:ours", 0.4),
    "torch": Part("transformers in PyTorch, eager, on the same device", "torch_speed:eager", 0.15, True),
    "kernels": Part("The ten kernels that take most of the slowest program's time", "kernels:slowest", 0.15),
    "training": Part("A training step", "training:ours", 0.35),
    "torch-training": Part("transformers' training step", "training:theirs", 0.15, True),
    "training-kernels": Part("The ten kernels that take most of a training step", "kernels:of_training", 0.15),
    "detector": Part("A detector, from pictures in the host's memory to detections", "detector:first", 0.2),
    "ends": Part("Before and after the model, on the device", "detector:ends", 0.1),
    "torch-ends": Part("The same by transformers", "torch_speed:ends", 0.1, True),
    "again": Part("The same in a new process, with what was compiled kept", "detector:again", 0.2),
    "rounded": Part("How far TF32 and bfloat16 are from exact products", "parity:rounded", 0.4),
    "torch-compile": Part("transformers through torch.compile", "torch_speed:compiled", 0.4, True),
    "choices": Part("XLA's options that could be faster, bfloat16, one picture", "speed:choices", 0.4),
}


def main() -> int:
    """Runs the parts, writes the report after each row, and prints where it is."""
    options = _options()
    began = time.monotonic()
    report = Report(options.output)
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(SMALLEST, Path(scratch), {})
        try:
            (device,) = rows_of("benchmarks.accelerator.device:about", task, 60 * options.minutes)
        except (PartError, ValueError) as error:
            print(f"the device could not be asked what it is: {one_line(error)}", file=sys.stderr)
            return 1
        report.about = device | _driver()
        report.write()
        scale = ACCELERATOR if device["meaningful"] else SMALLEST
        for name in options.parts:
            left = began + 60 * options.minutes - time.monotonic()
            run(name, report, Task(scale, Path(scratch), report.rows()), left, 60 * options.minutes)
    print(report.markdown())
    print(f"written to {' and '.join(map(str, report.files))}")
    return 0


def run(name: str, report: Report, task: Task, left: float, whole: float) -> None:
    """Runs one part with the seconds that are left, of so many in all; whatever happens is in the report."""
    part = report.begin(name, PARTS[name].title)
    if left < LEAST:
        part["state"] = "left out: no time"
        report.write()
        return
    began = time.monotonic()
    _, where, share, is_torch = PARTS[name]
    variables = {"JAX_PLATFORMS": "cpu"} if is_torch else {}
    try:
        for row in rows_of(f"benchmarks.accelerator.{where}", task, min(left, share * whole), **variables):
            part["rows"].append(row)
            part["seconds"] = time.monotonic() - began
            report.write()
        part["state"] = "done"
    except PartError as error:
        part["state"] = str(error)
    part["seconds"] = time.monotonic() - began
    report.write()
    print(f"{name}: {part['state']}, {len(part['rows'])} rows, {part['seconds']:.0f} s", flush=True)


def _driver() -> dict[str, str]:
    """What NVIDIA's tool says of the device, where there is one."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm")
    try:
        said = subprocess.run(
            [*query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"nvidia-smi": said}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default: 8)")
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT", ".")), metavar="FOLDER",
        help="where accelerator.json and accelerator.md are written (default: $OUT, or this folder)",
    )  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error("--minutes: give more than 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
