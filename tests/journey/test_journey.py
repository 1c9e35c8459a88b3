"""README's commands in README's order, each a process of its own, on the machine of somebody who has just installed it.

Models that only the Hub has are replaced by the one in the package, and trainings are of a few steps; all else is as
README has it. One cache, in its usual place, serves all commands, as it does for users.
"""

import json
import re
import shlex
import stat

import pytest
from conftest import Ran, User
from people import PARTS
from PIL import Image
from readme import commands

pytestmark = pytest.mark.journey

INSTEAD = {
    "nano-coco": "shapes",
    "small-coco": "shapes",
    "small-obj2coco": "shapes",
    "ustc-community/dfine-nano-coco": "shapes",
    "cat,dog": "circle,ring",
    "https://example.org/street.jpg": "file://{folder}/street.jpg",
}
"""Words of README's commands that need the network, and what stands for them."""
FEW_STEPS = shlex.split("--image-size 128 --batch-size 4 --epochs 2 --checkpoint-every 2 --workers 1")
NOT_TYPED = {
    "--verify": "compares with transformers, which the package doesn't bring (tests/weights does)",
}
"""What commands are not part of the journey, by a word that is in them, and why."""
SHAPES = ["circle", "cross", "heart", "ring", "square", "triangle"]
"""What is to be seen in the packaged picture."""


def typed(command: str, user: User) -> list[str]:
    """The command's words with what stands for the Hub's models."""
    words = [INSTEAD.get(word, word).format(folder=user.folder) for word in shlex.split(command)]
    if words[1] == "train" and "--resume" not in words:
        return words + FEW_STEPS
    if words[1] == "detect" and len(words) > 2 and "--model" not in words:
        return [*words, "--model", "shapes"]  # instead of the default for pictures of one's own
    return words


@pytest.mark.parametrize("command", commands())
def test_the_journey(command, user):
    if reason := next((reason for word, reason in NOT_TYPED.items() if word in command), None):
        pytest.skip(reason)
    words = typed(command, user)
    check = CHECKS[command]  # every command of README has one
    before = seen(user)
    ran = user.types(*words)
    assert ran.code == 0, ran.text[-2000:]
    check(user, ran, before)


def seen(user: User) -> dict[str, int]:
    """All files in the user's folder, and when they were written."""
    return {
        str(path.relative_to(user.folder)): path.stat().st_mtime_ns for path in user.folder.rglob("*") if path.is_file()
    }


def written(user: User, before: dict[str, int]) -> set[str]:
    """Files that are new or were written again."""
    return {name for name, time in seen(user).items() if before.get(name) != time}


def drawn(user: User, name: str, size: tuple[int, int]) -> None:
    with Image.open(user.folder / name) as picture:
        assert picture.size == size


def first_detection(user: User, ran: Ran, before) -> None:
    for name in SHAPES:
        assert re.search(rf"{name}\W+0\.[6-9]", ran.out), ran.out
    assert written(user, before) == {"detected/shapes.jpg"}
    drawn(user, "detected/shapes.jpg", (480, 480))


def cats_drawn(user: User, ran: Ran, before) -> None:
    assert "cats.jpg" in ran.out
    assert written(user, before) == {"drawn/cats.jpg"}
    drawn(user, "drawn/cats.jpg", (480, 480))


def found_in_many_places(user: User, ran: Ran, before) -> None:
    assert written(user, before) == {"found.json"}
    found = json.loads((user.folder / "found.json").read_text("utf-8"))
    assert [one["image"] for one in found] == [
        "holiday/Höhle [1].jpg",
        "scans/page 1.png",
        f"file://{user.folder}/street.jpg",
    ]
    assert "holiday/Höhle [1].jpg" in ran.out
    for one in (found[0], found[2]):
        assert (one["width"], one["height"]) == (480, 480)
        labels = [detection["label"] for detection in one["detections"]]
        assert set(SHAPES) <= set(labels)
        assert all(0.4 < detection["score"] <= 1 for detection in one["detections"])
        assert one["detections"] == found[0]["detections"]


def two_classes_alone(user: User, ran: Ran, before) -> None:
    assert "circle" in ran.out
    assert "ring" in ran.out
    assert "square" not in ran.out
    assert not written(user, before)


def sizes_compared(user: User, ran: Ran, before) -> None:
    assert re.search(r"n │  3,[\d,]+ │", ran.out)
    assert not written(user, before)


def speed_measured(user: User, ran: Ran, before) -> None:
    assert re.search(r"│ +1 │( +[\d.]+ │){7}", ran.out), ran.out
    assert not written(user, before)


def data_inspected(user: User, ran: Ran, before) -> None:
    for part, pictures in PARTS.items():
        assert re.search(rf"\(voc\), {part}\npictures +{pictures}, none of them without boxes", ran.out), ran.out
        assert f"{3 * pictures}: " in ran.out
    assert "no problems" in ran.out
    assert written(user, before) == {"contact-sheet.png"}


