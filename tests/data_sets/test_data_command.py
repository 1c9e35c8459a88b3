"""``dfine data`` on what people have: what it says, and that it says it in a line."""

import os
import shutil

import pytest
from dataset_files import write_coco, write_picture, write_text
from rich.console import Console

from dfine_jax.cli import data as cli
from dfine_jax.cli.main import main
from dfine_jax.data.formats import open_dataset, recognise
from dfine_jax.data.samples import DataError

YAML = "train: images/train\nval: images/val\nnames: [ant, bee]\n"


@pytest.fixture
def dfine(capsys, monkeypatch):
    """Runs the command in this process: its exit code and all that it says."""
    monkeypatch.setattr(cli, "Console", lambda: Console(width=200))

    def run(*arguments) -> tuple[int, str]:
        code = main(["data", *map(str, arguments), "--pictures", "0"])
        out, err = capsys.readouterr()
        return code, out + err

    return run


def write_yolo(folder, yaml=YAML, rows="0 0.5 0.5 0.25 0.5\n"):
    for number, split in enumerate(("train", "val")):
        write_picture(folder / f"images/{split}/a.png", colour=(number, 2, 3))
        write_text(folder / f"labels/{split}/a.txt", rows)
    write_text(folder / "data.yaml", yaml)
    return folder


def test_parts_that_can_t_be_read_are_named_and_others_shown(tmp_path, dfine):
    write_yolo(tmp_path, YAML + "test: images/test\n")
    code, said = dfine(tmp_path)
    assert code == 0
    assert "test is left out: " in said
    assert "refers to images/test, which is not at" in said
    assert said.count("(yolo), ") == 2
    assert dfine(tmp_path, "--split", "test")[0] == 2
    (tmp_path / "images/test").mkdir()
    assert "test is left out" in dfine(tmp_path)[1]


def test_if_no_part_can_be_read_it_is_an_error(tmp_path, dfine):
    write_yolo(tmp_path)
    shutil.rmtree(tmp_path / "images")
    code, said = dfine(tmp_path)
    assert code == 2
    assert len(said.splitlines()) <= 3


def test_no_box_at_all_is_said_and_not_trained_on(tmp_path, dfine):
    write_yolo(tmp_path, rows="")
    code, said = dfine(tmp_path)
    assert code == 0
    assert "no picture has a box" in said
    with pytest.raises(DataError, match="none of the 1 pictures to train with has a box"):
        open_dataset(tmp_path).check_boxes(str(tmp_path))
    write_text(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.2 0.2")
    open_dataset(tmp_path).check_boxes(str(tmp_path))


def test_the_same_file_in_two_parts_is_said(tmp_path, dfine):
    write_yolo(tmp_path, YAML.replace("images/val", "images/train"))
    code, said = dfine(tmp_path)
    assert code == 0
    assert "The same pictures in several parts, or twice in one: 1" in said
    assert "a.png: duplicate picture: is in several parts: " in said


def test_remarks_are_shown(tmp_path, dfine):
    assert "says nc: 5, but names 2 classes" in dfine(write_yolo(tmp_path, YAML + "nc: 5\n"))[1]


def test_a_set_one_level_down_is_read_from_there(tmp_path, dfine):
    write_yolo(tmp_path / "export/set")
    write_text(tmp_path / "__MACOSX/export/set/data.yaml", "x")
    code, said = dfine(tmp_path)
    assert code == 0
    assert f"{tmp_path}/export/set (yolo), train" in said
    assert f"read from {tmp_path}/export/set" in said
    write_yolo(tmp_path / "other")
    code, said = dfine(tmp_path)
    assert code == 2
    assert f"{tmp_path}/other, {tmp_path}/export/set; give one of them" in said


def test_folders_with_many_files_give_short_errors(tmp_path, dfine):
    for number in range(300):
        write_text(tmp_path / f"notes/a rather long name of a file {number}.json", "{}")
        write_text(tmp_path / f"a rather long name of a file {number}.json", "{}")
    code, said = dfine(tmp_path)
    assert code == 2
    assert len(said) < 500


HOSTILE = [
    "[x] [bold].png",
    "[].png",
    "\x1b[31mred.png",
    "new\nline.png",
    "\u202egnp.png",
    os.fsdecode(b"\xff\xfe.png"),
    "[link=x]y.png",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_whole_and_harmless(tmp_path, dfine, name):
    write_yolo(
        tmp_path,
        "train: images/train\nnames: ['[/x]', \"\\e[31m\", '[bold]', \"\\u202ea\"]\n",
        "9 0.5 0.5 0.1 0.1\njunk [/y]\n",
    )
    shutil.move(tmp_path / "images/train/a.png", tmp_path / "images/train" / name)
    shutil.move(tmp_path / "labels/train/a.txt", (tmp_path / "labels/train" / name).with_suffix(".txt"))
    code, said = dfine(tmp_path)
    assert code == 0
    assert "'junk [/y]' is not" in said
    assert all(shown in said for shown in ("[/x]", "\\x1b[31m", "[bold]", "\\u202ea"))
    assert not any(character in said for character in "\x1b\u202e")
    shown = name.replace("\x1b", "\\x1b").replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert (
        shown.removesuffix(".png").encode(errors="surrogateescape").replace(b"\xff\xfe", b"\\xff\\xfe").decode() in said
    )


def test_halves_of_characters_in_json(tmp_path, dfine):
    write_picture(tmp_path / "a.png")
    images = [{"id": "\udfff", "file_name": "a.png"}, {"id": 2, "file_name": "\ud800.png"}]
    box = {"image_id": "\udfff", "category_id": 1, "bbox": [1, 2, 3, 4]}
    write_coco(tmp_path / "labels.json", images, [box, {**box, "image_id": "\ud800"}], [{"id": 1, "name": "a\ud800"}])
    code, said = dfine(tmp_path)
    assert code == 0
    assert "2 broken label" in said or "1 broken label, 1 missing picture" in said


@pytest.mark.parametrize(
    "name",
    ["labels.json", "data.yaml", "metadata.jsonl", "a.xml", "images/train/b.png", "labels/train/a.txt", "classes.txt"],
)
def test_pipes_and_loops_are_not_waited_for(tmp_path, dfine, name):
    write_yolo(tmp_path)
    if name in ("labels.json", "metadata.jsonl", "a.xml", "classes.txt"):
        (tmp_path / "data.yaml").unlink()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for link, target in (
        ("images/train/up", ".."),
        ("images/self", "self"),
        ("labels/train/dot", "."),
        ("loop", "loop"),
    ):
        (tmp_path / link).symlink_to(target)
    code, said = dfine(tmp_path)
    assert code in (0, 2)
    if code == 2:
        assert len(said.splitlines()) == 1


def test_linked_folders_are_looked_into_once(tmp_path):
    write_yolo(tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "set/images/train/a.png", tmp_path / "elsewhere/a.png")
    for name in ("one", "two"):
        (tmp_path / "set/images/train" / name).symlink_to(tmp_path / "elsewhere")
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset) == 1


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "", "/dev/null", "/dev/zero.json"])
def test_paths_that_are_nothing(path):
    with pytest.raises(DataError) as caught:
        recognise(path if path else "no/where")
    assert "\n" not in str(caught.value)
