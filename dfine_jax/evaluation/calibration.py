"""Whether scores and intervals of edges mean what they say, and corrections for both.

A score should be the share of such detections that are right; an interval of 80 % should hold 80 % of the true edges.
Scores are corrected by a scale and a shift of their logits (Platt 1999; a temperature is a scale alone), intervals by
one factor a level: the conformal one, with which exactly that share of the edges that it was fitted on lies within.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dfine_jax.calibration import Calibration, logit
from dfine_jax.errors import InputError
from dfine_jax.evaluation.confusion import IGNORED
from dfine_jax.evaluation.matching import found_boxes
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Of the intervals that are looked at."""
LEAST_SCORE = 0.05
"""Detections that score less are no part of what is said about scores: there would be little else."""
BINS = 10
"""Of scores, all equally wide."""
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""Of objects, by COCO's areas in square pixels."""
LEAST_BOXES = 20
"""To fit a correction on."""
SMALLEST_REACH = 1e-6
"""Pixels."""


class Samples(NamedTuple):
    """Detections beside what is labelled."""

    scores: Float[np.ndarray, " S"]
    right: Bool[np.ndarray, " S"]
    """Whether each finds a box of its class."""
    strain: Float[np.ndarray, "N 4 L"]
    """How far each true edge of `N` found boxes is from the median, as a share of how far the interval of each level
    reaches on that side: up to 1 it lies within."""
    areas: Float[np.ndarray, " N"]


class Coverage(NamedTuple):
    """What share of true edges lies in the intervals of each of `LEVELS`."""

    size: str
    boxes: int
    shares: tuple[float, ...]
    """NaN where there are no boxes."""


class Reliability(NamedTuple):
    """Detections in bins of their score."""

    counts: Int[np.ndarray, " B"]
    scores: Float[np.ndarray, " B"]
    """The mean of each bin; NaN where it is empty."""
    right: Float[np.ndarray, " B"]
    """The share that is right; NaN where it is empty."""

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of score and share right, by detection; NaN without any."""
        filled = self.counts > 0
        distances = np.abs(self.scores - self.right)[filled]
        return float(np.average(distances, weights=self.counts[filled])) if filled.any() else float("nan")


class Measured(NamedTuple):
    """How well scores and intervals fit."""

    coverage: tuple[Coverage, ...]
    """Of all boxes, then by size."""
    reliability: Reliability


def samples_of(predicted: Predicted, truth: Truth, rows: Int[np.ndarray, " R"], threshold: float) -> Samples:
    """Compares one picture's detections, which have `edges`, with its labels, `rows` of `truth`.

    Edges are those of detections that score more than `threshold` and find a box of their class; nobody looks at those
    of others.
    """
    found = found_boxes(predicted, truth, rows)
    told = (found != IGNORED) & (predicted.scores >= LEAST_SCORE)
    seen = np.flatnonzero((found >= 0) & (predicted.scores > threshold))
    boxes, edges = truth.boxes[found[seen]], predicted.edges[seen]
    middle = edges.quantiles((0.5,))
    distance = boxes[..., None] - middle
    low, high = (edges.quantiles(tuple((1 + side * level) / 2 for level in LEVELS)) for side in (-1, 1))
    reach = np.where(distance < 0, middle - low, high - middle)
    strain = np.abs(distance) / np.maximum(reach, SMALLEST_REACH)
    return Samples(predicted.scores[told], found[told] >= 0, strain, truth.areas[found[seen]])


def gathered(samples: Iterable[Samples]) -> Samples:
    """Those of many pictures as one."""
    nothing = Samples(np.zeros(0), np.zeros(0, bool), np.zeros((0, 4, len(LEVELS))), np.zeros(0))
    return Samples(*map(np.concatenate, zip(nothing, *samples, strict=True)))


def fit(samples: Samples) -> Calibration:
    """The corrections with which these samples fit.

    Raises:
        InputError: there are too few.
    """
    if len(samples.strain) < LEAST_BOXES:
        raise InputError(
            f"{len(samples.strain)} boxes were found, too few to fit a calibration on ({LEAST_BOXES} at least): take a "
            "part with more pictures, or a lower --threshold"
        )
    scale, shift = fit_scores(samples.scores, samples.right)
    edges = samples.strain.reshape(-1, len(LEVELS))
    factors = tuple(conformal_factor(edges[:, i], level) for i, level in enumerate(LEVELS))
    return Calibration(LEVELS, factors, scale, shift, len(samples.strain))


def conformal_factor(strain: Float[np.ndarray, " E"], level: float) -> float:
    """The least factor with which a new edge, one like these, lies within with a probability of at least `level`."""
    rank = min(int(np.ceil((len(strain) + 1) * level)), len(strain))
    return max(float(np.sort(strain)[rank - 1]), SMALLEST_REACH)


def fit_scores(scores: Float[np.ndarray, " S"], right: Bool[np.ndarray, " S"]) -> tuple[float, float]:
    """Scale and shift of logits that make what is right and wrong likeliest, by Newton's method.

    Both are drawn a little to 1 and 0, which keeps them finite where the scores tell right from wrong without fail.
    """
    inputs = np.stack([logit(scores), np.ones(len(scores))], axis=1)
    plain, drawn = np.array([1.0, 0.0]), 1e-2 * np.eye(2)
    weights = plain.copy()

    def loss(weights: np.ndarray) -> float:
        logits = inputs @ weights
        away = weights - plain
        return float((np.logaddexp(0, logits) - right * logits).sum() + away @ drawn @ away / 2)

    for _ in range(100):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ weights, -50, 50)))
        gradient = inputs.T @ (probability - right) + drawn @ (weights - plain)
        curvature = inputs.T @ (inputs * (probability * (1 - probability))[:, None]) + drawn
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-12:
            step /= 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return max(float(weights[0]), 1e-3), float(weights[1])


def measure(samples: Samples, calibration: Calibration | None = None) -> Measured:
    """How well scores and intervals fit, as the model has them or as they are corrected."""
    scores = samples.scores if calibration is None else calibration.probability(samples.scores)
    factors = [1.0 if calibration is None else calibration.factor(level) for level in LEVELS]
    inside = samples.strain <= factors
    every = np.ones(len(inside), bool)
    sizes = {"all": every} | {
        name: (samples.areas >= least) & (samples.areas < most) for name, (least, most) in SIZES.items()
    }
    coverage = tuple(_coverage(name, inside[which]) for name, which in sizes.items())
    return Measured(coverage, reliability(scores, samples.right))


def reliability(scores: Float[np.ndarray, " S"], right: Bool[np.ndarray, " S"], bins: int = BINS) -> Reliability:
    """Sorts detections into bins of equal width from 0 to 1."""
    place = np.minimum((np.asarray(scores) * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    shares = np.where(counts > 0, 1 / np.maximum(counts, 1), np.nan)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (scores, right))
    return Reliability(counts, *(total * shares for total in sums))


def _coverage(size: str, inside: Bool[np.ndarray, "N 4 L"]) -> Coverage:
    shares = inside.mean(axis=(0, 1)) if len(inside) else np.full(len(LEVELS), np.nan)
    return Coverage(size, len(inside), tuple(shares.tolist()))
