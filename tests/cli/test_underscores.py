"""Underscores and hyphens are the same in the names of options, and never in what they are given."""

import shutil
from dataclasses import replace

import pytest
import tyro

from dfine_jax.bundled import SHAPES_MODEL
from dfine_jax.cli.main import main
from dfine_jax.cli.train import Command, _defaults
from dfine_jax.cli.train_recipe import early_options
from dfine_jax.training.configuration import FILE_NAME, Configuration, write_configuration
from dfine_jax.training.recipe import Recipe


def parsed(*arguments):
    defaults, _ = _defaults(early_options([*arguments]))
    return tyro.cli(Command, args=arguments, default=Command(defaults))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("output", [["--output", "my_new_run"], ["--output=my_new_run"]])
def test_a_training_is_gone_on_with(here, output):
    recipe = replace(Recipe.for_size("n"), batch_size=3)
    written = Configuration(data="my_data", output=here / "my_new_run", recipe=recipe)
    write_configuration(written, here / "my_new_run" / FILE_NAME)
    command = parsed(*output, "--resume")
    assert (command.configuration.recipe.batch_size, command.configuration.data) == (3, "my_data")
    assert str(command.configuration.output) == "my_new_run"


def test_a_model_to_start_from(here):
    shutil.copytree(SHAPES_MODEL, "my_own_model")
    command = parsed("--data", "my_data", "--model", "my_own_model", "--output", "my_run")
    assert command.configuration.model == "my_own_model"
    assert command.configuration.recipe == Recipe.for_size("n", fine_tune=True)


@pytest.mark.parametrize(
    "option", [["--batch_size", "4"], ["--batch-size", "4"], ["--batch_size=4"], ["--batch-size=4"]]
)
def test_both_spellings_of_an_option(here, option):
    assert parsed("--data", "d", "--output", "my_run", *option).configuration.recipe.batch_size == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval", "--data", "my_own_data", "--model", "shapes"], "my_own_data"),
        (["eval", "--data=my_own_data"], "my_own_data"),
        (["detect", "a_b.png", "--model", "my_own_model"], "no model 'my_own_model'"),
        (["detect", "a_b_c.png"], "a_b_c.png: no such file"),
        (["detect", "a_b.png", "--json", "a_file/my_own.json"], "--json a_file/my_own.json"),
        (["detect", "a_b.png", "--save", "a_file"], "--save a_file"),
        (["bench", "--json", "a_file/my_own.json"], "--json a_file/my_own.json"),
        (["data", "my_own_data"], "my_own_data"),
        (["convert", "my_own_model", "my_own_out"], "no model 'my_own_model'"),
        (["info", "--model", "my_own_model"], "no model 'my_own_model'"),
        (["train", "--data", "my_own_data", "--output", "my_own_run"], "my_own_data"),
    ],
)
def test_every_verb_keeps_them(here, capsys, arguments, says):
    (here / "a_b.png").write_bytes(b"x")
    (here / "a_file").touch()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
