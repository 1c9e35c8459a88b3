"""``dfine convert`` and ``python -m convert``: exit codes, what is printed, what is written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny import TINY

from dfine_jax.calibration import Calibration, read_calibration, write_calibration
from dfine_jax.cli.main import main
from dfine_jax.evaluation import against_transformers
from dfine_jax.weights.sources import open_model


def run(capsys, *arguments):
    """Exit code, and what was printed to the two streams, of ``dfine convert``."""
    code = main(["convert", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_to_jax_and_back(hub, tmp_path, capsys, same_arrays):
    code, out, _ = run(capsys, hub.path, tmp_path / "jax")
    assert code == 0
    assert f"{hub.path} -> {tmp_path / 'jax'}" in out.replace("\n", "")
    numbers = sum(value.size for value in hub.arrays.values())
    trained = sum(v.size for k, v in hub.arrays.items() if not k.endswith((".mean", ".var", ".up", ".reg_scale")))
    for number in (len(hub.arrays), trained, 4 * numbers):
        assert f"{number:,}" in out
    assert "seconds" in out
    same_arrays(open_model(tmp_path / "jax").arrays(), hub.arrays)

    assert run(capsys, tmp_path / "jax", tmp_path / "hub", "--to", "hub")[0] == 0
    for file in hub.path.iterdir():
        assert (tmp_path / "hub" / file.name).read_bytes() == file.read_bytes()


CARD = "# Five classes\n"
THRESHOLDS = '{"all": {"threshold": 0.3, "f1": 1, "precision": 1, "recall": 1, "boxes": 9}, "classes": {}}'


def test_card_thresholds_and_calibration_come_along_both_ways(hub, tmp_path, capsys):
    (hub.path / "README.md").write_text(CARD)
    (hub.path / "thresholds.json").write_text(THRESHOLDS)
    calibration = Calibration((0.8,), (1.5,), 1.0, 0.0, 100)
    write_calibration(calibration, hub.path)
    assert run(capsys, hub.path, tmp_path / "jax")[0] == 0
    assert run(capsys, tmp_path / "jax", tmp_path / "back", "--to", "hub")[0] == 0
    for name in ("jax", "back"):
        assert (tmp_path / name / "README.md").read_text() == CARD
        assert (tmp_path / name / "thresholds.json").read_text() == THRESHOLDS
        assert read_calibration(tmp_path / name) == calibration


def test_card_and_thresholds_of_other_names_of_classes_are_left_out_and_said(hub, tmp_path, capsys):
    (hub.path / "README.md").write_text(CARD)
    (hub.path / "thresholds.json").write_text(THRESHOLDS)
    code, out, _ = run(capsys, hub.path, tmp_path / "out", "--class-names", "v,w,x,y,z", "--to", "hub")
    assert code == 0
    assert "README.md and thresholds.json left out: what is there is about classes of the former names" in out
    assert not (tmp_path / "out" / "README.md").exists()
    assert not (tmp_path / "out" / "thresholds.json").exists()


def test_thresholds_that_are_damaged_are_said_and_nothing_is_written(hub, tmp_path, capsys):
    os.mkfifo(hub.path / "thresholds.json")
    code, _, err = run(capsys, hub.path, tmp_path / "out", "--to", "hub")
    assert code == 2
    assert "thresholds.json is a named pipe, expected a file" in err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_calibration_that_is_damaged_is_said_and_nothing_is_written(hub, tmp_path, capsys):
    (hub.path / "calibration.json").write_text("[]")
    code, _, err = run(capsys, hub.path, tmp_path / "out", "--to", "hub")
    assert code == 2
    assert "calibration.json: expected a JSON object" in err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_names_of_classes(hub, tmp_path, capsys):
    assert run(capsys, hub.path, tmp_path / "a", "--class-names", "v, w,x,y,z")[0] == 0
    assert open_model(tmp_path / "a").config.class_names == tuple("vwxyz")
    names = tmp_path / "names.txt"
    names.write_text("first one\n2\n3\n4\nlast\n\n")
    assert run(capsys, hub.path, tmp_path / "b", "--classes-file", names)[0] == 0
    assert open_model(tmp_path / "b").config.class_names == ("first one", "2", "3", "4", "last")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--class-names", "a,b"], "has 5 classes, but 2 names were given"),
        (["--class-names", "a,,b"], "class names: expected one in each place"),
        (["--class-names", "a", "--classes-file", "x"], "give --class-names or --classes-file, not both"),
        (["--classes-file", "nowhere.txt"], "nowhere.txt"),
        (["--class-names", "a,b,c,d,\udcff"], "is no text: it has bytes that are no UTF-8"),
        (["--half"], "--half is for --to hub"),
        (["--size", "n"], "a size can be given for a .pth only"),
    ],
)
def test_bad_options(hub, tmp_path, capsys, arguments, words):
    code, out, err = run(capsys, hub.path, tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "out").exists()


def test_a_misfit_is_one_report_and_nothing_is_written(hub, tmp_path, capsys):
    weights = load_file(hub.path / "model.safetensors")
    del weights["model.decoder.up"]
    weights["more"] = np.ones(1, np.float32)
    save_file(weights, hub.path / "model.safetensors")
    before = set(tmp_path.iterdir())
    code, out, err = run(capsys, hub.path, tmp_path / "out")
    assert (code, out) == (2, "")
    assert "  missing: model.decoder.up\n  unexpected: more\n" in err
    assert set(tmp_path.iterdir()) == before


def test_an_existing_folder_needs_force(hub, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text('{"model_type": "d_fine"}')
    code, _, err = run(capsys, hub.path, tmp_path / "out")
    assert code == 2
    assert "exists: choose another name, or replace it with --force" in err
    assert run(capsys, hub.path, tmp_path / "out", "--force")[0] == 0
    assert open_model(tmp_path / "out").config == TINY


def test_what_was_taken_off_and_what_is_assumed_is_said(hub, tmp_path, capsys):
    weights = load_file(hub.path / "model.safetensors")
    save_file({f"module.net.{name}": value for name, value in weights.items()}, hub.path / "model.safetensors")
    (hub.path / "preprocessor_config.json").unlink()
    code, out, err = run(capsys, hub.path, tmp_path / "out")
    assert code == 0
    assert "module., net. taken off their names" in out
    assert "640x640 is assumed" in err
    assert err.count("\n") == 1


def test_names_that_look_like_markup_are_shown_as_they_are(hub, tmp_path, capsys):
    target = tmp_path / "a [/x] [bold]b"
    code, out, _ = run(capsys, hub.path, target)
    assert code == 0
    assert "a [/x] [bold]b" in out.replace("\n", "")
    assert open_model(target).config == TINY


def test_a_source_is_not_replaced_by_what_is_made_of_it(hub, tmp_path, capsys):
    before = {file.name: file.read_bytes() for file in hub.path.iterdir()}
    for target in (hub.path, hub.path.parent / "link"):
        (hub.path.parent / "link").is_symlink() or (hub.path.parent / "link").symlink_to(hub.path)
        code, _, err = run(capsys, hub.path, target, "--force", "--to", "hub")
        assert code == 2
        assert "is or holds" in err
        assert {file.name: file.read_bytes() for file in hub.path.iterdir()} == before


def test_a_target_that_can_not_be_is_known_before_the_work(hub, tmp_path, capsys):
    (tmp_path / "file").touch()
    code, _, err = run(capsys, "no-such-model", tmp_path / "file" / "out")
    assert code == 2
    assert "file is no folder" in err


def test_spoilt_weights_are_named_and_nothing_is_written(hub, tmp_path, capsys):
    weights = load_file(hub.path / "model.safetensors")
    name = "model.enc_output.1.bias"
    save_file({**weights, name: weights[name] * np.float32("nan")}, hub.path / "model.safetensors")
    for to in ("jax", "hub"):
        code, _, err = run(capsys, hub.path, tmp_path / "out", "--to", to)
        assert code == 2
        assert f"the weights are spoilt: {name} has 16 NaN of 16 values" in err
        assert err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_verify_says_what_to_install(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(against_transformers, "find_spec", lambda name: None)
    code, _, err = run(capsys, hub.path, tmp_path / "out", "--verify")
    assert code == 2
    assert "--verify needs torch and transformers: pip install 'dfine-jax[parity]'" in err
    assert not (tmp_path / "out").exists()


def test_verify_takes_one_picture(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(against_transformers, "require_transformers", lambda: None)
    code, _, err = run(capsys, hub.path, tmp_path / "out", "--verify", "a.png", "b.png")
    assert code == 2
    assert "--verify takes one picture, not 2" in err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "dfine convert ustc-community/dfine-small-coco small" in out
    for option in ("--to", "--class-names", "--classes-file", "--size", "--revision", "--token", "--verify", "--force"):
        assert option in out


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "convert", "no-such-model", str(tmp_path / "out")]
    finished = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr.startswith("dfine convert: no model 'no-such-model': give one of ")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parity
@pytest.mark.parametrize("to", ["jax", "hub"])
def test_verify(hub, tmp_path, capsys, to):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    Image.effect_noise((50, 40), 90).save(tmp_path / "noise.png")
    code, out, _ = run(capsys, hub.path, tmp_path / "out", "--to", to, "--verify", tmp_path / "noise.png")
    assert code == 0
    assert "against transformers: 20 of 20 queries chosen by both, logits within " in out
    code, out, _ = run(capsys, tmp_path / "out", tmp_path / "again", "--verify")
    assert code == 0
    assert "20 of 20" in out
