"""Weights by other names: prefixes, variants, indices, and everything that only looks like weights."""

import gzip
import json

import numpy as np
import pytest
from reference import MadeWeights, manifest
from safetensors.numpy import load_file, save_file
from tiny import TINY

from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights import sources
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.names import is_average, recognise
from dfine_jax.weights.rules import BACKBONES, HUB, ORIGINAL, is_ignored
from dfine_jax.weights.sources import open_model
from dfine_jax.weights.weight_files import Opened, weights_in

PREFIXES = ["_orig_mod.", "module.", "model.", "ema.", "student.", "net.", "module._orig_mod.model.", "a.b.c."]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, weights, name="model.safetensors"):
    (folder / "model.safetensors").unlink(missing_ok=True)
    save_file(weights, folder / name)


def message(path, **options):
    with pytest.raises(CheckpointError) as caught:
        list(open_model(path, **options).arrays())
    return str(caught.value)


def of_shapes(shapes):
    return MadeWeights(shapes, seed=0, reg_scale=4.0)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_all_names_begin_with_is_taken_off(hub, same_arrays, prefix):
    rewrite(hub.path, {prefix + name: value for name, value in weights_of(hub.path).items()})
    model = open_model(hub.path)
    same_arrays(model.arrays(), hub.arrays)
    (note,) = model.notes
    assert all(part in note for part in prefix.split("."))
    assert model.hub_folder is None  # transformers would not know these names


