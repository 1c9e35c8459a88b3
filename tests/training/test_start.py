"""What is kept of a trained model, and a training's configuration as a file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from dfine_jax.training.configuration import (
    Configuration,
    differences,
    read_configuration,
    write_configuration,
)
from dfine_jax.training.recipe import Optimization, Recipe
from dfine_jax.training.start import fine_tune, fresh
from dfine_jax.training.trainer import RunOptions


@pytest.fixture(scope="module")
def trained() -> dict[str, np.ndarray]:
    """Values of a model of the five classes ant, bee, cat, dog, elk, all different from fresh ones."""
    start = fresh(TINY, seed=1)
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(x.shape).astype(np.float32) for name, x in (start.params | start.batch_stats).items()
    }


def test_rows_of_known_classes_are_kept_and_all_else_but_the_heads(trained):
    start = fine_tune(TINY, trained, ("Dog", "fox", "ant"), seed=0)
    new = fresh(TINY.with_classes(("Dog", "fox", "ant")), seed=0)
    assert start.config.class_names == ("Dog", "fox", "ant")
    for name in ("decoder.class_heads.0.kernel", "decoder.encoder_score.kernel"):
        np.testing.assert_array_equal(start.params[name][:, 0], trained[name][:, 3])
        np.testing.assert_array_equal(start.params[name][:, 1], new.params[name][:, 1])
        np.testing.assert_array_equal(start.params[name][:, 2], trained[name][:, 0])
    name = "decoder.class_heads.1.bias"
    np.testing.assert_array_equal(start.params[name], [trained[name][3], new.params[name][1], trained[name][0]])
    embedding = start.params["decoder.denoising_embed"]
    np.testing.assert_array_equal(embedding[[0, 2, 3]], trained["decoder.denoising_embed"][[3, 0, 5]])
    np.testing.assert_array_equal(embedding[1], new.params["decoder.denoising_embed"][1])
    heads = {name for name in start.params if "class_heads" in name or "encoder_score" in name}
    for name in start.params.keys() - heads - {"decoder.denoising_embed"}:
        np.testing.assert_array_equal(start.params[name], trained[name])
    for name, value in start.batch_stats.items():
        np.testing.assert_array_equal(value, trained[name])
    assert start.report == ("all weights are kept and of the heads those of Dog, ant; new are the heads of fox")


def test_the_same_classes_keep_everything(trained):
    start = fine_tune(TINY, trained, TINY.class_names, seed=0)
    for name, value in (start.params | start.batch_stats).items():
        np.testing.assert_array_equal(value, trained[name])
    assert "all 5 classes" in start.report


def test_other_classes_keep_no_head(trained):
    start = fine_tune(TINY, trained, ("fox",), seed=0)
    assert start.report == "all weights are kept but the classes' heads; new are the heads of fox"
    assert start.params["decoder.class_heads.0.kernel"].shape == (16, 1)


def test_a_given_backbone_is_kept_and_all_else_is_new(trained):
    backbone = {name: value for name, value in trained.items() if name.startswith("backbone.")}
    start, new = fresh(TINY, 0, backbone), fresh(TINY, 0)
    for name, value in (start.params | start.batch_stats).items():
        kept = trained if name.startswith("backbone.") else new.params | new.batch_stats
        np.testing.assert_array_equal(value, kept[name], err_msg=name)
    assert start.params.keys() == new.params.keys()
    assert "backbone's weights are kept" in start.report


def test_a_model_that_lacks_something_is_refused(trained):
    without = {name: value for name, value in trained.items() if name != "decoder.up"}
    with pytest.raises(ValueError, match=r"lacks decoder\.up"):
        fine_tune(TINY, without, ("fox",), seed=0)


def test_a_configuration_comes_back_from_its_file(tmp_path):
    recipe = replace(Recipe.for_size("l"), optimization=Optimization(no_decay=("norms", "affines"), betas=(0.8, 0.9)))
    for written in (
        Configuration("shapes", Path("runs/a"), recipe=recipe, run=RunOptions(seed=3, dtype="bfloat16")),
        Configuration("cells", Path("b"), model="nano-coco", queries=50),
    ):
        write_configuration(written, tmp_path / "run" / "training.json")
        assert read_configuration(tmp_path / "run" / "training.json") == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(colour=1), "it has no colour"),
        (lambda values: values["recipe"].update(epochs="many"), "recipe.epochs is 'many', expected 'int'"),
        (lambda values: values["recipe"]["loss"].update(vlf=1), "recipe.loss has no vlf"),
        (
            lambda values: values["run"].update(dtype="float16"),
            "run.dtype is 'float16', expected 'float32'",
        ),
        (lambda values: values["recipe"].update(epochs=0), "epochs is 0: it must be at least 1"),
        (lambda values: values["recipe"].update(loss=[]), "recipe.loss must be an object"),
        (lambda values: values.pop("data"), "data"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path, change, message):
    path = tmp_path / "training.json"
    write_configuration(Configuration("shapes", Path("a")), path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as error:
        read_configuration(path)
    assert str(error.value).startswith(f"{path} is no training's configuration: ")


def test_only_differences_that_matter_are_named():
    one = Configuration("shapes", Path("a"))
    same = replace(one, output=Path("b"), run=RunOptions(workers=7, keep=1, log_every=3))
    assert differences(one, same) == []
    other = replace(one, recipe=replace(one.recipe, batch_size=64), run=RunOptions(seed=1))
    assert differences(one, other) == ["recipe.batch_size 128 and 64", "run.seed 0 and 1"]
