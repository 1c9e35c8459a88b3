"""Models opened from the Hub's layout: whole, in parts, in other types, and damaged in every way."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from reference import MadeWeights, manifest
from safetensors.numpy import load_file, save_file
from tiny import TINY

from dfine_jax.hub_config import to_hub
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights import safetensors_file, sources
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.sources import open_model
from dfine_jax.weights.weight_files import Opened


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, **changes):
    """Other weights: arrays by name with ``__`` for dots; None takes one away."""
    weights = weights_of(folder)
    for name, value in changes.items():
        name = name.replace("__", ".")
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    save_file(weights, folder / "model.safetensors")


def reconfigure(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def split(folder, parts=3):
    """The same weights in several files with an index."""
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: value for name, value in weights.items() if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def message(path, **options):
    with pytest.raises(CheckpointError) as caught:
        list(open_model(path, **options).arrays())
    return str(caught.value)


def test_hub_folder(hub, same_arrays):
    model = open_model(hub.path)
    assert model.config == TINY
    assert model.preprocessing == Preprocessing(64, 96)
    assert model.source == str(hub.path)
    assert model.hub_folder == hub.path
    same_arrays(model.arrays(), hub.arrays)
    same_arrays(model.arrays(), hub.arrays)  # as often as one likes


def test_without_preprocessing_settings_it_is_the_usual(hub):
    (hub.path / "preprocessor_config.json").unlink()
    assert open_model(hub.path).preprocessing == Preprocessing()


def test_a_lone_file_has_its_config_beside_it(hub, same_arrays):
    file = hub.path / "best.safetensors"
    (hub.path / "model.safetensors").rename(file)
    model = open_model(file)
    assert model.hub_folder is None
    same_arrays(model.arrays(), hub.arrays)


@pytest.mark.parametrize("by_index", [False, True])
def test_weights_in_parts(hub, same_arrays, by_index):
    split(hub.path)
    same_arrays(open_model(hub.path / "model.safetensors.index.json" if by_index else hub.path).arrays(), hub.arrays)


def test_files_are_opened_anew_without_losing_the_place(hub, same_arrays, monkeypatch):
    monkeypatch.setattr(safetensors_file, "REOPEN_AFTER", 100)
    split(hub.path)
    same_arrays(open_model(hub.path).arrays(), hub.arrays)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=str)
def test_other_types_become_float32(hub, same_arrays, dtype):
    weights = weights_of(hub.path)
    save_file(
        {name: value.astype(dtype) if value.dtype == np.float32 else value for name, value in weights.items()},
        hub.path / "model.safetensors",
    )
    rounded = {name: value.astype(dtype).astype(np.float32) for name, value in hub.arrays.items()}
    same_arrays(open_model(hub.path).arrays(), rounded)


def test_quantised_weights_are_refused(hub):
    rewrite(hub.path, model__decoder__layers__0__fc1__bias=np.zeros(24, np.int8))
    assert "model.decoder.layers.0.fc1.bias holds int8, expected floating-point numbers" in message(hub.path)


@pytest.mark.parametrize("count", [1, 7, 90])
def test_any_number_of_classes(hub, count):
    width = TINY.decoder.width
    heads = [f"model.decoder.class_embed.{i}" for i in range(2)] + ["model.enc_score_head"]
    changes = {f"{head}.weight": np.ones((count, width), np.float32) for head in heads}
    changes |= {f"{head}.bias": np.ones(count, np.float32) for head in heads}
    changes["model.denoising_class_embed.weight"] = np.ones((count + 1, width), np.float32)
    rewrite(hub.path, **{name.replace(".", "__"): value for name, value in changes.items()})
    reconfigure(hub.path, id2label={str(i): f"kind {i}" for i in range(count)})
    model = open_model(hub.path)
    assert model.config.class_names == tuple(f"kind {i}" for i in range(count))
    assert dict(model.arrays())["decoder.encoder_score.kernel"].shape == (width, count)


def test_given_class_names_replace_those_of_the_model(hub):
    assert open_model(hub.path, class_names=list("abcde")).config.class_names == tuple("abcde")
    assert message(hub.path, class_names=["a"]) == f"{hub.path} has 5 classes, but 1 names were given"


def test_everything_that_does_not_fit_is_in_one_report(hub):
    rewrite(
        hub.path,
        model__decoder__up=None,
        model__head=np.ones(2, np.float32),
        model__enc_output__1__bias=np.ones(3, np.float32),
    )
    assert message(hub.path, source="my/model").splitlines() == [
        "my/model does not fit the model: 1 tensors missing, 1 unexpected, 1 of the wrong shape",
        "  missing: model.decoder.up",
        "  unexpected: model.head",
        "  wrong shape: model.enc_output.1.bias is [3], the model needs [16]",
    ]


def test_layers_past_eval_idx_are_ignored_by_name(hub, same_arrays):
    weights = weights_of(hub.path)
    for name, value in list(weights.items()):
        for group in ("layers", "class_embed", "bbox_embed", "lqe_layers"):
            if name.startswith(f"model.decoder.{group}.1."):
                weights[name.replace(f".{group}.1.", f".{group}.2.")] = value
    save_file(weights, hub.path / "model.safetensors")
    assert "unexpected: model.decoder.layers.2.fc1.bias" in message(hub.path)
    reconfigure(hub.path, decoder_layers=3, eval_idx=1)
    same_arrays(open_model(hub.path).arrays(), hub.arrays)


def test_the_size_that_the_weights_look_like_is_named(hub, monkeypatch):
    made = MadeWeights(manifest("huggingface", "s"), 0, 4.0)
    monkeypatch.setattr(sources, "open_weights", lambda files, dialects: Opened(made))
    large = replace(TINY.large(), class_names=TINY.class_names)
    (hub.path / "config.json").write_text(json.dumps(to_hub(large)))
    assert "the weights look like size s, the configuration is that of size l\n" in message(hub.path)


def test_weights_of_something_else(hub):
    save_file(
        {f"bert.{part}": np.ones(2, np.float32) for part in ("encoder", "decoder")}, hub.path / "model.safetensors"
    )
    assert message(hub.path).endswith(
        "holds no weights of D-FINE: no rule knows any of its tensors (bert.decoder, bert.encoder; "
        "2 of 2 begin with 'bert')"
    )


def test_weights_of_nothing(hub):
    save_file({}, hub.path / "model.safetensors")
    assert "holds no weights of D-FINE" in message(hub.path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda data: data[: len(data) // 2], "is cut short, damaged, or no safetensors file"),
        (lambda data: data[:5], "is cut short, damaged, or no safetensors file"),
        (lambda data: b"", "is empty"),
        (lambda data: b"<html>not found</html>", "is cut short, damaged, or no safetensors file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
    ],
    ids=["half", "five bytes", "empty", "foreign", "lfs"],
)
def test_damaged_weights(hub, content, words):
    file = hub.path / "model.safetensors"
    file.write_bytes(content(file.read_bytes()))
    text = message(hub.path)
    assert text.startswith(f"{file} {words}")
    assert "\n" not in text


def test_missing_weights(hub):
    file = hub.path / "model.safetensors"
    file.unlink()
    assert message(hub.path) == f"{hub.path} holds no weights: expected model.safetensors"


def test_parts_that_are_missing_or_damaged(hub):
    split(hub.path)
    index = hub.path / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["model.more"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(listed))
    assert message(hub.path) == f"{index} lists tensors that are in none of its files: model.more"
    (hub.path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: there is no such file" in message(hub.path)
    for text in ("{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        assert 'expected a JSON object with a "weight_map"' in message(hub.path)
    for text in ("[]", "{"):
        index.write_text(text)
        assert f"{index}" in message(hub.path)


def test_one_tensor_in_two_parts(hub):
    split(hub.path, parts=2)
    first, second = (load_file(hub.path / f"model-0000{i}-of-00002.safetensors") for i in (1, 2))
    name = next(iter(first))
    save_file({**second, name: first[name]}, hub.path / "model-00002-of-00002.safetensors")
    assert message(hub.path).startswith(f"{name} is both in ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "can't be read as JSON"),
        ("[1]", "expected a JSON object"),
        ('{"model_type": "bert"}', 'model_type = "bert"'),
    ],
)
def test_bad_config(hub, text, words):
    (hub.path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        open_model(hub.path)


def test_paths_that_are_no_model(hub, tmp_path):
    assert message(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: there is no such file or folder"
    (hub.path / "config.json").unlink()
    assert message(hub.path) == (
        f"{hub.path} has the shapes of no published size: say which to take it for (n, s, m, l, x), "
        "or put its config.json beside it"
    )
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert message(text) == f"{text}: expected a folder, a .safetensors file or a .pth"


def test_a_size_is_for_pth_files_only(hub):
    assert "a size can be given for a .pth only" in message(hub.path, size="n")