@pytest.mark.parametrize(("dialect", "kind"), [(HUB, "huggingface"), (ORIGINAL, "original")], ids=["hub", "pth"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_both_dialects_are_told_apart_behind_a_prefix(dialect, kind, prefix):
    shapes = manifest(kind, "n")
    read = recognise(of_shapes({prefix + name: shape for name, shape in shapes.items()}), (HUB, ORIGINAL), "it")
    assert read.dialect is dialect
    assert read.tensors.shapes == shapes
    assert read.left_out == ()


def test_wrappers_within_names_are_taken_off(hub, same_arrays):
    weights = weights_of(hub.path)
    wrapped = {name.replace("model.backbone.", "model.backbone.module.", 1): value for name, value in weights.items()}
    rewrite(hub.path, wrapped)
    same_arrays(open_model(hub.path).arrays(), hub.arrays)


def test_of_two_copies_the_average_is_taken(hub, same_arrays):
    weights = weights_of(hub.path)
    other = {f"net.{name}": np.array(value + 1) for name, value in weights.items()}
    rewrite(hub.path, {**other, **{f"ema_model.{name}": value for name, value in weights.items()}})
    model = open_model(hub.path)
    same_arrays(model.arrays(), hub.arrays)
    (remark,) = model.remarks
    assert remark.startswith("left out, because their names don't begin with ema_model.: net.")
    left = [name for name in weights if not is_ignored(HUB, f"net.{name}")]
    assert remark.endswith(f" and {len(left) - sources.MOST_NAMED} more")


@pytest.mark.parametrize("copies", [("student.", "teacher."), ("ema.", ""), ("swa.", "model.")])
def test_which_copy_is_taken(copies):
    shapes = {prefix + name: shape for prefix in copies[::-1] for name, shape in manifest("original", "n").items()}
    assert recognise(of_shapes(shapes), (HUB, ORIGINAL), "it").taken_off == copies[0]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_numbers_of_an_average_are_left_out_and_said(prefix):
    shapes = {prefix + name: shape for name, shape in manifest("original", "n").items()}
    assert recognise(of_shapes({**shapes, "n_averaged": ()}), (ORIGINAL,), "it").left_out == ("n_averaged",)


def test_what_begins_otherwise_is_left_out_and_said(hub, same_arrays):
    weights = {f"net.{name}": value for name, value in weights_of(hub.path).items()}
    rewrite(hub.path, {**weights, "criterion.weight": np.ones(3, np.float32)})
    model = open_model(hub.path)
    same_arrays(model.arrays(), hub.arrays)
    assert model.remarks == ("left out, because their names don't begin with net.: criterion.weight",)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_measuring_the_cost_of_a_model_left_in_it_is_passed_over(hub, same_arrays, prefix):
    weights = weights_of(hub.path)
    modules = {"", *(f"{name.rpartition('.')[0]}." for name in weights)}
    counts = {f"{module}total_{what}": np.zeros(1, np.float64) for module in modules for what in ("ops", "params")}
    rewrite(hub.path, {prefix + name: value for name, value in {**weights, **counts}.items()})
    model = open_model(hub.path)
    same_arrays(model.arrays(), hub.arrays)
    assert model.remarks == ()


def test_without_a_prefix_nothing_is_left_out(hub):
    rewrite(hub.path, {**weights_of(hub.path), "criterion.weight": np.ones(3, np.float32)})
    assert "  unexpected: criterion.weight" in message(hub.path)


def test_a_misfit_behind_a_prefix_says_what_was_taken_off(hub):
    weights = {f"module.net.{name}": value for name, value in weights_of(hub.path).items()}
    del weights["module.net.model.decoder.up"]
    rewrite(hub.path, weights)
    lines = message(hub.path).splitlines()
    assert lines[1:] == ["  module., net. is taken off its names", "  missing: model.decoder.up"]


def test_names_that_no_rule_knows_are_described(hub):
    rewrite(hub.path, {f"detr.layer{i}.weight": np.ones(1, np.float32) for i in range(5)})
    assert "(detr.layer0.weight, detr.layer1.weight, detr.layer2.weight, ...; 5 of 5 begin with 'detr')" in message(
        hub.path
    )


def test_the_backbone_of_a_whole_detector():
    shapes = manifest("original", "n")
    read = recognise(of_shapes(shapes), BACKBONES, "it")
    assert read.taken_off == "backbone."
    assert read.tensors.shapes["stem.stem1.conv.weight"] == shapes["backbone.stem.stem1.conv.weight"]


@pytest.mark.parametrize("name", ["ema", "model_ema", "ema_state_dict", "params_ema.module", "ModelEMA", "swa_model"])
def test_names_of_averages(name):
    assert is_average(name)
    assert not is_average("semantic.schema.model")


@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "model.bf16.safetensors", "pytorch_model.safetensors", "best.safetensors"],
)
def test_a_lone_file_by_another_name_is_the_weights(hub, same_arrays, name):
    weights = weights_of(hub.path)
    rewrite(hub.path, weights, name)
    for beside in ("optimizer.pt", "training_args.bin", "README.md"):
        (hub.path / beside).touch()
    model = open_model(hub.path)
    same_arrays(model.arrays(), hub.arrays)
    assert model.notes == (f"weights of Hugging Face transformers in {name}",)
    assert model.hub_folder is None


def test_the_usual_name_comes_before_others(hub, same_arrays):
    for other in ("model.fp16.safetensors", "best.safetensors", "pytorch_model.bin"):
        (hub.path / other).write_bytes(b"anything")
    same_arrays(open_model(hub.path).arrays(), hub.arrays)


def test_of_several_the_one_that_is_meant_has_to_be_given(hub, same_arrays):
    weights = weights_of(hub.path)
    for name in ("model.a.safetensors", "model.b.safetensors"):
        rewrite(hub.path, weights, name)
    assert "several weights (model.a.safetensors, model.b.safetensors): give the file that is meant" in message(
        hub.path
    )
    same_arrays(open_model(hub.path / "model.b.safetensors").arrays(), hub.arrays)


