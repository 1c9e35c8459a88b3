"""``dfine train``'s settings: the published recipe as it was, and a recipe of its own where none is given."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from rich.console import Console

from dfine_jax.bundled import SHAPES_MODEL
from dfine_jax.cli import train
from dfine_jax.cli.main import main
from dfine_jax.cli.train import Command, _defaults, _knows_photographs, open_datasets
from dfine_jax.cli.train_recipe import early_options, wishes_of
from dfine_jax.data.write import write_shapes
from dfine_jax.errors import InputError
from dfine_jax.pretrained import open_pretrained
from dfine_jax.training.configuration import Configuration, from_json, to_json
from dfine_jax.training.defaults import Wishes
from dfine_jax.training.optimizer import learning_rate_factor
from dfine_jax.training.recipe import Recipe

PUBLISHED = json.loads((Path(__file__).parents[1] / "reference_numbers" / "published_recipes.json").read_text())
"""Every setting of a training, by size, and of fine-tuning it, before there was any other recipe."""
NEUTRAL = {
    "holdout": False,
    "recipe.steps": None,
    "recipe.strong_steps": None,
    "recipe.minutes": None,
    "recipe.sampling": "uniform",
    "recipe.augmentation.preset": "plain",
    "recipe.loss.kind": "vfl",
    "run.evaluations": 0,
}
"""Settings that came later, at the values that change nothing."""


def flat(values: dict, prefix: str = "") -> dict:
    result = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


@pytest.mark.parametrize("size", "nsmlx")
def test_the_preset_coco_is_the_published_recipe_to_the_letter(size):
    arguments = ["--data", "d", "--output", "o", "--size", size, "--preset", "coco"]
    defaults, _ = _defaults(early_options(arguments))
    parsed = tyro.cli(Command, args=arguments, default=Command(defaults)).configuration
    fine_tuned = replace(parsed, recipe=Recipe.for_size(size, fine_tune=True))
    for configuration, name in ((parsed, size), (fine_tuned, f"{size}-fine")):
        found = flat(json.loads(to_json(replace(configuration, size="n"))))
        wanted = flat(PUBLISHED[name])
        assert {field: found[field] for field in wanted} == wanted
        assert {field: value for field, value in found.items() if field not in wanted} == NEUTRAL


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schedule_rises_and_stays(name):
    """500 steps of warm-up, none of fine-tuning; the learning rate never falls."""
    configuration = from_json(json.dumps(PUBLISHED[name]))
    warmup = configuration.recipe.optimization.warmup_steps
    assert warmup == (0 if name.endswith("fine") else 500)
    factor = learning_rate_factor(configuration.recipe.optimization, 10_000)
    steps = np.array([0, 1, 249, 498, 499, 500, 5000, 9999])
    wanted = np.minimum(np.float32(1), (steps + 1).astype(np.float32) / np.float32(max(warmup, 1)))
    np.testing.assert_array_equal([np.asarray(factor(jnp.asarray(step))) for step in steps], wanted)


def test_an_older_trainings_settings_mean_what_they_meant():
    for text in map(json.dumps, PUBLISHED.values()):
        found = flat(json.loads(to_json(from_json(text))))
        assert {name: value for name, value in found.items() if name not in flat(json.loads(text))} == NEUTRAL


def test_what_a_command_line_decides_is_seen_however_it_is_spelt():
    early = early_options(
        ["--image_size", "320", "--batch-size=8", "--optimization.accumulate", "2", "--minutes", "7.5", "--data", "x"]
    )
    assert wishes_of(early) == Wishes(image_size=320, batch_size=8, accumulate=2, minutes=7.5)
    assert wishes_of(early_options(["--queries", "None", "--denoising_copies=0"])) == Wishes(denoising_copies=0)
    assert wishes_of(early_options([])) == Wishes()


def test_two_lengths_are_one_too_many(capsys):
    arguments = ["--data", "shapes", "--output", "o", "--epochs", "3", "--minutes", "5"]
    assert main(["train", *arguments]) == 2
    assert capsys.readouterr().err == (
        "dfine train: --epochs and --minutes each say how long to train: give one of them\n"
    )


def test_help_begins_with_what_the_defaults_do(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    beginning = text[:900]
    for words in ("Without settings it takes a recipe for your data and your machine", "1,500 for 100", "--minutes"):
        assert words in beginning


def test_a_training_opens_its_model_once(one_piece, tmp_path, monkeypatch, capsys):
    opened = []

    def ends(*_, **__):
        raise InputError("far enough")

    monkeypatch.setattr(train, "open_pretrained", lambda name: opened.append(name) or open_pretrained(name))
    monkeypatch.setattr(train, "train", ends)
    for preset in ("auto", "coco"):
        opened.clear()
        arguments = ["--data", one_piece, "--model", "shapes", "--preset", preset, "--output", str(tmp_path / preset)]
        assert main(["train", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err == "dfine train: far enough\n"
        assert opened == ["shapes"]
        assert ("\n                  about " in captured.out) == (preset == "auto")


@pytest.mark.parametrize(
    ("start", "known"),
    [
        ({}, False),
        ({"backbone": Path("hgnetv2.pth")}, True),
        ({"model": "shapes"}, False),
        ({"model": str(SHAPES_MODEL)}, False),
        ({"model": "nano-coco"}, True),
        ({"model": "runs/cells/model"}, True),
    ],
)
def test_only_what_begins_with_trained_weights_of_others_knows_photographs(start, known):
    assert _knows_photographs(Configuration("cells", Path("run"), **start)) == known


@pytest.fixture
def one_piece(tmp_path) -> str:
    """Twelve drawn pictures, all of them to train on."""
    write_shapes(tmp_path / "data", size=64, counts={"train": 12})
    return str(tmp_path / "data")


def test_a_tenth_is_held_out_and_said(one_piece, capsys):
    configuration = Configuration(data=one_piece, output=Path("o"), holdout=True)
    data = open_datasets(configuration, Console())
    assert (len(data.train), len(data.held_out)) == (7, 5)
    assert "5 of 12 pictures are held out" in " ".join(capsys.readouterr().out.split())
    whole = open_datasets(replace(configuration, holdout=False), Console())
    assert (len(whole.train), whole.held_out) == (12, None)


def test_names_of_data_that_look_like_markup_are_shown_as_they_are(tmp_path, capsys):
    name = "a [red]b[/x] \x1b"
    write_shapes(tmp_path / name, size=64, counts={"train": 2})
    open_datasets(Configuration(data=str(tmp_path / name), output=Path("o"), holdout=False), Console())
    assert "a [red]b[/x] \\x1b has no val or test part" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_without_settings_gives_a_model_that_detect_shows_by_its_own_thresholds(one_piece, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", "--data", one_piece, "--model", "shapes", "--steps", "6", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "5 of 12 pictures are held out" in printed
    assert re.search(r"recipe for 7 pictures with 8 classes", printed)
    assert re.search(r"image size +\d+ x \d+ \(", printed)
    assert re.search(r"batch +2 \(", printed)
    assert "length          6 steps (as asked for)" in printed
    assert "classes' loss   mal (of DEIM" in printed
    model = output / "model"
    assert (model / "README.md").read_text().startswith("# A detector of 8 classes")
    own = json.loads((model / "thresholds.json").read_text())
    assert 0 <= own["all"]["threshold"] < 1
    written = from_json((output / "training.json").read_text())
    assert (written.recipe.steps, written.recipe.loss.kind, written.holdout) == (6, "mal", True)
    assert main(["detect", one_piece, "--model", str(model)]) == 0
    assert main(["detect", str(next(Path(one_piece).rglob("*.png"))), "--model", str(model)]) == 0
    assert "above the model's own thresholds" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_of_minutes_writes_the_steps_it_laid_and_keeps_them(one_piece, tmp_path, capsys):
    output = tmp_path / "run"
    arguments = ["train", "--data", one_piece, "--model", "shapes", "--image-size", "64", "--output", str(output)]
    arguments += ["--loss.kind", "vfl"]
    assert main([*arguments, "--minutes", "1"]) == 0
    assert "steps in all, by the time that those so far took" in capsys.readouterr().out
    written = from_json((output / "training.json").read_text())
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert (written.recipe.minutes, written.recipe.loss.kind) == (1, "vfl")
    assert lines[-1]["step"] == written.recipe.steps
    assert written.recipe.optimization.warmup_steps <= written.recipe.steps / 10 + 1
    assert main(["train", "--resume", "--output", str(output)]) == 0  # there is nothing left to do
    assert from_json((output / "training.json").read_text()) == written
