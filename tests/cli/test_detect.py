import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.cli import detect
from dfine_jax.cli.main import main
from dfine_jax.data.shapes import CLASS_NAMES, draw
from dfine_jax.inference.detector import Detector
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import open_pretrained, save_pretrained

EXAMPLE = 165
"""Which of the drawn pictures came with the package."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pretrained(folder, tiny_model(), Preprocessing(HEIGHT, WIDTH))
    return str(folder)


@pytest.fixture(scope="module")
def detector(model):
    return Detector.from_stored(open_pretrained(model))


@pytest.fixture
def compiled(detector, monkeypatch):
    """The command takes a detector that is there already."""
    monkeypatch.setattr(detect.Detector, "from_stored", lambda *_, **options: detector)


@pytest.fixture
def pictures(tmp_path):
    """Three readable pictures of different sizes in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.jpg", (40, 50, 3)), ("b.png", (90, 30, 3)), ("c.jpg", (64, 64))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    return folder


def test_json_holds_what_the_table_shows(model, pictures, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert main(["detect", str(pictures), "--model", model, "--threshold", "0", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [entry["image"] for entry in found] == [str(pictures / name) for name in ("a.jpg", "b.png", "c.jpg")]
    assert [(entry["width"], entry["height"]) for entry in found] == [(50, 40), (30, 90), (64, 64)]
    printed = capsys.readouterr().out
    for entry in found:
        scores = [detection["score"] for detection in entry["detections"]]
        assert len(scores) == 20
        assert scores == sorted(scores, reverse=True)
        assert f"{scores[0]:.3f}" in printed
        assert set(entry["detections"][0]) == {"label", "label_id", "score", "box"}


@pytest.mark.slow
def test_batches_give_what_single_pictures_give(model, pictures, tmp_path):
    results = []
    for batch in ("1", "2"):
        out = tmp_path / f"{batch}.json"
        arguments = ["--model", model, "--threshold", "0", "--batch-size", batch, "--json", str(out)]
        assert main(["detect", str(pictures), *arguments]) == 0
        results.append(json.loads(out.read_text()))
    for one, two in zip(*results, strict=True):
        assert [d["label"] for d in one["detections"][:5]] == [d["label"] for d in two["detections"][:5]]
        for a, b in zip(one["detections"][:5], two["detections"][:5], strict=True):
            np.testing.assert_allclose(a["box"], b["box"], atol=1e-3)


def test_unreadable_pictures_are_named_and_skipped(model, compiled, pictures, tmp_path, capsys):
    (pictures / "aa.jpg").write_bytes((pictures / "a.jpg").read_bytes()[:300])
    (pictures / "empty.png").touch()
    out = tmp_path / "found.json"
    assert main(["detect", str(pictures), "--model", model, "--json", str(out)]) == 1
    assert [entry["image"][-5:] for entry in json.loads(out.read_text())] == ["a.jpg", "b.png", "c.jpg"]
    notes = capsys.readouterr().err
    assert "aa.jpg" in notes
    assert "empty.png" in notes
    assert "2 of 5 pictures could not be read" in notes


@pytest.mark.slow
def test_drawn_pictures_are_not_searched_the_next_time(model, pictures, capsys):
    drawn = pictures / "drawn"
    arguments = ["detect", str(pictures), "--model", model, "--threshold", "0", "--save", str(drawn)]
    assert main(arguments) == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["a.jpg", "b.png", "c.jpg"]
    original, annotated = (np.asarray(Image.open(folder / "b.png").convert("RGB")) for folder in (pictures, drawn))
    assert original.shape == annotated.shape
    assert (original != annotated).any()
    assert main(arguments) == 0
    assert "3 pictures drawn" in capsys.readouterr().err
    assert len(list(drawn.iterdir())) == 3


def test_pictures_of_one_name_are_drawn_to_two_files(model, compiled, pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pictures / "a.jpg", other)
    paths = [str(pictures / "a.jpg"), str(other / "a.jpg")]
    assert main(["detect", *paths, "--model", model, "--save", str(tmp_path / "drawn")]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a-2.jpg", "a.jpg"]


@pytest.mark.slow
def test_classes_choose(model, pictures, tmp_path):
    out = tmp_path / "found.json"
    arguments = ["--model", model, "--threshold", "0", "--json", str(out)]
    assert main(["detect", str(pictures / "a.jpg"), *arguments]) == 0
    label = json.loads(out.read_text())[0]["detections"][0]["label"]
    assert main(["detect", str(pictures / "a.jpg"), *arguments, "--classes", label]) == 0
    assert {d["label"] for d in json.loads(out.read_text())[0]["detections"]} == {label}


def test_json_to_standard_output_is_json_alone(model, compiled, pictures, capsys):
    assert main(["detect", str(pictures / "a.jpg"), "--model", model, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["image"].endswith("a.jpg")


@pytest.mark.slow
def test_bfloat16_and_another_size(model, pictures, tmp_path):
    out = tmp_path / "found.json"
    arguments = ["--model", model, "--size", "64x128", "--dtype", "bfloat16", "--threshold", "0", "--json", str(out)]
    assert main(["detect", str(pictures / "a.jpg"), *arguments]) == 0
    assert len(json.loads(out.read_text())[0]["detections"]) == 20


def test_without_arguments_the_model_in_the_package_finds_the_shapes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", pytest.fail)
    assert main(["detect"]) == 0
    out, err = capsys.readouterr()
    found = re.findall(r"^│ ([a-z]+) +│", out, re.MULTILINE)
    assert sorted(found) == sorted(CLASS_NAMES[label] for label in draw(EXAMPLE, split="test").labels)
    assert "1 picture drawn in detected" in err
    with Image.open(tmp_path / "detected" / "shapes.jpg") as drawn, Image.open(SHAPES_PICTURE) as picture:
        assert drawn.size == picture.size
        assert np.abs(np.asarray(drawn, float) - np.asarray(picture, float)).max() > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (["PICTURES", "--size", "640"], "give HEIGHTxWIDTH"),
        (["PICTURES", "--size", "600x640"], "600x640 (height x width): both must be divisible by 32"),
        (["PICTURES", "--threshold", "2"], "expected a score from 0 to 1"),
        (["PICTURES", "--batch-size", "0"], "batch size 0"),
        (["PICTURES", "--classes", "cta"], "did you mean cat"),
        (["PICTURES", "--batch-size", "1000000000"], "batch size 1000000000: give 1 to 4,096"),
        (["PICTURES", "--size", "8192x8192"], "more than 16,777,216 pixels"),
        (["PICTURES", "--size", "960000x960000"], "at most 8192 pixels"),
        (["PICTURES", "--save", "PICTURES"], "a.jpg, which is read: choose another place"),
        (["PICTURES", "--json", "PICTURES/a.jpg"], "a.jpg, which is read: choose another place"),
        (["PICTURES", "--json", "MODEL/config.json"], "config.json, which is read: choose another place"),
        (["PICTURES", "--json", "PICTURES"], "a folder; give the name of a file"),
        (["PICTURES", "--json", "PICTURES/a.jpg/b.json"], "Not a directory"),
        (["PICTURES", "--save", "PICTURES/a.jpg"], "is no folder"),
        (["PICTURES", "--save", "PICTURES/new", "--json", "PICTURES/new/a.jpg"], "where a picture would be drawn"),
        (["PICTURES", "--model", "nano-cocoo"], "nano-coco"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_exit_code_2(model, pictures, capsys, arguments, message):
    arguments = [argument.replace("PICTURES", str(pictures)).replace("MODEL", model) for argument in arguments]
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    if "--model" not in arguments:
        arguments += ["--model", model]
    assert main(["detect", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


ODD = [
    b"caf\xe9.jpg",
    b"[bold]b.jpg",
    b"esc\x1b[31m.jpg",
    "rtl\u202e.jpg".encode(),
    b"new\nline.jpg",
    "\u00e9.jpg".encode(),
]
SHOWN = [
    "[/x].jpg",
    "[bold]b.jpg",
    r"caf\xe9.jpg",
    r"esc\x1b[31m.jpg",
    r"new\nline.jpg",
    r"rtl\u202e.jpg",
    "\u00e9.jpg",
]


@pytest.mark.parametrize("few", [True, False])
def test_odd_names_are_shown_whole_and_kept(model, compiled, pictures, tmp_path, capsys, few):
    """Names of files, some no UTF-8; markup that opens nothing is in the name of a folder and its file."""
    folder = tmp_path / "odd"
    (folder / "[").mkdir(parents=True)
    content = (pictures / "a.jpg").read_bytes()
    names = [os.path.join(os.fsencode(folder), name) for name in (b"[/x].jpg", *ODD)]
    for name in names:
        with open(name, "wb") as file:
            file.write(content)
    given = [os.fsdecode(name) for name in names[:3]] if few else [str(folder)]
    arguments = ["--model", model, "--save", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json")]
    assert main(["detect", *given, *arguments]) == 0
    printed = capsys.readouterr().out
    shown = [SHOWN[0], SHOWN[2], SHOWN[1]] if few else SHOWN
    assert [printed.index(f"{folder}/{name}") for name in shown] == sorted(
        printed.index(f"{folder}/{name}") for name in shown
    )
    assert "\x1b[31m" not in printed
    held = [entry["image"] for entry in json.loads((tmp_path / "found.json").read_text("utf-8"))]
    stored = (b"[/x].jpg", rb"caf\xe9.jpg", *ODD[1:])
    assert sorted(held) == sorted(f"{folder}/{name.decode()}" for name in stored[: len(held)])
    drawn = sorted(os.listdir(os.fsencode(tmp_path / "drawn")))
    assert drawn == sorted([b"x].jpg", *ODD][: len(held)])


def test_addresses_that_can_not_be_read_are_skipped(model, compiled, pictures, tmp_path, capsys):
    wrong = ["http://[", "file:///a%00/b.jpg", "s3://x/b.jpg", "http://ann:secret@x/a\x1b.jpg"]
    arguments = [*wrong, str(pictures / "a.jpg"), "--model", model, "--save", str(tmp_path / "drawn")]
    assert main(["detect", *arguments]) == 1
    notes = capsys.readouterr().err
    assert "4 of 5 pictures could not be read" in notes
    assert len(notes.splitlines()) == 4 + 2
    assert "secret" not in notes
    assert "\x1b" not in notes
    assert os.listdir(tmp_path / "drawn") == ["a.jpg"]


def test_json_for_a_terminal_that_knows_few_letters(model, compiled, pictures, capfd, monkeypatch):
    (pictures / "a.jpg").rename(pictures / "\u00e9.jpg")
    with open(os.dup(1), "w", encoding="ascii", errors="backslashreplace") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert main(["detect", str(pictures / "\u00e9.jpg"), "--model", model, "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["image"].endswith("\u00e9.jpg")


@pytest.mark.parametrize("target", ["/dev/null", "/dev/stdout"])
def test_json_to_devices(model, compiled, pictures, capsys, target):
    assert main(["detect", str(pictures / "a.jpg"), "--model", model, "--json", target]) == 0
    printed = capsys.readouterr().out
    assert "a.jpg" in (json.loads(printed)[0]["image"] if target == "/dev/stdout" else printed)
    assert not os.path.isfile("/dev/null")


def test_a_picture_larger_than_is_kept_is_drawn_whole(model, compiled, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_jax.inference.detector.LARGE", 64 * 64)
    monkeypatch.setattr("dfine_jax.inference.decoding.LARGE", 64 * 64)
    Image.fromarray(np.full((640, 960, 3), 200, np.uint8)).save(pictures / "large.png")
    drawn = tmp_path / "drawn"
    assert main(["detect", str(pictures / "large.png"), "--model", model, "--save", str(drawn)]) == 0
    with Image.open(drawn / "large.png") as picture:
        assert picture.size == (960, 640)
