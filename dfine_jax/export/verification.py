"""An exported model beside the detector, on one picture: how far apart their best detections are."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from dfine_jax.errors import InputError
from dfine_jax.export import onnx_file, stablehlo
from dfine_jax.export.manifest import Manifest
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.postprocess import TopDetections, postprocess
from dfine_jax.inference.preprocess import preprocess, resize

BEST = 50
"""Detections that are compared."""
BOX, SCORE = 0.01, 1e-5
"""Differences, in pixels and of scores, that rounding makes in float32."""
BOX_16, SCORE_16 = 2.0, 0.05
"""The same where products are rounded to 16 bits."""


class Differences(NamedTuple):
    """Of a detector's best detections and those of an artefact."""

    runtime: str
    compared: int
    found: int
    """How many the artefact found too, with the same label and a box no more than a pixel (in 16 bits two) away."""
    boxes: float
    """The largest difference of an edge, in pixels of the original picture, of those found."""
    scores: float
    small: bool
    """Whether only rounding can have made them."""


class _Best(NamedTuple):
    scores: Float[np.ndarray, " T"]
    labels: Int[np.ndarray, " T"]
    boxes: Float[np.ndarray, "T 4"]


def verify(folder: Path, manifest: Manifest, detector: Detector, picture: Image.Image) -> list[Differences]:
    """Compares an artefact with the detector, in each runtime that is installed.

    ``detector`` has the artefact's size of pictures. All places of the artefact's batch get the picture, and all have
    to agree.
    """
    settings = manifest.preprocessing
    count = manifest.batch_size or 2
    sizes = np.tile(np.array([picture.size[::-1]], np.int32), (count, 1))
    pixels = resize(picture, settings)
    one = np.ones((detector.batch_size, 2), np.int32) * sizes[:1]
    reference = _rows(detector.run(np.repeat(pixels[None], detector.batch_size, 0), one))[0]
    given = pixels if manifest.end_to_end else preprocess(picture, settings)
    inputs = {"images": np.repeat(given[None], count, 0)} | ({"sizes": sizes} if manifest.end_to_end else {})
    differences = []
    for runtime, outputs in outputs_of(folder, manifest, inputs).items():
        if not manifest.end_to_end:
            best = jax.device_get(jax.jit(postprocess)(outputs["logits"], outputs["boxes"], sizes))
        else:
            best = TopDetections(**{name: outputs[name] for name in TopDetections._fields})
        bounds = (BOX, SCORE) if manifest.dtype == "float32" else (BOX_16, SCORE_16)
        rows = [compare(reference, row, runtime, *bounds) for row in _rows(best)]
        differences.append(min(rows, key=lambda row: (row.found, -row.boxes, -row.scores)))
    return differences


def compare(reference: _Best, other: _Best, runtime: str, box_bound: float, score_bound: float) -> Differences:
    """How far the other's detections are from the reference's best, each from the nearest one of its label.

    Two of nearly the same score may change places, so ranks don't count.
    """
    count = min(BEST, len(reference.scores))
    free = np.ones(len(other.scores), bool)
    boxes, scores = [], []
    for label, box, score in zip(reference.labels[:count], reference.boxes, reference.scores, strict=False):
        apart = np.abs(other.boxes - box).max(axis=1) + np.where(free & (other.labels == label), 0, np.inf)
        nearest = int(apart.argmin())
        if not apart[nearest] <= max(1.0, box_bound):
            continue
        free[nearest] = False
        boxes.append(apart[nearest])
        scores.append(abs(float(other.scores[nearest]) - float(score)))
    box, score = (float(max(each, default=np.inf)) for each in (boxes, scores))
    small = len(boxes) == count and box <= box_bound and score <= score_bound
    return Differences(runtime, count, len(boxes), box, score, small)


def outputs_of(folder: Path, manifest: Manifest, inputs: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """By runtime; ``InputError`` for a program that none can run."""
    runtimes = {"StableHLO": lambda: stablehlo.run_stablehlo(folder, list(inputs.values()))}
    if manifest.kind == "onnx":
        runtimes = {"ONNX Runtime": lambda: onnx_file.run_onnx_runtime(folder, inputs)}
        if onnx_file.has_openvino():
            runtimes["OpenVINO"] = lambda: onnx_file.run_openvino(folder, inputs)
    try:
        return {name: run() for name, run in runtimes.items()}
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever a runtime raises about a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder / manifest.file} can't be run ({reason:.200}): export the model again") from error


def _rows(best: TopDetections) -> list[_Best]:
    return [_Best(*row) for row in zip(*map(np.asarray, best), strict=True)]
