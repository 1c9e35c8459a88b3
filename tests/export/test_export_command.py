"""What ``dfine export`` and ``dfine verify`` refuse, and how differences are judged."""

import json

import numpy as np
import pytest

from dfine_jax.cli.main import main
from dfine_jax.errors import InputError
from dfine_jax.export import artefact, onnx_file, stablehlo
from dfine_jax.export.exportable import Port
from dfine_jax.export.manifest import Manifest
from dfine_jax.export.verification import BOX, SCORE, compare, outputs_of
from dfine_jax.inference.postprocess import TopDetections
from dfine_jax.preprocessing import Preprocessing

MANIFEST = Manifest(
    kind="onnx",
    file="model.onnx",
    weights=None,
    model="shapes",
    end_to_end=False,
    batch_size=None,
    dtype="float32",
    inputs=(Port("images", (64, 96, 3), "float32", "RGB"),),
    outputs=(Port("logits", (20, 5), "float32", "of classes"),),
    classes=("ant", "größer"),
    preprocessing=Preprocessing(64, 96),
    versions={"jax": "1"},
    readable="for long",
)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_manifest_is_read_as_it_was_written(tmp_path, batch_size):
    written = Manifest(**{**vars(MANIFEST), "batch_size": batch_size})
    written.save(tmp_path)
    assert Manifest.read(tmp_path) == written
    shape = json.loads((tmp_path / "manifest.json").read_text("utf-8"))["inputs"][0]["shape"]
    assert shape == [batch_size or "batch", 64, 96, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "is not the manifest of an exported model"),
        ({"version": 9}, "is of another version"),
        ({"kind": "tflite"}, "is damaged"),
        ({"file": "../model.onnx"}, "is damaged"),
        ({"inputs": [1]}, "is damaged"),
        ({"batch_size": "many"}, "is damaged"),
        ({"preprocessing": {"do_resize": False}}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path, changes, message):
    MANIFEST.save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    with pytest.raises(InputError, match=message) as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "some"], "batch size 'some': give a whole number, or any"),
        (["--batch-size", "0"], "batch size 0: give 1 to 4,096, or any"),
        (["--batch-size", "5000"], "batch size 5000: give 1 to 4,096, or any"),
        (["--size", "640"], "give HEIGHTxWIDTH"),
        (["--size", "100x64"], "both must be divisible by 32"),
        (["--dtype", "float16"], "--to stablehlo takes float32 or bfloat16"),
        (["--to", "onnx", "--dtype", "bfloat16"], "ONNX is written in float32"),
        (["--to", "onnx", "--weights", "beside"], "are for --to stablehlo"),
        (["--to", "hub", "--dtype", "bfloat16"], "--to hub stores float32, or float16"),
        (["--to", "hub", "--end-to-end"], "--end-to-end says nothing about --to hub"),
        (["--to", "hub", "--batch-size", "any"], "--batch-size says nothing about --to hub"),
    ],
)
def test_options_that_can_not_be_met_are_one_line(tmp_path, capsys, monkeypatch, options, message):
    for module in (onnx_file, stablehlo):
        monkeypatch.setattr(module, "find_spec", lambda name: True)
    assert main(["export", "shapes", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("onnx", "python -m pip install 'dfine-jax[onnx]'"), ("stablehlo", "python -m pip install flatbuffers")],
)
def test_what_is_missing_is_said_with_how_to_install_it(kind, advice, tmp_path, capsys, monkeypatch):
    for module in (onnx_file, stablehlo):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert main(["export", "shapes", str(tmp_path / "out"), "--to", kind]) == 2
    error = capsys.readouterr().err
    assert advice in error
    assert len(error.strip().splitlines()) == 1


def test_nothing_that_is_there_is_replaced_unasked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(artefact, "check_options", lambda *args, **options: None)
    MANIFEST.save(tmp_path)
    assert main(["export", "shapes", str(tmp_path)]) == 2
    assert "replace it with --force" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", "shapes", str(tmp_path), "--force"]) == 2
    assert "holds what is no part of a model (notes.txt)" in capsys.readouterr().err


def test_a_model_for_transformers_comes_from_the_converter(tmp_path, capsys):
    out = tmp_path / "hub"
    assert main(["export", "shapes", str(out), "--to", "hub"]) == 0
    assert json.loads((out / "config.json").read_text("utf-8"))["model_type"] == "d_fine"
    assert "for transformers" in capsys.readouterr().out


def test_only_an_exported_model_is_verified(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "give a folder made by dfine export" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no program at all"])
def test_a_damaged_program_is_one_line(tmp_path, content, monkeypatch):
    monkeypatch.setattr(stablehlo, "require_flatbuffers", lambda: None)
    manifest = Manifest(**{**vars(MANIFEST), "kind": "stablehlo", "file": "model.stablehlo"})
    if content is not None:
        (tmp_path / "model.stablehlo").write_bytes(content)
    with pytest.raises(InputError, match="can't be run") as caught:
        outputs_of(tmp_path, manifest, {"images": np.zeros((1, 64, 96, 3), np.float32)})
    assert "\n" not in str(caught.value)


def best(boxes, labels, scores) -> TopDetections:
    return TopDetections(
        np.asarray(scores, np.float32), np.asarray(labels, np.int32), np.asarray(boxes, np.float32).reshape(-1, 4)
    )


def test_ranks_do_not_count_but_labels_boxes_and_scores_do():
    rng = np.random.default_rng(0)
    boxes, labels, scores = rng.uniform(0, 600, (60, 4)), rng.integers(0, 5, 60), np.sort(rng.random(60))[::-1]
    reference = best(boxes, labels, scores)
    order = np.roll(np.arange(60), 1)
    same = compare(reference, best(boxes[order], labels[order], scores[order]), "here", BOX, SCORE)
    assert same.small
    assert (same.compared, same.found, same.boxes, same.scores) == (50, 50, 0, 0)
    moved = boxes + np.where(np.arange(60) == 7, 0.02, 0)[:, None]
    assert not compare(reference, best(moved, labels, scores), "here", BOX, SCORE).small
    assert not compare(reference, best(boxes, labels, scores - 2e-5), "here", BOX, SCORE).small
    other = compare(reference, best(boxes, np.where(np.arange(60) == 3, 9, labels), scores), "here", BOX, SCORE)
    assert other.found == 49
    assert not other.small
    nothing = compare(reference, best(boxes * np.nan, labels, scores), "here", BOX, SCORE)
    assert nothing.found == 0
    assert not nothing.small
