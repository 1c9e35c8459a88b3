"""Makes ``tests/reference_numbers/synthetic``: what transformers' D-FINE gives for a made-up picture, for every size.

Run from the repository, with PyTorch and transformers installed: ``python tests/support/make_numbers.py``. The weights
are made by the rule of ``reference.py`` from the Hub's names; of the seeds tried the first is taken with which the
chosen queries' scores lie clear of the others', so that every right implementation chooses the same.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository; this file's folder is on the path already

from reference import DATA, SIZES, reference_model, sampled, synthetic_picture

from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import arrays_of
from dfine_jax.weights.hub_layout import save_hub_folder
from dfine_jax.weights.rules import HUB

GAP = 2e-4
"""Between the score of the last query chosen and that of the first one not."""


def main() -> None:
    """Writes a file a size."""
    (DATA / "synthetic").mkdir(exist_ok=True)
    for size in SIZES:
        seed = 0
        while (numbers := run_transformers(size, seed)) is None:
            seed += 1
        path = DATA / "synthetic" / f"{size}.npz"
        np.savez_compressed(path, seed=seed, **numbers)
        print(f"{path.name}: seed {seed}, {path.stat().st_size:,} bytes")


def run_transformers(size: str, seed: int) -> dict[str, np.ndarray] | None:
    """Outputs for the made-up picture; None where the choice of queries is too close."""
    import torch
    from transformers import DFineForObjectDetection

    model = reference_model(size, HUB, seed)
    with tempfile.TemporaryDirectory() as folder:
        save_hub_folder(Path(folder) / size, model.config, Preprocessing(), arrays_of(model))
        theirs = DFineForObjectDetection.from_pretrained(Path(folder) / size).eval()
    pixels = torch.from_numpy(synthetic_picture().transpose(2, 0, 1).copy())[None]
    maps = {}
    hooks = {"backbone": theirs.model.backbone, "encoder": theirs.model.encoder}
    for name, module in hooks.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: maps.update({name: output}))
    with torch.no_grad():
        output = theirs.model(pixels)
        final = theirs(pixels)
    scores = output.enc_outputs_class.max(-1).values[0].numpy()
    order = np.argsort(-scores, kind="stable")
    queries = model.config.decoder.queries
    if scores[order[queries - 1]] - scores[order[queries]] < GAP:
        return None
    numbers = {
        "logits": final.logits[0].numpy(),
        "boxes": final.pred_boxes[0].numpy(),
        "selected": order[:queries].astype(np.int32),
    }
    levels = {"backbone": [x for x, _ in maps["backbone"]], "encoder": maps["encoder"].last_hidden_state}
    for name, features in levels.items():
        for i, x in enumerate(features):
            x = x[0].numpy().transpose(1, 2, 0)
            numbers[f"{name}_{i}"] = sampled(x)
            numbers[f"{name}_{i}_largest"] = np.abs(x).max()
    return numbers


if __name__ == "__main__":
    main()
