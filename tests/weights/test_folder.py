"""The converted folder: written whole or not at all, read back to the bit."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, tiny_config, tiny_model

from dfine_jax.model.dfine import variables
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights import orbax_stream
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.folder import open_folder, save_folder
from dfine_jax.weights.sources import open_model

SETTINGS = Preprocessing(64, 96, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))


@pytest.fixture(scope="module")
def stored(tmp_path_factory, stored_hub):
    path = tmp_path_factory.mktemp("converted") / "tiny"
    save_folder(path, TINY, SETTINGS, stored_hub.arrays.items(), source="here")
    return path


@pytest.fixture
def copy(stored, tmp_path):
    return Path(shutil.copytree(stored, tmp_path / "tiny"))


def test_there_and_back_to_the_bit(stored, stored_hub, same_arrays, monkeypatch):
    model = open_model(stored)
    assert (model.config, model.preprocessing, model.source) == (TINY, SETTINGS, str(stored))
    same_arrays(model.arrays(), stored_hub.arrays)
    monkeypatch.setattr(orbax_stream, "READ_BYTES", 20_000)
    same_arrays(model.arrays(), stored_hub.arrays)


@pytest.mark.parametrize("name", ["a [1]", "what?", "*", "b\udcff", "größe", "[/x]", "a b"])
def test_any_name_of_a_folder_will_do(tmp_path, stored_hub, same_arrays, name):
    save_folder(tmp_path / name / "tiny", TINY, SETTINGS, stored_hub.arrays.items())
    same_arrays(open_folder(tmp_path / name / "tiny").arrays(), stored_hub.arrays)


def test_written_in_many_batches_it_is_the_same(tmp_path, stored_hub, same_arrays, monkeypatch):
    monkeypatch.setattr(orbax_stream, "WRITE_BYTES", 20_000)
    save_folder(tmp_path / "tiny", TINY, SETTINGS, stored_hub.arrays.items())
    same_arrays(open_folder(tmp_path / "tiny").arrays(), stored_hub.arrays)


def test_config_says_what_the_hub_can_not(tmp_path):
    config = tiny_config(layers=3, eval_layer=0, layer_scale=2.0)
    params, batch_stats = variables(tiny_model(config))
    arrays = {name: np.asarray(value) for name, value in {**params, **batch_stats}.items()}
    save_folder(tmp_path / "wide", config, Preprocessing(), arrays.items())
    assert open_folder(tmp_path / "wide").config == config


def test_class_names_are_in_config_json(stored):
    about = json.loads((stored / "config.json").read_text())
    assert about["model"]["class_names"] == list(TINY.class_names)
    assert (about["format"], about["version"], about["source"]) == ("dfine-jax", 1, "here")


def test_any_orbax_reads_the_weights(stored, stored_hub):
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointer().restore(stored / "weights")
    np.testing.assert_array_equal(
        tree["params"]["decoder.denoising_embed"], stored_hub.arrays["decoder.denoising_embed"]
    )
    np.testing.assert_array_equal(tree["batch_stats"]["decoder.up"], [0.5])


def test_an_existing_folder_is_kept(copy, stored_hub, same_arrays):
    with pytest.raises(CheckpointError, match="exists: choose another name, or replace it with --force"):
        save_folder(copy, TINY, SETTINGS, iter(()))
    same_arrays(open_folder(copy).arrays(), stored_hub.arrays)


def test_an_existing_folder_is_replaced_on_demand(copy, stored_hub):
    save_folder(copy, TINY, Preprocessing(32, 32), stored_hub.arrays.items(), replace=True)
    assert open_folder(copy).preprocessing == Preprocessing(32, 32)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_what_is_no_model_is_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(CheckpointError, match="is not a model's folder"):
        save_folder(tmp_path / "thesis", TINY, SETTINGS, iter(()), replace=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def broken(arrays, error):
    """The first half of a stream, then an error."""
    names = sorted(arrays)
    for name in names[: len(names) // 2]:
        yield name, arrays[name]
    raise error


@pytest.mark.parametrize("error", [CheckpointError("unreadable"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_run_that_fails_leaves_nothing(tmp_path, stored_hub, error):
    with pytest.raises(type(error)):
        save_folder(tmp_path / "out", TINY, SETTINGS, broken(stored_hub.arrays, error))
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_that_fails_leaves_the_old_one(copy, stored_hub, same_arrays):
    with pytest.raises(OSError, match="disk full"):
        save_folder(copy, TINY, SETTINGS, broken(stored_hub.arrays, OSError("disk full")), replace=True)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    same_arrays(open_folder(copy).arrays(), stored_hub.arrays)


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen", "twice"])
def test_arrays_must_be_the_models(tmp_path, stored_hub, change):
    arrays = list(stored_hub.arrays.items())
    name, value = arrays[-1]
    arrays = {
        "missing": arrays[:-1],
        "extra": [*arrays, ("decoder.more", value)],
        "misshapen": [*arrays[:-1], (name, value[..., None])],
        "twice": [*arrays, (name, value)],
    }[change]
    with pytest.raises(ValueError, match="decoder.more" if change == "extra" else name):
        save_folder(tmp_path / "out", TINY, SETTINGS, arrays)
    assert list(tmp_path.iterdir()) == []


def test_another_version_is_refused(copy):
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**about, "version": 2}))
    with pytest.raises(CheckpointError, match="format version 2, this release reads 1"):
        open_folder(copy)


@pytest.mark.parametrize("change", [{"encoder": {"size": 3}}, {"decoder": None}, {"more": 1}, {"class_names": []}])
def test_a_config_that_describes_no_model_is_refused(copy, change):
    about = json.loads((copy / "config.json").read_text())
    about["model"].update(change)
    (copy / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match='"model" describes no model'):
        open_folder(copy)


def test_weights_that_do_not_fit_the_config_are_reported_together(copy):
    about = json.loads((copy / "config.json").read_text())
    about["model"]["decoder"].update(layers=3, quality_width=4)
    (copy / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError) as caught:
        open_folder(copy)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{copy}: the weights do not fit config.json"
    assert "  missing: decoder.layers.2.norm1.scale" in lines
    assert "  wrong shape: decoder.quality.0.layers.1.kernel is (8, 1), the model needs (4, 1)" in lines


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def files_of_arrays(folder):
    return sorted((folder / "weights").rglob("d/*"), key=lambda path: path.stat().st_size)


@pytest.fixture
def older(copy):
    """As earlier releases wrote it, without checksums."""
    (copy / "SHA256SUMS").unlink()
    return copy


def damage_of(folder):
    with pytest.raises(CheckpointError) as caught:
        list(open_folder(folder).arrays())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_checksums_is_read(older, stored_hub, same_arrays):
    same_arrays(open_folder(older).arrays(), stored_hub.arrays)


def test_other_tools_can_check_the_sums(stored):
    lines = (stored / "SHA256SUMS").read_text().splitlines()
    files = sorted(path for path in (stored / "weights").rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(stored).as_posix()}" for path in files]
    assert lines == sums


@pytest.mark.parametrize("which", [0, 4, -1], ids=["least", "middle", "largest"])
def test_a_changed_file_of_the_weights_is_named(copy, which):
    file = files_of_arrays(copy)[which]
    flipped(file)
    name = file.relative_to(copy).as_posix()
    assert damage_of(copy).startswith(f"{copy} is damaged ({name} is not what was written: its checksum in SHA256SUMS")


def test_a_missing_file_of_the_weights_is_named(copy):
    file = files_of_arrays(copy)[-1]
    file.unlink()
    assert damage_of(copy) == (
        f"{copy} is damaged ({file.relative_to(copy).as_posix()} is missing): make or copy it again"
    )


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_what_orbax_misses_without_saying_so_is_named(copy, name):
    (copy / "weights" / name).unlink()
    assert damage_of(copy) == f"{copy / 'weights'} is damaged: {name} is missing"


@pytest.mark.parametrize("content", [b"", b"\xff", b"0" * 64 + b"  ../secret\n", b"0" * 64 + b"  weights/_META"])
def test_a_damaged_list_of_sums_is_no_list(copy, content):
    (copy / "SHA256SUMS").write_bytes(content)
    assert damage_of(copy).startswith(f"{copy} is damaged (")


def test_a_list_of_sums_that_is_no_file_is_not_waited_for(copy):
    (copy / "SHA256SUMS").unlink()
    os.mkfifo(copy / "SHA256SUMS")
    assert "SHA256SUMS can't be read: a named pipe, expected a file" in damage_of(copy)


@pytest.mark.parametrize("damage", ["gone", "no metadata", "no data"])
def test_damaged_weights_without_checksums(older, damage):
    weights = older / "weights"
    if damage == "gone":
        shutil.rmtree(weights)
    elif damage == "no metadata":
        (weights / "_METADATA").write_text("{")
    else:
        for file in files_of_arrays(older):
            file.write_bytes(file.read_bytes()[:10])
    said = damage_of(older)
    assert "weights is damaged or no Orbax checkpoint" in said
    assert "NoneType" not in said
