"""A training small enough for tests, and as a program of its own for tests that kill it or give it more devices.

``python run_tiny.py OUTPUT`` trains, or goes on, and ends with a JSON line: a hash of all final numbers, and losses.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny import TINY

from dfine_jax.data.augmentation import Augmentation
from dfine_jax.data.samples import Dataset
from dfine_jax.data.shapes import CLASS_NAMES, shapes
from dfine_jax.training.processes import Processes, joined
from dfine_jax.training.recipe import Averaging, Optimization, Recipe
from dfine_jax.training.start import Start, fresh
from dfine_jax.training.trainer import RunOptions, Trained, train

CONFIG = TINY.with_classes(CLASS_NAMES)
RECIPE = Recipe(
    epochs=4,
    strong_epochs=3,
    batch_size=4,
    image_size=64,
    augmentation=Augmentation(zoom_out=0.0),
    optimization=Optimization(4e-3, 2e-3, warmup_steps=2),
    averaging=Averaging(0.9, 3.0),
    denoising_copies=8,
)
"""Four epochs of three steps."""
OPTIONS = RunOptions(workers=0, log_every=1, checkpoint_every=2)
STEPS = 12


def pictures() -> Dataset:
    """Twelve."""
    return shapes(12, size=64)


def begin() -> Start:
    """Fresh values."""
    return fresh(CONFIG, 0)


def digest(trained: Trained) -> str:
    """A hash of the average's numbers, in order of names: two equal ones mean that every bit is the same."""
    numbers = hashlib.sha256()
    for values in (trained.params, trained.batch_stats):
        for name in sorted(values):
            numbers.update(np.ascontiguousarray(np.asarray(values[name])))
    return numbers.hexdigest()


def losses(output: Path) -> list[float]:
    """Of every step in the log."""
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


def main() -> None:
    """Runs as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    for name in ("--processes", "--process", "--port", "--workers"):
        parser.add_argument(name, type=int, default=0)
    options = parser.parse_args()
    place = (f"localhost:{options.port}", options.processes, options.process) if options.processes else ()
    with joined(Processes(*place)):
        run = replace(OPTIONS, workers=options.workers)
        trained = train(begin(), pictures(), RECIPE, run, output=options.output, resume=True)
    sys.stdout.write(json.dumps({"digest": digest(trained), "losses": losses(options.output)}) + "\n")


if __name__ == "__main__":
    main()
