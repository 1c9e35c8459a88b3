from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.model.outputs import (
    DenoisingQueries,
    LayerPrediction,
    PlainPrediction,
    QueryPredictions,
    TrainingOutput,
)
from dfine_jax.training.denoising import apply_noise, denoising_slots, draw_noise
from dfine_jax.training.targets import Targets

DATA = Path(__file__).parents[1] / "reference_numbers"


@pytest.fixture(scope="session")
def pad_targets() -> Callable[..., Targets]:
    """Makes `Targets` of the flat boxes and labels of all pictures, with rubbish in the padding."""

    def pad(counts: Sequence[int], boxes: np.ndarray, labels: np.ndarray, places: int) -> Targets:
        padded = np.full((len(counts), places, 4), 0.3, np.float32)
        classes = np.ones((len(counts), places), np.int32)
        mask = np.arange(places) < np.asarray(counts)[:, None]
        padded[mask], classes[mask] = boxes, labels
        return jax.device_put(Targets(padded, classes, mask))

    return pad


class Reference:
    """What the original release's criterion was given and what it answered."""

    layers, classes, queries, copies = 3, 7, 30, 20

    def __init__(self, pad):
        self.numbers = dict(np.load(DATA / "criterion.npz"))
        self.counts = self.numbers["target_counts"]
        boxes, labels = self.numbers["target_boxes"], self.numbers["target_labels"]
        self.targets = pad(self.counts, boxes, labels, 5)
        self.widely_padded_targets = pad(self.counts, boxes, labels, 9)
        self.output = TrainingOutput(
            queries=self.predictions(""),
            encoder=PlainPrediction(self.tensor("enc", "logits"), self.tensor("enc", "boxes")),
            denoising=self.predictions("dn_"),
            up=jnp.asarray([0.5]),
            reg_scale=jnp.asarray([4.0]),
        )

    def tensor(self, place: str, name: str) -> jnp.ndarray:
        return jax.device_put(self.numbers[f"output.{place}.pred_{name}"])

    def predictions(self, prefix: str) -> QueryPredictions:
        names = [f"{prefix}layer_{i}" for i in range(self.layers)]
        layers = tuple(
            LayerPrediction(self.tensor(n, "logits"), self.tensor(n, "boxes"), self.tensor(n, "corners")) for n in names
        )
        pre = PlainPrediction(self.tensor(f"{prefix}pre", "logits"), self.tensor(f"{prefix}pre", "boxes"))
        return QueryPredictions(layers, pre, jax.device_put(self.numbers[f"output.{names[0]}.ref_points"]))

    def denoising(self, key) -> DenoisingQueries:
        noise = draw_noise(key, len(self.counts), denoising_slots(5, self.copies), self.classes)
        return jax.jit(apply_noise, static_argnums=(2, 3, 4))(
            noise, self.targets, self.classes, self.queries, self.copies
        )


@pytest.fixture(scope="session")
def reference(pad_targets) -> Reference:
    return Reference(pad_targets)
