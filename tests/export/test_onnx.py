"""ONNX computes what the detector does, in ONNX Runtime and in OpenVINO where that is installed."""

import pytest
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.cli.main import main
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import save_pretrained

pytestmark = pytest.mark.slow
pytest.importorskip("jax2onnx", reason="writes ONNX")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="runs ONNX")


@pytest.mark.parametrize("options", [["--end-to-end"], ["--end-to-end", "--batch-size", "any"], ["--batch-size", "3"]])
def test_it_agrees_with_the_detector(tmp_path, capsys, options):
    save_pretrained(tmp_path / "tiny", tiny_model(), Preprocessing(HEIGHT, WIDTH))
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "tiny"), str(out), "--to", "onnx", *options]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    assert "ONNX Runtime: 20 of the 20 best found" in capsys.readouterr().out


def test_inputs_and_outputs_have_their_names_and_shapes(tmp_path):
    save_pretrained(tmp_path / "tiny", tiny_model(), Preprocessing(HEIGHT, WIDTH))
    assert main(["export", str(tmp_path / "tiny"), str(tmp_path / "out"), "--to", "onnx", "--end-to-end"]) == 0
    model = onnx.load(tmp_path / "out" / "model.onnx")
    shapes = {
        each.name: [side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "images": [1, HEIGHT, WIDTH, 3],
        "sizes": [1, 2],
        "boxes": [1, 20, 4],
        "scores": [1, 20],
        "labels": [1, 20],
    }
    assert {node.domain for node in model.graph.node} == {""}
