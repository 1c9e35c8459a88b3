"""From what labels call a picture to its file."""

import unicodedata

import pytest
from dataset_files import write_picture

from dfine_jax.data.references import PictureIndex, Reference, parts_of


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a.png", ["a.png"]),
        (r"images\a.png", ["images", "a.png"]),
        (r".\images\..\b\a.png", ["b", "a.png"]),
        (r"C:\pictures\a.png", ["pictures", "a.png"]),
        ("D:/pictures/a.png", ["pictures", "a.png"]),
        ("../../x/a.png", ["x", "a.png"]),
        ("/home/me//a.png", ["home", "me", "a.png"]),
        ("https://host.org/x/a%20b.png?token=1/2#top", ["x", "a b.png"]),
        ("file:///C:/x/a.png", ["C:", "x", "a.png"]),
        ("s3://bucket/x/a.png", ["x", "a.png"]),
        ("/data/local-files/?d=sub/a.png", ["sub", "a.png"]),
        ("/data/local-files/?d=sub%2Fa%20b.png", ["sub", "a b.png"]),
        ("http://[broken/a.png", ["http:", "[broken", "a.png"]),
        ("what?.png", ["what?.png"]),
        ("x/what? 1.png", ["x", "what? 1.png"]),
        ("", []),
        ("..", []),
    ],
)
def test_parts_of_paths(written, expected):
    assert parts_of(written) == expected


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("a.png", "images/a.png"),
        (r"images\a.png", "images/a.png"),
        (r"C:\Users\me\a.png", "images/a.png"),
        ("/content/drive/set/images/a.png", "images/a.png"),
        ("../../server/media/upload/4/a.png", "images/a.png"),
        ("/data/upload/1/ab12cd34-a.png", "images/a.png"),
        ("/data/upload/1/ab12cd34-a.png", "images/ab12cd34-a.png"),
        ("a.png", "images/ab12cd34-a.png"),
        ("/data/local-files/?d=x/a.png", "images/a.png"),
        ("https://host/x/a%20b.png", "images/a b.png"),
        ("A.PNG", "images/a.png"),
        ("a.png", "images/A.PNG"),
        ("a", "images/a.png"),
        ("a.jpg", "images/a.png"),
        ("frame.0001", "images/frame.0001.png"),
        ("d%C3%A9cran.png", "images/décran.png"),
        ("décran.png", "images/d%C3%A9cran.png"),
        (unicodedata.normalize("NFD", "décran.png"), "images/" + unicodedata.normalize("NFC", "décran.png")),
        (unicodedata.normalize("NFC", "décran.png"), "images/" + unicodedata.normalize("NFD", "décran.png")),
        ("x/train/a.png", "train/a.png"),
    ],
)
def test_pictures_are_found_by_name(tmp_path, written, there):
    path = write_picture(tmp_path / there)
    write_picture(tmp_path / "images/other.png")
    (place,) = PictureIndex(tmp_path).locate([Reference((written,), tmp_path)])
    assert place.path == path
    assert not place.rivals


def test_of_several_the_one_in_the_likest_folder_is_taken(tmp_path):
    for folder in ("train/images", "valid/images"):
        write_picture(tmp_path / folder / "a.png")
    index = PictureIndex(tmp_path)
    (place,) = index.locate([Reference((r"C:\old\validation\images\a.png",), tmp_path)])
    assert place.path == tmp_path / "valid/images/a.png"
    (place,) = index.locate([Reference(("elsewhere/a.png",), tmp_path)])
    assert len(place.rivals) == 2
    assert not place.path.exists()


def test_a_file_that_is_listed_itself_is_not_taken_for_another(tmp_path):
    write_picture(tmp_path / "a.jpg")
    missing, there = PictureIndex(tmp_path).locate([Reference((name,), tmp_path) for name in ("a.png", "a.jpg")])
    assert there.path == tmp_path / "a.jpg"
    assert not missing.path.exists()


def test_nothing_outside_of_the_data_set_is_reached(tmp_path):
    write_picture(tmp_path / "secret.png")
    inside = write_picture(tmp_path / "set/images/a.png")
    index = PictureIndex(tmp_path / "set")
    names = ["../secret.png", "images/../../secret.png", r"..\secret.png", "labels/../images/a.png"]
    (tmp_path / "set/labels").mkdir()
    places = index.locate([Reference((name,), tmp_path / "set") for name in names])
    assert [place.path.exists() and place.path for place in places] == [False, False, False, inside]


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "x" * 5000, "/", "..", "://", "http://[", "?", "%"])
def test_hostile_names_are_just_not_there(tmp_path, name):
    write_picture(tmp_path / "a.png")
    (place,) = PictureIndex(tmp_path).locate([Reference((name,), tmp_path)])
    assert not place.by_name
