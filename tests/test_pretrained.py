"""Names of models, and models loaded by them."""

from collections import Counter

import numpy as np
import pytest
from tiny import TINY, tiny_model

from dfine_jax import pretrained
from dfine_jax.model.dfine import variables
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import SHORT_NAMES, load_pretrained, open_pretrained, save_pretrained
from dfine_jax.published import PUBLISHED
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.hub_layout import save_hub_folder


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "tiny"
    model = tiny_model()
    params, batch_stats = variables(model)
    save_hub_folder(path, model.config, Preprocessing(64, 96), {**params, **batch_stats}.items())
    return path


@pytest.fixture
def downloads(monkeypatch, hub_folder):
    """Every download gives the tiny model; the calls are noted."""
    calls = []

    def download(repo, *, revision, token):
        calls.append((repo, revision, token))
        return hub_folder

    monkeypatch.setattr(pretrained, "download", download)
    return calls


def assert_same_weights(model, expected):
    ours, theirs = variables(model), variables(expected)
    for found, wanted in zip(ours, theirs, strict=True):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_hub_folder(hub_folder):
    loaded = load_pretrained(hub_folder)
    assert loaded.config == loaded.model.config == TINY
    assert loaded.preprocessing == Preprocessing(64, 96)
    assert loaded.source == str(hub_folder)
    assert_same_weights(loaded.model, tiny_model())


def test_saved_and_loaded_again(tmp_path):
    save_pretrained(tmp_path / "mine", tiny_model(), Preprocessing(32, 64))
    loaded = load_pretrained(str(tmp_path / "mine"), class_names=list("vwxyz"))
    assert loaded.preprocessing == Preprocessing(32, 64)
    assert loaded.config.class_names == tuple("vwxyz")
    assert_same_weights(loaded.model, tiny_model())
    with pytest.raises(CheckpointError, match="exists"):
        save_pretrained(tmp_path / "mine", tiny_model())
    save_pretrained(tmp_path / "mine", tiny_model(seed=1), replace=True)
    assert_same_weights(load_pretrained(tmp_path / "mine").model, tiny_model(seed=1))


def test_compute_type_is_the_models(hub_folder):
    loaded = load_pretrained(hub_folder, compute=Compute.named("bfloat16"))
    assert loaded.model.decoder.class_heads[1].compute == Compute.named("bfloat16")
    assert variables(loaded.model)[0]["decoder.denoising_embed"].dtype == "float32"


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("nano-coco", "ustc-community/dfine-nano-coco"),
        ("large-obj2coco", "ustc-community/dfine-large-obj2coco-e25"),
        ("dfine_x_coco", "ustc-community/dfine-xlarge-coco"),
        ("dfine_n_coco", "ustc-community/dfine-nano-coco"),
        ("dfine_l_obj2coco_e25", "ustc-community/dfine-large-obj2coco-e25"),
        ("dfine-small-obj365", "ustc-community/dfine-small-obj365"),
        ("somebody/blood-cells", "somebody/blood-cells"),
    ],
)
def test_names_on_the_hub(downloads, name, repo):
    model = open_pretrained(name, revision="main", token="secret")
    assert downloads == [(repo, "main", "secret")]
    assert model.source == repo


def test_every_published_model_has_a_short_name():
    counts = {"D-FINE": 5 + 4 + 4, "DEIM": 5, "RT-DETRv4": 4}
    assert Counter(model.family for model in PUBLISHED.values()) == counts
    for name, model in PUBLISHED.items():
        assert SHORT_NAMES[name] == model.repo
        assert model.licence == "Apache-2.0"
        if model.family == "D-FINE":
            assert model.repo.startswith(f"ustc-community/dfine-{name}")
        assert (model.ap is None) == name.endswith("obj365")
    assert PUBLISHED["deim-large-coco"][:5] == ("LibreYOLO/LibreDEIMl", "DEIM", "l", "COCO", 54.7)
    assert PUBLISHED["rtdetrv4-small-coco"][:5] == ("LibreYOLO/LibreRTDETRv4s", "RT-DETRv4", "s", "COCO", 49.8)


def test_a_short_name_may_stand_for_a_folder(monkeypatch, hub_folder):
    monkeypatch.setitem(SHORT_NAMES, "tiny", str(hub_folder))
    assert load_pretrained("tiny").source == "tiny"


def test_a_path_comes_before_a_name(downloads, hub_folder, monkeypatch, tmp_path):
    (tmp_path / "nano-coco").symlink_to(hub_folder)
    monkeypatch.chdir(tmp_path)
    assert open_pretrained("nano-coco").source == "nano-coco"
    assert downloads == []


@pytest.mark.parametrize(
    "name", ["nanno-coco", "models/best.pth", "./nothing", "nothing", "", "a/b/c", "x.safetensors"]
)
def test_unknown_names(downloads, name):
    with pytest.raises(CheckpointError, match=r"^no model ") as caught:
        load_pretrained(name)
    text = str(caught.value)
    assert repr(name) in text
    assert "\n" not in text
    assert all(known in text for known in SHORT_NAMES)
    assert downloads == []


def test_close_names_come_first(downloads):
    with pytest.raises(CheckpointError, match="give one of medium-obj365, "):
        load_pretrained("medium-obj356")
    with pytest.raises(CheckpointError, match="give one of xlarge-coco, "):
        load_pretrained("dfine_x_cocco")


@pytest.fixture
def home(hub_folder, tmp_path, monkeypatch):
    """A home, which is the current folder too, with models of odd names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["my_model", "my_model/", "~/my_model", "./my_model/.", "a [/b] c", "b\udcff", "nano_coco"]
)
def test_a_path_is_taken_as_it_is(home, hub_folder, downloads, name):
    (home / "a [").mkdir()
    for folder in ("my_model", "a [/b] c", "b\udcff", "nano_coco"):
        (home / folder).symlink_to(hub_folder)
    assert open_pretrained(name).config == TINY
    assert downloads == []


@pytest.mark.parametrize("name", ["~nobody-at-all/model", "a\0b", "a" * 5000, "a/" * 3000, "/dev/null/x"])
def test_paths_that_can_not_be(home, downloads, name):
    with pytest.raises(CheckpointError, match=r"^no model ") as caught:
        open_pretrained(name)
    assert len(str(caught.value)) < 700


def test_a_path_that_may_not_be_looked_at(home, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pretrained.os, "lstat", refuse)
    with pytest.raises(CheckpointError, match=r"^private can't be looked at \(Permission denied\)"):
        open_pretrained("private")


def test_what_is_assumed_is_a_warning_and_kept(hub_folder, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((hub_folder / file).read_bytes())
    with pytest.warns(UserWarning, match="640x640 is assumed"):
        loaded = load_pretrained(tmp_path)
    assert len(loaded.remarks) == 1
