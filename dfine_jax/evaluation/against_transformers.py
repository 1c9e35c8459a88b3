"""The same picture through our model and through transformers': how far apart the outputs are."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from dfine_jax.inference.preprocess import preprocess
from dfine_jax.model.dfine import DFine, functional
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.fill import CheckpointError


class Differences(NamedTuple):
    """Largest absolute differences over the queries that both models chose."""

    queries: int
    shared: int
    logits: float
    boxes: float
    """Of cx, cy, w, h in fractions of the picture."""

    @property
    def small(self) -> bool:
        """Whether only rounding can have made them."""
        flipped = self.queries - self.shared  # the last ones chosen may be as good as the first ones not
        return flipped <= max(1, self.queries // 20) and self.logits < 1e-2 and self.boxes < 1e-3


def require_transformers() -> None:
    """``CheckpointError`` unless PyTorch and transformers are installed."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise CheckpointError(f"--verify needs {' and '.join(missing)}: pip install 'dfine-jax[parity]'")


def synthetic_picture(side: int = 640) -> Image.Image:
    """Coloured boxes on a gradient, always the same: something for a detector to look at."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    pixels = np.stack([rows, columns, 1 - rows], axis=-1)
    rng = np.random.default_rng(0)
    for _ in range(12):
        y, x, height, width = (rng.uniform([0, 0, 0.05, 0.05], [0.9, 0.9, 0.3, 0.3]) * side).astype(int)
        pixels[y : y + height, x : x + width] = rng.uniform(size=3)
    return Image.fromarray((255 * pixels).astype(np.uint8))


def compare(model: DFine, hub_folder: Path, preprocessing: Preprocessing, picture: Image.Image) -> Differences:
    """Runs ``picture`` through ``model`` and through what transformers loads from ``hub_folder``.

    Queries are compared by the encoder cell that each was chosen from: two of almost the same score may change places.
    """
    import torch
    from transformers import DFineForObjectDetection
    from transformers.utils import logging

    logging.disable_progress_bar()
    pixels = preprocess(picture.convert("RGB"), preprocessing)[None]
    apply, params, batch_stats = functional(model)
    ours = jax.device_get(jax.jit(apply)(params, batch_stats, pixels))
    with torch.no_grad():
        reference = DFineForObjectDetection.from_pretrained(hub_folder, dtype=torch.float32).eval()
        theirs = reference(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        queries = theirs.logits.shape[1]
        selected = theirs.enc_outputs_class[0].max(-1).values.topk(queries).indices.numpy()
    shared, here, there = np.intersect1d(ours.selected[0], selected, return_indices=True)
    return Differences(
        queries=queries,
        shared=len(shared),
        logits=float(np.abs(ours.logits[0][here] - theirs.logits[0].numpy()[there]).max(initial=0)),
        boxes=float(np.abs(ours.boxes[0][here] - theirs.pred_boxes[0].numpy()[there]).max(initial=0)),
    )
