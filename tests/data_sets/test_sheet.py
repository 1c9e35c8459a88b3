"""Where ``dfine data`` writes its page of pictures, and where it doesn't."""

import errno
import os

import pytest
from dataset_files import write_coco, write_picture, write_text
from PIL import Image

from dfine_jax.cli import sheet
from dfine_jax.cli.main import main

BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 20, 20]}


@pytest.fixture
def dfine(tmp_path, capsys, monkeypatch):
    """Runs the command on a small set, in an empty folder: its exit code and what it says where that is an error."""
    write_picture(tmp_path / "set/a.png")
    write_coco(tmp_path / "set/labels.json", annotations=[BOX])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments) -> tuple[int, str]:
        code = main(["data", str(tmp_path / "set"), *map(str, arguments)])
        return code, capsys.readouterr().err

    return run


def test_the_usual_page_replaces_only_itself(dfine):
    assert dfine()[0] == 0
    assert os.listdir() == ["contact-sheet.png"]
    write_picture(sheet.Path("contact-sheet.png"), (3, 3))
    assert dfine()[0] == dfine()[0] == 0
    assert sorted(os.listdir()) == ["contact-sheet-2.png", "contact-sheet.png"]
    assert Image.open("contact-sheet.png").size == (3, 3)


@pytest.mark.parametrize("name", ["page.png", "page.JPG", "page.jpeg", "page.webp", "page.tif", "new/page.png"])
def test_a_page_may_be_made_again(dfine, name):
    for _ in range(2):
        assert dfine("--sheet", name)[0] == 0
        assert Image.open(name).width > 300


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.txt", "no picture of that ending"),
        ("page", "no picture of that ending"),
        ("page.xyz", "no picture of that ending"),
        ("page.xbm", "no picture of that ending"),
        ("", "a folder"),
        ("../set", "a folder"),
        ("../set/a.png", "is no page of an earlier run"),
        ("../set/labels.json", "no picture of that ending"),
        ("mine.png", "is no page of an earlier run"),
        ("link.png", "is no page of an earlier run"),
        ("mine.png/page.png", "is no folder|can't be written"),
    ],
)
def test_what_is_there_is_kept_and_said_before_any_work(dfine, monkeypatch, name, said):
    write_picture(sheet.Path("mine.png"))
    write_text(sheet.Path("notes.txt"), "words")
    os.symlink("mine.png", "link.png")
    before = {path: path.read_bytes() for path in sheet.Path("..").rglob("*") if path.is_file()}
    monkeypatch.setattr("dfine_jax.cli.data.recognise", None)
    code, error = dfine("--sheet", name)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert any(part in error for part in said.split("|"))
    assert {path: path.read_bytes() for path in sheet.Path("..").rglob("*") if path.is_file()} == before


def test_a_page_that_is_a_picture_of_the_set_is_kept(dfine, tmp_path):
    assert dfine("--sheet", "page.png")[0] == 0
    os.replace("page.png", tmp_path / "set/a.png")
    os.link(tmp_path / "set/a.png", "contact-sheet.png")
    code, error = dfine("--sheet", tmp_path / "set/a.png")
    assert (code, "which is read" in error) == (2, True)
    assert dfine()[0] == 0
    assert sorted(os.listdir()) == ["contact-sheet-2.png", "contact-sheet.png"]


def test_what_is_no_file_is_written_to(dfine):
    assert dfine("--sheet", "/dev/null")[0] == 0
    assert not os.path.isfile("/dev/null")


def test_a_full_disk_leaves_nothing(dfine, monkeypatch):
    def fill(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(sheet, "write_whole", fill)
    code, error = dfine("--sheet", "page.png")
    assert (code, len(error.splitlines())) == (2, 1)
    assert os.listdir() == []


def test_a_page_too_large_for_its_format_is_told(tmp_path):
    page = Image.new("1", (10, 70_000))
    with pytest.raises(ValueError, match=r"page\.jpg: can't hold a page of 10x70000 .*lower --pictures"):
        sheet.save_sheet(page, tmp_path / "page.jpg")
    assert not os.listdir(tmp_path)


def test_without_a_page_nothing_is_asked_of_it(dfine):
    assert dfine("--pictures", 0, "--sheet", "page.xyz")[0] == 0
