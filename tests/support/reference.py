"""Reference numbers: weights made by a rule from their names, checkpoints' names and shapes, and how to compare."""

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import DFine, load, variables
from dfine_jax.ops.compute import Compute
from dfine_jax.weights.fill import Shape, fill, plan
from dfine_jax.weights.rules import HUB, ORIGINAL, Dialect

DATA = Path(__file__).parents[1] / "reference_numbers"
SIZES = "nsmlx"
SEEDS = {"n": 30, "s": 3, "m": 13, "l": 30, "x": 5}
"""Those of ``reference_numbers/forward``: with them the gap between chosen and unchosen queries is wide."""
REG_SCALES = {"n": 4.0, "s": 4.0, "m": 4.0, "l": 4.0, "x": 8.0}

SOME_CLASSES = slice(None, None, 8)
"""Of the classes those whose logits ``families`` has."""

# COCO numbers its 80 classes from 1 to 90, with gaps.
COCO_IDS = np.setdiff1d(np.arange(1, 91), [12, 26, 29, 30, 45, 66, 68, 69, 71, 83])


@cache
def _manifests() -> dict[str, dict[str, dict[str, list[int]]]]:
    return json.loads(gzip.decompress((DATA / "manifests.json.gz").read_bytes()))


def manifest(dialect: str, size: str) -> dict[str, Shape]:
    """Name and shape of every tensor in a published checkpoint; ``dialect`` is "huggingface" or "original"."""
    return {name: tuple(shape) for name, shape in _manifests()[dialect][size].items()}


def weight(name: str, shape: Shape, seed: int, reg_scale: float = 4.0) -> np.ndarray:
    """The tensor that the rule makes for a name: random, yet the same everywhere."""
    leaf = name.rpartition(".")[2]
    constants = {"up": 0.5, "reg_scale": reg_scale}
    if leaf in constants:
        return np.full(shape, constants[leaf], np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if leaf in ("running_var", "scale"):
        values = rng.uniform(0.8, 1.2, shape)
    elif leaf == "running_mean":
        values = rng.standard_normal(shape) * 0.1
    elif len(shape) == 4:
        values = rng.standard_normal(shape) * math.sqrt(1.5 / np.prod(shape[1:]))
    elif "sampling_offsets" in name:
        values = rng.standard_normal(shape) * (0.5 if leaf == "bias" else 0.05)
    elif len(shape) == 2:
        values = rng.standard_normal(shape) * math.sqrt(1 / shape[1])
    elif leaf == "weight":
        values = rng.uniform(0.7, 1.2, shape)
    else:
        values = rng.standard_normal(shape) * 0.1
    return values.astype(np.float32)


@dataclass(frozen=True)
class MadeWeights:
    """A checkpoint whose tensors are made by the rule when they are read."""

    shapes: Mapping[str, Shape]
    seed: int
    reg_scale: float

    @property
    def types(self) -> dict[str, str]:
        return dict.fromkeys(self.shapes, "float32")

    def read(self, name: str) -> np.ndarray:
        return weight(name, self.shapes[name], self.seed, self.reg_scale)


def reference_model(
    size: str, dialect: Dialect = ORIGINAL, seed: int | None = None, decoder_activation: str = "relu"
) -> DFine:
    """The model of that size with the weights that the rule makes for a dialect's names."""
    model = DFine(DFineConfig.from_size(size).with_decoder_activation(decoder_activation))
    made = MadeWeights(
        manifest("huggingface" if dialect is HUB else "original", size),
        SEEDS[size] if seed is None else seed,
        REG_SCALES[size],
    )
    fill_model(model, dialect, made)
    return model


def fill_model(model: DFine, dialect: Dialect, source: MadeWeights) -> None:
    """Gives every variable its value from a checkpoint that has to fit."""
    params, batch_stats = variables(model)
    needed = plan(dialect, source.shapes, {name: x.shape for name, x in {**params, **batch_stats}.items()})
    needed.check("the reference")
    load(model, {name: jax.device_put(array) for name, array in fill(needed, source)})


def with_compute(model: DFine, dtype: str) -> DFine:
    """The same weights in a model that computes in another type."""
    other = DFine(model.config, compute=Compute.named(dtype))
    params, batch_stats = variables(model)
    load(other, {**params, **batch_stats})
    return other


def sampled(feature_map: np.ndarray) -> np.ndarray:
    """The part of an (H, W, C) map that the reference keeps, as (C, H, W)."""
    x = np.asarray(feature_map).transpose(2, 0, 1)
    channels, height, width = x.shape
    return x[:: max(1, channels // 16), :: max(1, height // 8), :: max(1, width // 8)]


class QueryErrors(NamedTuple):
    """The largest differences of any query."""

    logits: float
    boxes: float


def query_errors(logits, boxes, selected, reference: Mapping[str, np.ndarray]) -> QueryErrors:
    """Compares one picture's queries by the token they came from: the order of two with near-equal scores may flip."""
    ours, theirs = np.argsort(selected), np.argsort(reference["selected"])
    np.testing.assert_array_equal(np.asarray(selected)[ours], reference["selected"][theirs])
    return QueryErrors(
        float(np.abs(np.asarray(logits)[ours] - reference["logits"][theirs]).max()),
        float(np.abs(np.asarray(boxes)[ours] - reference["boxes"][theirs]).max()),
    )


def assert_same_detections(ours, theirs, score: float, pixels: float) -> None:
    """Every one of ``theirs`` is among ``ours``, best first, each (scores, labels, boxes) of one picture.

    Where scores agree within the tolerance the order is nobody's, so detections are paired by all that they say.
    """
    scores, labels, boxes = map(np.asarray, ours)
    np.testing.assert_allclose(scores[: len(theirs[0])], theirs[0], atol=score, rtol=0)
    free = np.ones(len(scores), bool)
    for their_score, their_label, their_box in zip(*theirs, strict=True):
        close = np.abs(scores - their_score) <= score
        same = free & close & (labels == their_label) & (np.abs(boxes - their_box).max(-1) <= pixels)
        assert same.any(), f"no detection of {their_label}, {their_score:.5f}, {their_box}; near in score are " + str(
            [(int(labels[i]), float(scores[i]), boxes[i].tolist()) for i in np.flatnonzero(close)]
        )
        free[np.argmax(same)] = False


def square_picture() -> np.ndarray:
    """A part of the made-up picture, (256, 256, 3). Of others the original release mixes positions up."""
    return synthetic_picture()[:, :256]


def synthetic_picture() -> np.ndarray:
    """A made-up picture that isn't square, (256, 288, 3) in 0..1: coarse patches with fine noise."""
    rng = np.random.default_rng(7)
    coarse = np.kron(rng.integers(0, 200, (8, 9, 3)), np.ones((32, 32, 1), int))
    return ((coarse + rng.integers(0, 56, coarse.shape)) / 255).astype(np.float32)
