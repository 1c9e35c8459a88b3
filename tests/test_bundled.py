"""The model and the picture that come with the package."""

from safetensors.numpy import load_file

from dfine_jax.bundled import FOLDER, SHAPES_MODEL
from dfine_jax.data.shapes import CLASS_NAMES, shapes
from dfine_jax.evaluation.coco_metrics import evaluate
from dfine_jax.evaluation.predictions import predict
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.detector import Detector


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 10e6
    tensors = load_file(SHAPES_MODEL / "model.safetensors")
    halved = sum(tensor.size for tensor in tensors.values() if tensor.dtype == "float16")
    assert halved > 0.98 * sum(tensor.size for tensor in tensors.values())


def test_it_finds_shapes_that_it_was_not_trained_on():
    detector = Detector.from_pretrained("shapes", batch_size=8)
    assert detector.config.class_names == CLASS_NAMES
    dataset = shapes(48, split="test")
    figures = evaluate(list(predict(detector, dataset)), Truth.of(dataset)).figures
    assert figures.ap > 0.85
    assert figures.ap50 > 0.95
