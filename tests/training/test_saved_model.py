"""The best model is there when it is said to be: a training that is gone on with puts it back."""

import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import open_pretrained
from dfine_jax.training.checkpoint import Checkpoints, Standing
from dfine_jax.training.errors import TrainingError, WriteError
from dfine_jax.training.folder import claimed
from dfine_jax.training.mending import Average, mend_model
from dfine_jax.training.saved_model import ModelFolder
from dfine_jax.training.start import fresh

START = fresh(TINY, 0)


def average(step: int) -> Average:
    """A model that differs with the step."""
    params = {**START.params, "decoder.pre_box.layers.0.bias": np.full(16, step, np.float32)}
    return Average(TINY, params, START.batch_stats)


@pytest.fixture
def model(tmp_path) -> ModelFolder:
    folder = ModelFolder(tmp_path / "model", Preprocessing(64, 64), "dfine train on cells, step 3")
    folder.write(*average(12), 12)
    return folder


def test_what_was_written_is_there(model):
    model.require()
    assert model.holds(*average(12))
    assert not model.holds(*average(6))
    assert not model.holds(TINY.with_classes(("ant", "bee", "cat", "dog", "fox")), *average(12)[1:])
    assert model.step() == 12
    assert open_pretrained(model.path).preprocessing.height == 64


def weights(model: ModelFolder) -> list:
    return sorted((path for path in model.path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def cut(model):
    os.truncate(weights(model)[-1], 100)


def emptied(model):
    shutil.rmtree(model.path / "weights")


def without_config(model):
    (model.path / "config.json").unlink()


def gone(model):
    shutil.rmtree(model.path)


def a_file(model):
    gone(model)
    model.path.write_text("mine")


def untouched(model):
    """Leaves the model of another step."""


SLOWLY = [pytest.param(damage, marks=pytest.mark.slow) for damage in (cut, emptied, without_config, a_file)]
"""Orbax takes a second for each folder."""


@pytest.mark.parametrize("damage", [*SLOWLY, gone])
def test_a_damaged_model_is_not_said_to_be_there_and_can_be_replaced(model, damage):
    damage(model)
    assert not model.holds(*average(12))
    assert model.step() is None
    with pytest.raises(TrainingError, match=r"model can't be read \(.*\): --resume writes it again$") as error:
        model.require()
    assert "\n" not in str(error.value)
    model.write(*average(12), 12)
    assert model.holds(*average(12))
    aside = [path for path in model.path.parent.iterdir() if path.name.startswith("model.set_aside.")]
    assert len(aside) == (damage in (without_config, a_file))  # no model's folder: it may be somebody's own


def test_what_somebody_put_beside_the_model_is_kept(model):
    (model.path / "notes.txt").write_text("mine")
    for step in (12, 18):
        model.write(*average(step), step)
    assert model.holds(*average(18))
    (aside,) = model.path.parent.glob("model.set_aside.*")
    assert (aside / "notes.txt").read_text() == "mine"


def test_a_changed_byte_is_noticed(model):
    path = weights(model)[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not model.holds(*average(12))


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    model = ModelFolder(tmp_path / "out/model", Preprocessing(64, 64), "")
    with claimed(tmp_path / "out", resume=False):
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(WriteError, match="out: it was removed or replaced while training"):
            model.write(*average(1), 1)
    assert not (tmp_path / "out").exists()


STATE = {"ema": jnp.zeros(())}


def average_of(state) -> Average:
    return average(int(state["ema"]))


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    """Of the steps 6, which was the best, and 12."""
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        for step in (6, 12):
            checkpoints.save({"ema": jnp.full((), step, jnp.float32)}, Standing(step, 0.5, 6, 0))
    return checkpoints


def mend(model, checkpoints):
    state, standing, _ = checkpoints.restore(STATE)
    return mend_model(model, standing.best_step, state, standing, checkpoints, average_of)


def test_the_best_model_that_is_there_is_left_alone(model, checkpoints):
    model.write(*average(6), 6)
    before = (model.path / "config.json").stat().st_mtime_ns
    assert mend(model, checkpoints) == (Standing(12, 0.5, 6, 0), "")
    assert (model.path / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [*SLOWLY, pytest.param(untouched, marks=pytest.mark.slow), gone])
def test_the_best_model_is_written_again(model, checkpoints, damage):
    damage(model)
    standing, told = mend(model, checkpoints)
    assert standing == Standing(12, 0.5, 6, 0)
    assert told == "the model of step 6 was not there, or damaged: it is written again from its checkpoint"
    assert model.holds(*average(6))
    assert model.step() == 6


def test_a_best_model_whose_checkpoint_is_damaged_is_kept(model, checkpoints):
    model.write(*average(6), 6)
    (checkpoints.folder / "6/SHA256SUMS").unlink()
    assert mend(model, checkpoints) == (Standing(12, 0.5, 6, 0), "")
    assert model.holds(*average(6))


def test_a_best_model_that_is_lost_with_its_checkpoint_is_said(model, checkpoints):
    gone(model)
    shutil.rmtree(checkpoints.folder / "6")
    standing, told = mend(model, checkpoints)
    assert standing == Standing(12)
    assert told.startswith(
        "the best model, of step 6, is lost, and its checkpoint is damaged, too (SHA256SUMS is missing)"
    )
    assert told.endswith("that of step 12 is in its place until there is a better one")
    assert model.holds(*average(12))
    assert model.step() == 12
