import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dfine_jax.cli import drawn
from dfine_jax.cli.drawn import drawn_files, is_drawn, save_drawn, without_drawn
from dfine_jax.cli.inputs import Inputs
from dfine_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "drawn").mkdir()
    return tmp_path / "drawn"


def names(pictures, folder, inputs=None):
    return [file.name for file in drawn_files(pictures, folder, inputs or Inputs()).values()]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_was_drawn_is_known_again(folder, suffix):
    save_drawn(Image.new("RGB", (4, 4)), folder / f"a{suffix}")
    assert is_drawn(folder / f"a{suffix}")
    assert not is_drawn(picture(folder / f"b{suffix}"))
    assert not is_drawn(folder / "none.jpg")
    assert not is_drawn(folder)


def test_names(folder):
    pictures = ["a/x.jpg", "b/x.jpg", "c/x.JPEG", "c/X.jpg", "c/x.png", "c/y.webp", "c/x-2.jpg"]
    assert names(pictures, folder) == [
        "x.jpg", "x-2.jpg", "x-3.jpg", "X-4.jpg", "x.png", "y.jpg", "x-2-2.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://x.org/a/street%20view.jpg?size=9#top", "street view.jpg"),
        ("https://x.org/a.png", "a.png"),
        ("https://x.org/", "picture.jpg"),
        ("https://x.org/..%2F..%2Fetc%2Fpasswd", "passwd.jpg"),
        ("https://x.org/a%0A%1B[31m.jpg", "a__[31m.jpg"),
        ("https://x.org/" + "x" * 5000 + ".jpg", "x" * 200 + ".jpg"),
        ("data:image/png;base64,iVBOR/w0K", "picture.jpg"),
        ("http://[", "picture.jpg"),
        ("https://x.org", "picture.jpg"),
        ("file:///a%00b.jpg", "a_b.jpg"),
        ("file:///a/b%20c.jpg", "b c.jpg"),
    ],
)
def test_names_of_addresses(folder, address, name):
    assert names([address], folder) == [name]


@pytest.mark.parametrize("stem", ["é" * 120, "x" * 250, b"\xff\xfe".decode("utf-8", "surrogateescape"), "a\nb"])
def test_names_that_are_long_or_odd_can_be_written(folder, stem):
    files = list(drawn_files([f"a/{stem}.jpg", f"b/{stem}.jpg"], folder, Inputs()).values())
    for file in files:
        save_drawn(Image.new("RGB", (4, 4)), file)
    assert len(set(files)) == len(os.listdir(folder)) == 2


def test_what_an_earlier_run_drew_is_replaced_and_nothing_else(folder, tmp_path):
    save_drawn(Image.new("RGB", (4, 4)), folder / "a.jpg")
    foreign = picture(folder / "b.jpg")
    (folder / "c.jpg").symlink_to(picture(tmp_path / "elsewhere.jpg"))
    (folder / "d.jpg").mkdir()
    assert names(["x/a.jpg", "x/b.jpg", "x/c.jpg", "x/d.jpg"], folder) == ["a.jpg", "b-2.jpg", "c-2.jpg", "d-2.jpg"]
    assert foreign.exists()


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "address", "other way round"])
def test_no_picture_that_is_read_is_written_to(folder, tmp_path, kind):
    original, source = picture(folder / "a.jpg"), tmp_path / "links" / "a.jpg"
    source.parent.mkdir()
    if kind == "symbolic link":
        source.symlink_to(original)
    elif kind == "hard link":
        os.link(original, source)
    elif kind == "other way round":
        shutil.move(original, source)
        original.symlink_to(source)
    pictures = [original.as_uri() if kind == "address" else str(source)]
    assert without_drawn(pictures, folder) == pictures
    with pytest.raises(InputError, match=r"--save would write to .*a\.jpg, which is read: choose another place"):
        drawn_files(pictures, folder, Inputs([original if kind == "address" else source]))


def test_drawn_pictures_are_left_out_of_a_search(folder, tmp_path):
    save_drawn(Image.new("RGB", (4, 4)), folder / "a.jpg")
    own, other = picture(folder / "b.jpg"), picture(tmp_path / "a.jpg")
    pictures = [str(folder / "a.jpg"), str(own), str(other), "https://x.org/a.jpg"]
    assert without_drawn(pictures, folder) == pictures[1:]
    with pytest.raises(InputError, match=r"all 1 pictures lie in .*drawn by an earlier run"):
        without_drawn(pictures[:1], folder)


def test_a_picture_too_long_for_jpeg(folder, monkeypatch):
    monkeypatch.setattr(drawn, "LARGEST_JPEG", 5)
    save_drawn(Image.fromarray(np.zeros((2, 6, 3), np.uint8)), folder / "a.jpg")
    assert [path.name for path in folder.iterdir()] == ["a.png"]
    picture(folder / "b.png")
    with pytest.raises(InputError, match=r"b\.png is there and wasn't drawn"):
        save_drawn(Image.fromarray(np.zeros((2, 6, 3), np.uint8)), folder / "b.jpg")


def test_models_are_read_too(tmp_path):
    (tmp_path / "model" / "weights").mkdir(parents=True)
    (tmp_path / "model" / "config.json").touch()
    (tmp_path / "model" / "weights" / "0").touch()
    inputs = Inputs()
    inputs.add_model(str(tmp_path / "model"))
    for name in ("config.json", "weights/0"):
        with pytest.raises(InputError, match="--json would write to"):
            inputs.refuse(tmp_path / "model" / name, "--json")
    inputs.refuse(tmp_path / "model" / "found.json", "--json")
