"""Files that are called pictures and were made to do harm, and pictures larger than memory would like."""

import io
import os
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from dfine_jax.inference import decoding
from dfine_jax.inference.pictures import PictureError, find_pictures, load_picture, loaded
from dfine_jax.inference.preprocess import resize
from dfine_jax.inference.room import Room
from dfine_jax.preprocessing import Preprocessing

INFLATES = zlib.compress(bytes(50 * 2**20), 9)
"""50 MiB in 50 KB."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows or (b"\0" + b"\x55" * 3 * width) * height))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def tiff_of_frames(count: int, *, endless: bool = False) -> bytes:
    """A grey picture of 8x8, so many times; or the last one leads back to the first."""
    entries = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (278, 8), (279, 64)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    places = [72 + (len(table) + 4) * i for i in range(count)]
    last = places[0] if endless else 0
    tables = b"".join(table + struct.pack("<I", place) for place in [*places[1:], last])
    return b"II*\0" + struct.pack("<I", places[0]) + bytes(64) + tables


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    sizes = struct.pack("<HH", *screen) + b"\0\0\0,", struct.pack("<HHHHB", 0, 0, *frame, 0)
    return b"GIF89a" + b"".join(sizes) + b"\x02\x02\x4c\x01\x00;"


BOMB = png(30000, 30000, rows=bytes(1000))
ICO = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(BOMB), 22) + BOMB
ICNS = b"icns" + struct.pack(">I", 16 + len(BOMB)) + b"ic10" + struct.pack(">I", 8 + len(BOMB)) + BOMB


def jpeg2000_of_size(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG2000", no_jp2=True)
    data = bytearray(file.getvalue())
    place = data.index(b"\xff\x51") + 6
    data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(png(8, 8, chunk(b"zTXt", b"a\0\0" + INFLATES)), "too large", id="zTXt"),
        pytest.param(png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + INFLATES)), "too large", id="iTXt"),
        pytest.param(png(8, 8, chunk(b"iCCP", b"a\0\0" + INFLATES)), "too large", id="iCCP"),
        pytest.param(BOMB, "too large, over 178 million pixels", id="png"),
        pytest.param(gif((65535, 65535), (8, 8)), "too large, over 178 million pixels", id="gif"),
        pytest.param(gif((8, 8), (65535, 65535)), "too large, over 178 million pixels", id="frame"),
        pytest.param(ICO, "too large, over 178 million pixels", id="ico"),
        pytest.param(ICNS, "too large, over 178 million pixels", id="icns"),
        pytest.param(jpeg2000_of_size(60000, 60000), "too large, over 178 million pixels", id="jpeg2000"),
        pytest.param(b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture", id="svg"),
        pytest.param(b"%PDF-1.7\n", "not a picture", id="pdf"),
        pytest.param(b"SIMPLE  =                    T" + b" " * 50, "not a picture", id="fits"),
    ],
)
def test_bombs_and_what_is_no_picture(tmp_path, data, says):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(PictureError) as caught:
        load_picture(path)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_picture_that_asks_for_more_memory_than_there_is(tmp_path, monkeypatch):
    def load(self):
        raise MemoryError

    path = tmp_path / "a.png"
    path.write_bytes(png(8, 8))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(PictureError, match=r"a\.png: not enough memory to decode it, or damaged"):
        load_picture(path)


def test_no_other_program_is_started_for_postscript(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **options: pytest.fail("a program was started"))
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(PictureError, match="not a picture"):
        load_picture(path)


@pytest.mark.parametrize("endless", [False, True])
def test_only_the_first_of_many_frames_is_looked_for(tmp_path, endless):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of_frames(10**5, endless=endless))
    assert load_picture(path).size == (8, 8)


class TestWhatIsNoFile:
    @pytest.fixture
    def pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        return tmp_path / "pipe.jpg"

    def test_a_pipe_is_not_waited_for(self, pipe):
        for source in (pipe, pipe.as_uri()):
            with pytest.raises(PictureError, match="a named pipe, expected a file"):
                load_picture(source)

    def test_a_pipe_among_pictures(self, pipe):
        assert find_pictures(pipe.parent) == find_pictures(f"{pipe.parent}/*") == [str(pipe)]

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
    def test_devices(self, device):
        with pytest.raises(PictureError, match=r"a named pipe|a device|can't be read|no such file"):
            load_picture(device)


def test_names_are_spelled_out_in_messages(tmp_path):
    path = tmp_path / "a\n\x1b\u202e.jpg"
    with pytest.raises(PictureError, match=r"a\\n\\x1b\\u202e\.jpg: no such file"):
        load_picture(path)
    with pytest.raises(PictureError, match=r"a\\n\\x1b\\u202e\.jpg: no such file"):
        find_pictures([path])


class TestHugePictures:
    """They are smaller than that here, and so is what counts as huge."""

    WANTED = (24, 20)

    @pytest.fixture(autouse=True)
    def _few_pixels_are_huge(self, monkeypatch):
        monkeypatch.setattr(decoding, "HUGE", 300 * 200 - 1)
        monkeypatch.setattr(decoding, "ROWS", 7)

    def smooth(self, width=300, height=200):
        y, x = np.mgrid[:height, :width] / 20
        pixels = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x) * np.cos(y)], axis=-1)
        return Image.fromarray((127.5 + 127.5 * pixels).astype(np.uint8))

    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
    @pytest.mark.parametrize("orientation", [1, 3, 6])
    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
    def test_less_is_decoded_and_the_result_is_about_the_same(self, tmp_path, mode, orientation, suffix):
        if suffix == "jpg" and mode not in ("RGB", "L"):
            pytest.skip("no such JPEG")
        exif = Image.Exif()
        exif[0x0112] = orientation
        deep = np.asarray(self.smooth().convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(deep) if mode == "I;16" else self.smooth().convert(mode)
        path = tmp_path / f"a.{suffix}"
        image.save(path, exif=exif)
        settings = Preprocessing(height=self.WANTED[1], width=self.WANTED[0])
        whole = load_picture(path)
        for source in (path, Image.open(io.BytesIO(path.read_bytes()))):
            with loaded(source, wanted=self.WANTED) as (picture, size, again):
                assert size == whole.size == ((200, 300) if orientation == 6 else (300, 200))
                assert picture.width * picture.height < size[0] * size[1]
                assert all(side >= 4 * least for side, least in zip(picture.size, self.WANTED, strict=True))
                difference = resize(picture, settings).astype(float) - resize(whole, settings)
            assert np.abs(difference).max() < 12
            assert np.abs(difference).mean() < 2
            np.testing.assert_array_equal(np.asarray(again()), np.asarray(whole))

    def test_as_stored(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        self.smooth().save(tmp_path / "a.png", exif=exif)
        with loaded(tmp_path / "a.png", upright=False, wanted=self.WANTED) as (picture, size, _):
            assert size == (300, 200)
            assert picture.size == (150, 100)

    def test_one_pixel_less_is_decoded_whole(self, tmp_path):
        self.smooth(299).save(tmp_path / "a.png")
        with loaded(tmp_path / "a.png", wanted=self.WANTED) as (picture, size, _):
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(load_picture(tmp_path / "a.png")))
            assert picture.size == size

    def test_no_image_of_a_caller_is_changed(self, tmp_path):
        self.smooth().save(tmp_path / "a.jpg")
        given = Image.open(tmp_path / "a.jpg")
        with loaded(given, wanted=self.WANTED):
            pass
        assert given.size == (300, 200)
        assert given.getpixel((5, 5))


class TestRoom:
    def test_no_more_than_there_is(self):
        room, now, most = Room(10), [0], [0]
        lock = threading.Lock()

        def take(wanted):
            with room.taken(wanted):
                with lock:
                    now[0] += min(wanted, 10)
                    most[0] = max(most[0], now[0])
                time.sleep(0.002)
                with lock:
                    now[0] -= min(wanted, 10)

        threads = [threading.Thread(target=take, args=(wanted,)) for wanted in (3, 4, 5, 100, 1, 2, 6) * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert now == [0]
        assert 5 < most[0] <= 10

    def test_what_is_taken_is_given_back_after_an_error(self):
        room = Room(10)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), room.taken(10):
                raise ZeroDivisionError

    def test_a_damaged_picture_gives_its_room_back(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decoding, "ROOM", Room(10))
        (tmp_path / "a.png").write_bytes(png(64, 64)[:-30])
        for _ in range(3):
            with pytest.raises(PictureError):
                load_picture(tmp_path / "a.png")
