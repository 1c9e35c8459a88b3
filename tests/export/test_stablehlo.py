"""A program for JAX elsewhere computes what the detector does, where this package isn't installed."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.cli.main import main
from dfine_jax.export.artefact import export_model
from dfine_jax.export.exportable import exportable
from dfine_jax.inference.detector import Detector
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import open_pretrained, save_pretrained

needs_flatbuffers = pytest.mark.skipif(find_spec("flatbuffers") is None, reason="JAX writes exported programs by it")

FIVE_LINES = """
import sys
sys.modules["dfine_jax"] = None
import numpy as np, jax
from jax import export
program = export.deserialize(bytearray(open("{out}/model.stablehlo", "rb").read()))
images, sizes = (np.load("{out}.npz")[name] for name in ("images", "sizes"))
found = jax.jit(program.call)({weights}images, sizes)
np.savez("{out}.found.npz", **found)
"""
CALLS_OF_JAX = {"shape_assertion"}
"""Custom calls that JAX itself resolves before it compiles: they check a symbolic batch."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    save_pretrained(folder, tiny_model(), Preprocessing(HEIGHT, WIDTH))
    return folder


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8), rng.integers(50, 500, (count, 2), np.int32)


def run_elsewhere(out, images, sizes, weights: str = "") -> dict[str, np.ndarray]:
    np.savez(f"{out}.npz", images=images, sizes=sizes)
    code = FIVE_LINES.format(out=out, weights=weights)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=out.parent, timeout=600)
    return dict(np.load(f"{out}.found.npz"))


def expect_same(found, detector: Detector, images, sizes) -> None:
    expected = [jax.device_get(detector.run(images[i : i + 1], sizes[i : i + 1])) for i in range(len(images))]
    for i, best in enumerate(expected):
        np.testing.assert_allclose(found["scores"][i], best.scores[0], atol=1e-5)
        np.testing.assert_array_equal(found["labels"][i], best.labels[0])
        np.testing.assert_allclose(found["boxes"][i], best.boxes[0], atol=0.01)


def test_a_number_of_pictures_that_is_not_known_goes_through_all_operations(model):
    what = exportable(open_pretrained(model), Preprocessing(HEIGHT, WIDTH), end_to_end=True)
    count = jax.export.symbolic_shape("batch")[0]
    inputs = [jax.ShapeDtypeStruct((count, *port.shape), port.dtype) for port in what.inputs]
    gives = jax.eval_shape(what.bound(), *inputs)
    for port in what.outputs:
        assert gives[port.name].shape == (count, *port.shape)
        assert gives[port.name].dtype == port.dtype


@pytest.mark.slow
@needs_flatbuffers
def test_any_number_of_pictures_where_this_package_is_not(model, tmp_path):
    out = tmp_path / "any"
    assert main(["export", str(model), str(out), "--end-to-end", "--batch-size", "any"]) == 0
    exported = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module())) <= CALLS_OF_JAX
    images, sizes = pictures(3)
    found = run_elsewhere(out, images, sizes)
    expect_same(found, Detector.from_pretrained(model), images, sizes)
    about = json.loads((out / "manifest.json").read_text("utf-8"))
    assert about["classes"] == ["ant", "bee", "cat", "dog", "elk"]
    assert [port["shape"] for port in about["inputs"]] == [["batch", HEIGHT, WIDTH, 3], ["batch", 2]]
    for port in about["outputs"]:
        assert found[port["name"]].shape[1:] == tuple(port["shape"][1:])
        assert found[port["name"]].dtype == port["type"]


@pytest.mark.slow
@needs_flatbuffers
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_beside_the_program(model, tmp_path, dtype):
    out = tmp_path / "beside"
    options = dict(name=str(model), end_to_end=True, batch_size=2, weights_beside=True, dtype=dtype)
    export_model(open_pretrained(model), out, "stablehlo", **options)
    images, sizes = pictures(2)
    found = run_elsewhere(out, images, sizes, f'dict(np.load("{out}/weights.npz")), ')
    if dtype == "float32":
        expect_same(found, Detector.from_pretrained(model), images, sizes)
    else:
        assert np.isfinite(found["boxes"]).all()
    assert (out / "weights.npz").stat().st_size > (out / "model.stablehlo").stat().st_size / 50


@pytest.mark.slow
@needs_flatbuffers
@pytest.mark.parametrize("options", [["--end-to-end"], ["--batch-size", "2"], ["--end-to-end", "--size", "96x64"]])
def test_it_agrees_with_the_detector(model, tmp_path, capsys, options):
    out = tmp_path / "out"
    assert main(["export", str(model), str(out), *options]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "StableHLO: 50 of the 50 best found" in printed or "StableHLO: 20 of the 20 best found" in printed


@pytest.mark.slow
@needs_flatbuffers
def test_another_model_is_told_apart(model, tmp_path, capsys):
    other = tmp_path / "other"
    save_pretrained(other, tiny_model(seed=1), Preprocessing(HEIGHT, WIDTH))
    out = tmp_path / "out"
    assert main(["export", str(model), str(out)]) == 0
    assert main(["verify", str(out), "--model", str(other)]) == 1
