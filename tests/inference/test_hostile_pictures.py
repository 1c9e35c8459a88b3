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
from dfine_jax.inference.decoding import Wanted
from dfine_jax.inference.pictures import PictureError, find_pictures, load_picture, loaded
from dfine_jax.inference.preprocess import resize
from dfine_jax.inference.room import Room
from dfine_jax.inference.strips import has_strips, strips
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


class TestLargePictures:
    """They are smaller than that here, and so is what counts as large."""

    WANTED = Wanted(24, 20, Image.Resampling.BILINEAR)

    @pytest.fixture(autouse=True)
    def _few_pixels_are_large(self, monkeypatch):
        monkeypatch.setattr(decoding, "LARGE", 300 * 200 - 1)
        monkeypatch.setattr(decoding, "AT_A_TIME", 7 * 300)

    def smooth(self, width=300, height=200):
        y, x = np.mgrid[:height, :width] / 20
        pixels = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x) * np.cos(y)], axis=-1)
        return Image.fromarray((127.5 + 127.5 * pixels).astype(np.uint8))

    def written(self, path, mode, orientation=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        deep = np.asarray(self.smooth().convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(deep) if mode == "I;16" else self.smooth().convert(mode)
        image.save(path, exif=exif)
        return path

    def difference(self, source, wanted, whole):
        """How far the model's input is from that of the whole picture."""
        settings = Preprocessing(height=wanted.height, width=wanted.width, resample=wanted.resample)
        with loaded(source, wanted=wanted) as (picture, size, again):
            assert size == whole.size
            assert picture.width * picture.height < size[0] * size[1]
            difference = resize(picture, settings).astype(float) - resize(whole, settings)
        np.testing.assert_array_equal(np.asarray(again()), np.asarray(whole))
        return np.abs(difference)

    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "1"])
    @pytest.mark.parametrize("orientation", [1, 3, 6])
    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
    def test_the_model_sees_the_same(self, tmp_path, mode, orientation, suffix, monkeypatch):
        if mode not in {"jpg": ("RGB", "L"), "webp": ("RGB", "RGBA")}.get(suffix, (mode,)):
            pytest.skip("no such file")
        path = self.written(tmp_path / f"a.{suffix}", mode, orientation)
        with monkeypatch.context() as large:
            large.setattr(decoding, "LARGE", 300 * 200)
            whole = load_picture(path)
        assert whole.size == ((200, 300) if orientation == 6 else (300, 200))
        np.testing.assert_array_equal(np.asarray(load_picture(path)), np.asarray(whole))
        for source in (path, Image.open(io.BytesIO(path.read_bytes()))):
            assert self.difference(source, self.WANTED, whole).max() <= (1 if orientation == 6 else 0)

    @pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.LANCZOS, Image.Resampling.BOX])
    def test_other_filters(self, tmp_path, resample):
        path = self.written(tmp_path / "a.png", "RGB")
        assert self.difference(path, Wanted(24, 40, resample), load_picture(path)).max() == 0

    def test_of_huge_jpegs_less_is_decoded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decoding, "HUGE", 300 * 200 - 1)
        path = self.written(tmp_path / "a.jpg", "RGB", 6)
        assert self.difference(path, self.WANTED, load_picture(path)).max() < 12

    def test_of_high_ones_rows_are_averaged(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decoding, "TALL", 200)
        path = self.written(tmp_path / "a.png", "RGB")
        assert 0 < self.difference(path, self.WANTED, load_picture(path)).max() < 12

    def test_as_stored(self, tmp_path):
        path = self.written(tmp_path / "a.png", "RGB", 6)
        with loaded(path, upright=False, wanted=self.WANTED) as (picture, size, _):
            assert size == (300, 200)
            assert picture.size == (24, 200)

    def test_orientation_that_comes_after_the_pixels(self, tmp_path, monkeypatch):
        exif = Image.Exif()
        exif[0x0112] = 3
        late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        first = self.written(tmp_path / "a.png", "RGB").read_bytes()
        (tmp_path / "b.png").write_bytes(first[:-12] + late + first[-12:])
        turned = load_picture(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_180)
        np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / "b.png")), np.asarray(turned))
        monkeypatch.setattr(decoding, "LARGE", 300 * 200)
        np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / "b.png")), np.asarray(turned))

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

    @pytest.mark.parametrize("damage", ["cut", "bits", "ended", "filter"])
    def test_damaged(self, tmp_path, damage):
        if damage in ("ended", "filter"):
            row = (b"\7" if damage == "filter" else b"\0") + b"\x55" * 900
            data = png(300, 200, rows=row * (200 if damage == "filter" else 150))
        else:
            data = bytearray(self.written(tmp_path / "a.png", "RGB").read_bytes())
            data = data[: len(data) // 2] if damage == "cut" else data[:3000] + bytes(200) + data[3200:]
        (tmp_path / "a.png").write_bytes(data)
        for wanted in (self.WANTED, None):
            with (
                pytest.raises(PictureError, match=r"a\.png: cut off, damaged or unsupported"),
                loaded(tmp_path / "a.png", wanted=wanted),
            ):
                pass

    def test_more_than_is_free(self, tmp_path, monkeypatch):
        path = self.written(tmp_path / "a.webp", "RGB")
        monkeypatch.setattr(decoding, "host_memory", lambda: 1000)
        with pytest.raises(
            PictureError, match=r"300x200 pixels takes about 1\.\d MiB of memory, and 1000 bytes are free"
        ):
            load_picture(path)


def test_a_side_that_no_memory_holds(tmp_path):
    (tmp_path / "a.png").write_bytes(png(2**20 + 1, 1))
    with pytest.raises(PictureError, match=r"1048577x1, and no side may be over 1,048,576; cut it to pieces"):
        load_picture(tmp_path / "a.png")


@pytest.mark.parametrize(("depth", "colours"), [
    *((depth, 0) for depth in (1, 2, 4, 8, 16)), *((depth, 3) for depth in (1, 2, 4, 8)),
    *((depth, colours) for depth in (8, 16) for colours in (2, 4, 6)),
])  # fmt: skip
@pytest.mark.parametrize("rows", [1, 6, 40])
def test_strips_are_what_pillow_decodes(depth, colours, rows):
    random = np.random.default_rng(depth + colours)
    width, height, channels = 13, 40, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    filtered = b"".join(  # every filter, on noise
        bytes([row % 5]) + random.bytes((width * depth * channels + 7) // 8) for row in range(height)
    )
    packed = zlib.compress(filtered)
    data = b"".join([
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)),
        chunk(b"PLTE", random.bytes(3 * 2**depth)) + chunk(b"tRNS", b"\5\6") if colours == 3 else b"",
        chunk(b"IDAT", packed[:50]), chunk(b"IDAT", b""), chunk(b"IDAT", packed[50:]), chunk(b"IEND", b""),
    ])  # fmt: skip
    whole, opened = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data))
    found = list(strips(opened, io.BytesIO(data), rows)) if has_strips(opened) else []
    assert [strip.height for strip in found] == [*[rows] * (height // rows), *[height % rows] * (height % rows > 0)]
    for mode in (whole.mode, "RGBA"):
        got = np.concatenate([np.asarray(strip.convert(mode)) for strip in found])
        np.testing.assert_array_equal(got, np.asarray(whole.convert(mode)))


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