def test_an_index_of_a_variant(hub, same_arrays):
    weights = weights_of(hub.path)
    rewrite(hub.path, weights, "model.fp16-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model.fp16-00001-of-00001.safetensors")}
    (hub.path / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    same_arrays(open_model(hub.path).arrays(), hub.arrays)


@pytest.mark.parametrize(
    "part", ["../other/model.safetensors", "/etc/passwd", "a/../../b.safetensors", r"..\b.safetensors", r"C:\b", ""]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(hub, part):
    (hub.path / "model.safetensors").unlink()
    index = hub.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": part}}))
    assert message(hub.path) == f"{index} lists {part!r}, which is outside its folder: it is not read"


def test_an_index_of_nothing(hub):
    (hub.path / "model.safetensors").unlink()
    (hub.path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert message(hub.path).endswith("lists no files")


def test_what_is_there_instead_is_said(hub):
    (hub.path / "model.safetensors").unlink()
    (hub.path / "model.onnx").touch()
    (hub.path / "tf_model.h5").touch()
    expected = f"{hub.path} holds no weights: expected model.safetensors; there is model.onnx, tf_model.h5"
    assert message(hub.path) == expected
    assert message(hub.path.parent).endswith("there is a model in tiny/")


@pytest.mark.parametrize(
    "name", ["best.pth", "best.ckpt", "best.pth.tar", "pytorch_model.bin", "pytorch_model.fp16.bin"]
)
def test_pytorchs_files_are_found_too(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "optimizer.pt").touch()
    assert weights_in(tmp_path).name == name


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (gzip.compress(b"x", mtime=0), "a.pth.tar.gz", "is compressed with gzip: unpack it with gunzip"),
        (gzip.compress(b"x", mtime=0), "a.pth", "is compressed with gzip: unpack it with gunzip"),
        (b"BZh9", "a.bz2", "is compressed with bzip2"),
        (b"\xfd7zXZ\x00", "a.xz", "is compressed with xz"),
        (b"\x28\xb5\x2f\xfd", "a.zst", "is compressed with zstd"),
        (b"\x89HDF\r\n\x1a\n", "a.h5", "is an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "a.npy", "is a NumPy array"),
        (b"a" * 257 + b"ustar" + b"0" * 100, "a.tar", "is a tar archive: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1", "a.pth", "is a pointer of Git LFS"),
        (b"", "a.pth", "is empty"),
        (b"hello", "a.ckpt", "is cut short, damaged, or no PyTorch checkpoint (it begins with b'hello')"),
        (b"hello", "a.txt", ": expected a folder, a .safetensors file or a .pth"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, name, words):
    (tmp_path / name).write_bytes(content)
    assert message(tmp_path / name).startswith(f"{tmp_path / name} {words}".replace(" :", ":"))


def test_safetensors_are_told_by_content(hub, same_arrays):
    (hub.path / "model.safetensors").rename(hub.path / "weights.of.mine")
    same_arrays(open_model(hub.path / "weights.of.mine", size=None).arrays(), hub.arrays)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_settings_in_any_encoding(hub, encoding, name):
    file = hub.path / name
    file.write_bytes(file.read_text().encode(encoding))
    model = open_model(hub.path)
    assert (model.config, model.preprocessing) == (TINY, Preprocessing(64, 96))


def test_what_is_assumed_is_said(hub):
    assert open_model(hub.path).remarks == ()
    (hub.path / "preprocessor_config.json").unlink()
    (remark,) = open_model(hub.path).remarks
    assert remark.startswith(f"there is no {hub.path}/preprocessor_config.json: 640x640 is assumed")


def test_numbers_of_classes_that_disagree_are_said(hub, same_arrays):
    path = hub.path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_labels": 80}))
    model = open_model(hub.path)
    assert model.config.class_names == TINY.class_names
    assert model.remarks == ("config.json: num_labels = 80, but id2label names 5; 5 classes are taken",)
    same_arrays(model.arrays(), hub.arrays)


@pytest.mark.parametrize("kind", ["huggingface", "original"])
def test_without_config_json_the_shapes_tell(tmp_path, monkeypatch, kind):
    made = of_shapes(manifest(kind, "s"))
    monkeypatch.setattr(sources, "open_weights", lambda files, dialects: Opened(made))
    (tmp_path / "model.safetensors").touch()
    model = open_model(tmp_path, family="dfine")
    assert model.config.encoder == TINY.small().encoder
    told = "there is no config.json: size s is told from the weights' shapes"
    assert (told in model.remarks) == (kind == "huggingface")
