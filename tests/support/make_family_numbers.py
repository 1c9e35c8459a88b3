"""Makes ``tests/reference_numbers/families``: what networks with SiLU in D-FINE's decoder give for a made-up picture.

Run from the repository, with PyTorch and the package libreyolo installed (1.6.0 was taken):
``python tests/support/make_family_numbers.py``. It has DEIM's network and RT-DETRv4's, in PyTorch; both are run with
the same weights, made by the rule of ``reference.py``, and have to agree. Of the seeds tried the first is taken with
which the chosen queries' scores lie clear of the others', so that every right implementation chooses the same.
"""

import sys
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository; this file's folder is on the path already

from reference import DATA, REG_SCALES, SIZES, SOME_CLASSES, square_picture, weight

GAP = 2e-4
"""Between the score of the last query chosen and that of the first one not."""
AGREED = 2e-6
"""Within which the outputs of the two networks lie."""


def main() -> None:
    """Writes a file a size."""
    deim, rtdetrv4 = networks()
    (DATA / "families").mkdir(exist_ok=True)
    for size in SIZES:
        seed = 0
        while (numbers := run(deim(size), size, seed)) is None:
            seed += 1
        others = run(rtdetrv4(size), size, seed)
        apart = max(np.abs(numbers[name] - others[name]).max() for name in ("logits", "boxes"))
        if apart > AGREED:
            raise SystemExit(f"size {size}: the two networks differ by {apart:.2g}")
        path = DATA / "families" / f"{size}.npz"
        np.savez_compressed(path, seed=seed, **numbers)
        print(f"{path.name}: seed {seed}, {path.stat().st_size:,} bytes, the two networks within {apart:.2g}")


def networks():
    """What makes DEIM's network of a size, and RT-DETRv4's."""
    # Of torchvision the two networks' files import a function for losses; the package's models import the rest.
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes"):
        sys.modules.setdefault(name, MagicMock())
    import libreyolo

    models = type(sys)("libreyolo.models")
    models.__path__ = [str(Path(libreyolo.__file__).parent / "models")]
    sys.modules["libreyolo.models"] = models
    from libreyolo.models.deim.nn import LibreDEIMModel
    from libreyolo.models.dfine.nn import LibreDFINEModel

    options = dict(eval_spatial_size=None)
    return partial(LibreDEIMModel, **options), partial(LibreDFINEModel, activation="silu", **options)


def run(network, size: str, seed: int) -> dict[str, np.ndarray] | None:
    """Outputs for the made-up picture; None where the choice of queries is too close."""
    made = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("decoder.decoder.") and name.endswith((".up", ".reg_scale")):
            continue  # the decoder's once more
        counted = name.endswith(("num_points_scale", "num_batches_tracked"))
        array = weight(name, tuple(tensor.shape), seed, REG_SCALES[size])
        made[name] = tensor if counted else torch.from_numpy(np.array(array))
    network.load_state_dict(made, strict=False)
    network.eval()
    scores = []
    network.decoder.enc_score_head.register_forward_hook(lambda _, inputs, output: scores.append(output))
    pixels = torch.from_numpy(square_picture().transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        output = network(pixels)
    best = scores[0][0].max(-1).values.numpy()
    order, queries = np.argsort(-best, kind="stable"), output["pred_boxes"].shape[1]
    if best[order[queries - 1]] - best[order[queries]] < GAP:
        return None
    return {
        "logits": output["pred_logits"][0].numpy()[:, SOME_CLASSES],
        "boxes": output["pred_boxes"][0].numpy(),
        "selected": order[:queries].astype(np.int32),
    }


if __name__ == "__main__":
    main()
