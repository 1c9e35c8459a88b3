"""Does training with bfloat16 products go the way it goes in float32?

    $ python -m benchmarks.bfloat16_training

Trains size N from scratch on drawn shapes twice, from the same weights on the same pictures with the same random
numbers, and differing in nothing but the type of the large products. Draws both losses to
``benchmarks/pictures/bfloat16.png`` and prints how far they are apart, beside how far two float32 trainings with
different random numbers are. XLA computes all of them, as on a TPU: a CPU asked for bfloat16 might take float32.
"""

import argparse
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import matplotlib
import numpy as np
from rich.console import Console

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from dfine_jax.config import DFineConfig
from dfine_jax.data.shapes import CLASS_NAMES, shapes
from dfine_jax.ops.compute import Compute
from dfine_jax.training.devices import Devices
from dfine_jax.training.recipe import Optimization, Recipe
from dfine_jax.training.start import fresh
from dfine_jax.training.trainer import RunOptions, train

PICTURE = Path(__file__).parent / "pictures" / "bfloat16.png"
SIZE, BATCH, MEAN = 96, 8, 20
QUERIES = 40


def losses(steps: int, dtype: str, seed: int, folder: Path) -> np.ndarray:
    """The loss of every step; ``seed`` of all random numbers but the weights."""
    config = DFineConfig.nano().with_classes(CLASS_NAMES)
    start = fresh(config.with_queries(QUERIES), 0)
    recipe = Recipe(
        epochs=1,
        strong_epochs=0,
        batch_size=BATCH,
        image_size=SIZE,
        denoising_copies=20,
        optimization=Optimization(8e-4, 8e-4, warmup_steps=50),
    )
    options = RunOptions(seed=seed, dtype=dtype, log_every=1, checkpoint_every=steps, workers=1)
    with patch.object(Devices, "compute", lambda _, dtype: Compute.named(dtype)):
        train(start, shapes(steps * BATCH, size=SIZE), recipe, options, output=folder, console=Console())
    return np.array([json.loads(line)["loss"] for line in (folder / "log.jsonl").open()])


def smooth(values: np.ndarray) -> np.ndarray:
    """Means of ``MEAN`` steps."""
    return values[: len(values) // MEAN * MEAN].reshape(-1, MEAN).mean(1)


def main() -> None:
    """Trains three times, draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    runs = {"float32": ("float32", 0), "bfloat16": ("bfloat16", 0), "float32, other random numbers": ("float32", 1)}
    curves = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (title, (dtype, seed)) in enumerate(runs.items()):
            curves[title] = smooth(losses(steps, dtype, seed, Path(scratch) / str(number)))

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (title, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(np.arange(1, len(curve) + 1) * MEAN, curve, style, label=title)
    axes.set(xlabel="step", ylabel=f"loss, mean of {MEAN} steps", title=f"N on shapes, {SIZE} px, batch {BATCH}")
    axes.legend()
    figure.savefig(PICTURE, dpi=110)
    exact, *others = curves.values()
    for title, other in zip(list(curves)[1:], others, strict=True):
        apart = np.abs(other - exact) / exact
        print(f"{title}: {apart.mean():.2%} from float32's loss on average, {apart.max():.2%} at most; "
              f"ends at {other[-1]:.2f}, float32 at {exact[-1]:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