def trained(user: User, ran: Ran, before) -> None:
    model = ran.last.split("--model ")[-1].strip()
    assert model == "runs/cells/model", ran.last
    names = written(user, before)
    assert {f"runs/cells/{name}" for name in ("training.json", "log.jsonl", "curves.png")} <= names
    folder = ("config.json", "preprocessor_config.json", "thresholds.json", "README.md")
    assert {f"runs/cells/model/{name}" for name in folder} <= names
    log = [json.loads(line) for line in (user.folder / "runs/cells/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "ap" in line][-1] == 6  # two epochs of three steps
    assert "recipe for 12 pictures with 3 classes" in ran.out


def went_on(user: User, ran: Ran, before) -> None:
    """The training had ended. One that is killed at its first checkpoint goes on, and ends with the same losses."""
    assert "the model is in runs/cells/model" in ran.last
    train = next(words for words in map(shlex.split, commands()) if words[1] == "train")
    words = [word.replace("runs/cells", "runs/killed") for word in typed(shlex.join(train), user)]
    user.kills(*words, once="runs/killed/checkpoints/2")
    ran = user.types("dfine", "train", "--output", "runs/killed", "--resume")
    assert ran.code == 0, ran.text[-2000:]
    assert "going on from step 2" in ran.out
    assert "the model is in runs/killed/model" in ran.last
    logs = [(user.folder / "runs" / name / "log.jsonl").read_text().splitlines() for name in ("cells", "killed")]
    ends = [[json.loads(line) for line in log if '"ap"' in line] for log in logs]
    assert [(line["step"], line["ap"]) for line in ends[0]] == [(line["step"], line["ap"]) for line in ends[1]]


def evaluated(user: User, ran: Ran, before) -> None:
    assert re.search(r"AP, IoU 0.50 to 0.95 +0\.\d+", ran.out), ran.out
    for name in ("circle", "ring", "cell"):
        assert re.search(rf"^{name} +4 +0\.\d+", ran.out, re.MULTILINE), ran.out
    assert not written(user, before)


def found_by_the_trained_model(user: User, ran: Ran, before) -> None:
    assert written(user, before) == {f"drawn/{number}.png" for number in range(3)}
    ran = user.types("dfine", "detect", "new/", "--model", "runs/cells/model", "--threshold", "0.3", "--json", "-")
    assert ran.code == 0
    for one in json.loads(ran.out):
        labels = [detection["label"] for detection in one["detections"]]
        assert "circle" in labels  # known before, and kept
        assert set(labels) <= {"circle", "ring", "cell"}


def converted(user: User, ran: Ran, before) -> None:
    names = written(user, before)
    assert {"nano/config.json", "nano/preprocessor_config.json"} <= names
    assert all(name.startswith("nano/") for name in names)
    parameters = re.search(r"│ all +│ +\d+ │ +([\d,]+) │", ran.out) or re.search(r"all\D+\d+\D+([\d,]+)", ran.out)
    assert parameters, ran.out


def cats_again(user: User, ran: Ran, before) -> None:
    for name in SHAPES:
        assert re.search(rf"{name}\W+0\.[6-9]", ran.out), ran.out
    assert not written(user, before)


def converted_back(user: User, ran: Ran, before) -> None:
    """There and back is exact: the folder for transformers, converted once more, is what it was made of."""
    assert {"nano-hub/config.json", "nano-hub/model.safetensors"} <= written(user, before)
    for name, command in (
        ("hub-again", "dfine convert nano-hub nano-again && dfine convert nano-again hub-again --to hub"),
        ("cells-again", "dfine convert runs/cells/model cells-hub --to hub && dfine convert cells-hub cells-again"),
    ):
        for step in command.split(" && "):
            ran = user.types(*step.split())
            assert ran.code == 0, ran.text[-2000:]
        assert (user.folder / name).is_dir()
    first, again = (user.folder / name / "model.safetensors" for name in ("nano-hub", "hub-again"))
    assert first.read_bytes() == again.read_bytes()
    both = [
        user.types("dfine", "detect", "new/", "--model", name, "--json", "-")
        for name in ("runs/cells/model", "cells-again")
    ]
    assert both[0].out == both[1].out
    assert both[0].code == both[1].code == 0


CHECKS = {
    "dfine detect": first_detection,
    "dfine detect cats.jpg --save drawn": cats_drawn,
    "dfine detect holiday/ 'scans/*.png' https://example.org/street.jpg --json found.json --threshold 0.4": (
        found_in_many_places
    ),
    "dfine detect cats.jpg --model small-obj2coco --classes cat,dog": two_classes_alone,
    "dfine info": sizes_compared,
    "dfine bench --model small-coco": speed_measured,
    "dfine data cells/": data_inspected,
    "dfine train --data cells/ --model nano-coco --output runs/cells": trained,
    "dfine train --output runs/cells --resume": went_on,
    "dfine eval --data cells/ --model runs/cells/model --split test": evaluated,
    "dfine detect new/ --model runs/cells/model --save drawn": found_by_the_trained_model,
    "dfine convert ustc-community/dfine-nano-coco nano": converted,
    "dfine detect cats.jpg --model nano": cats_again,
    "dfine convert nano nano-hub --to hub": converted_back,
}


def test_one_module_and_one_command_under_two_names_were_installed(user):
    code = "from importlib.metadata import files; print(*sorted({file.parts[0] for file in files('dfine-jax')}))"
    places = user.types("python", "-c", code).out.split()
    assert places[:2] == ["..", "dfine_jax"]  # the first leads to the commands
    assert re.fullmatch(r"dfine_jax-[\d.]+\.dist-info", " ".join(places[2:]))
    versions = [user.types(name, "--version") for name in ("dfine", "dfine-jax")]
    assert versions[0].out == versions[1].out != ""
    assert versions[0].code == versions[1].code == 0


def test_nothing_else_was_written(user):
    """The home holds caches alone, ours is nobody else's; no temporary or half-written file is left."""
    files = [path.relative_to(user.home) for path in user.home.rglob("*") if not path.is_dir()]
    assert {path.parts[:2] for path in files} <= {(".cache", "dfine_jax"), (".cache", "matplotlib")}
    for folder in (user.home / ".cache" / "dfine_jax" / "compiled").rglob("*/"):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o022 == 0
    left = [
        path for path in user.folder.rglob("*") if path.name.startswith(".") or path.suffix in (".part", ".new", ".old")
    ]
    assert not left


def test_every_check_is_of_a_command_in_readme():
    assert not CHECKS.keys() - set(commands())
