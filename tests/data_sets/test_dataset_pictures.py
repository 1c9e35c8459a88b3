"""Training and evaluation see the pixels that detection sees."""

import struct

import numpy as np
import pytest
from dataset_files import write_coco, write_text
from PIL import Image

from dfine_jax.data.formats import open_dataset
from dfine_jax.data.samples import ProblemKind, UnreadablePictureError
from dfine_jax.inference.pictures import load_picture

GREY = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
COLOURS = np.random.default_rng(0).integers(0, 255, (48, 64, 4), np.uint8)


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


PICTURES = {
    "grey16.png": (GREY, {}),
    "grey16.tif": (GREY, {}),
    "grey.png": (GREY.astype(np.uint8), {}),
    "alpha.png": (COLOURS, {}),
    "alpha.webp": (COLOURS, {}),
    "palette.gif": (COLOURS[..., 0], {}),
    "cmyk.jpg": (Image.fromarray(COLOURS, "CMYK"), {}),
    "one bit.png": (GREY % 2 == 0, {}),
    "turned.jpg": (COLOURS[..., :3], {"exif": exif(6)}),
    "mirrored.png": (COLOURS[..., :3], {"exif": exif(2)}),
    "broken exif.jpg": (COLOURS[..., :3], {"exif": b"Exif\0\0II*\0" + struct.pack("<IH", 8, 9999)}),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", PICTURES)
def test_pixels_and_sizes_are_those_of_detection(tmp_path, name):
    pixels, options = PICTURES[name]
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(tmp_path / name, **options)
    dataset = open_dataset(write_coco(tmp_path / "x.json", [{"id": 1, "file_name": name}]), None)
    assert not dataset.problems
    record = dataset.records[0]
    expected = np.asarray(load_picture(tmp_path / name))
    np.testing.assert_array_equal(record.pixels(), expected)
    assert expected.shape == (record.height, record.width, 3)


def test_greys_of_16_bits_are_not_white(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    pixels = open_dataset(write_coco(tmp_path / "x.json"), None).records[0].pixels()
    np.testing.assert_allclose(pixels[..., 0], GREY / 257, atol=0.51)


@pytest.mark.parametrize("orientation", [6, 8])
def test_labels_of_the_stored_picture_get_the_stored_pixels(tmp_path, orientation):
    Image.fromarray(COLOURS[..., :3]).save(tmp_path / "a.png", exif=exif(orientation))
    dataset = open_dataset(write_coco(tmp_path / "x.json"), None)  # which says 64 x 48
    np.testing.assert_array_equal(dataset.records[0].pixels(), COLOURS[..., :3])


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "a.heif", "a.jpg", "a.png", "a.jp2"])
def test_what_can_t_be_read_is_named(tmp_path, name):
    Image.fromarray(COLOURS[..., :3]).save(tmp_path / "good.png")
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    write_text(tmp_path / "good.txt", "0 0.5 0.5 0.2 0.2")
    dataset = open_dataset(tmp_path, None)
    (problem,) = dataset.problems
    assert (problem.kind, problem.file.name) == (ProblemKind.UNREADABLE_PICTURE, name)
    assert ("HEIC" in problem.message) == name.lower().endswith(("heic", "heif"))


def test_a_cut_picture_is_named_when_it_is_decoded(tmp_path):
    Image.fromarray(COLOURS[..., :3]).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    record = open_dataset(write_coco(tmp_path / "x.json"), None).records[0]
    with pytest.raises(UnreadablePictureError, match=r"^can't decode .*a\.png: cut off, damaged or unsupported"):
        record.pixels()
