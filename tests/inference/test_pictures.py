import base64
import http.server
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dfine_jax.inference import addresses
from dfine_jax.inference.pictures import PictureError, find_pictures, load_picture, open_image, picture_name

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters() -> Image.Image:
    """A 4x2 picture whose top half is red and green, whose lower half is blue and white."""
    pixels = np.array([[RED, RED, GREEN, GREEN], [BLUE, BLUE, WHITE, WHITE]], np.uint8)
    return Image.fromarray(pixels)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def error_of(source) -> str:
    """The message of the PictureError that loading gives, which has to be one short line."""
    with pytest.raises(PictureError) as caught:
        load_picture(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


def file_of(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


class TestPicturesAsPeopleHaveThem:
    @pytest.mark.parametrize("as_path", [str, Path])
    def test_rgb_file(self, tmp_path, as_path):
        picture = load_picture(as_path(file_of(quarters(), tmp_path / "a.png")))
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(quarters()))

    @pytest.mark.parametrize(
        ("orientation", "corner"),  # the colour that belongs in the upper left once the picture is upright
        [(1, RED), (2, GREEN), (3, WHITE), (4, BLUE), (5, RED), (6, BLUE), (7, WHITE), (8, GREEN)],
    )
    def test_exif_rotation(self, tmp_path, orientation, corner):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = load_picture(file_of(quarters(), tmp_path / "a.png", exif=exif))
        assert picture.size == ((4, 2) if orientation < 5 else (2, 4))
        assert picture.getpixel((0, 0)) == corner

    def test_pixels_as_stored(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = file_of(quarters(), tmp_path / "a.png", exif=exif)
        for source in (path, Image.open(path)):
            np.testing.assert_array_equal(np.asarray(load_picture(source, upright=False)), np.asarray(quarters()))

    def test_size_without_decoding(self, tmp_path):
        with open_image(file_of(quarters(), tmp_path / "a.webp")) as image:
            assert image.size == (4, 2)
        with pytest.raises(OSError, match="a device, expected a file"), open_image(os.devnull):
            pass

    def test_exif_of_a_pil_image_is_honoured_and_the_image_left_alone(self):
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        quarters().save(file, "JPEG", exif=exif)
        given = Image.open(file)
        assert load_picture(given).size == (2, 4)
        assert given.size == (4, 2)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_damaged_exif(self, tmp_path):
        path = file_of(quarters(), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
        assert load_picture(path).size == (4, 2)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
    def test_modes(self, mode):
        picture = load_picture(Image.new("RGB", (3, 2), WHITE).convert(mode))
        assert (picture.mode, picture.size) == ("RGB", (3, 2))
        np.testing.assert_allclose(np.asarray(picture), 255, atol=1)

    @pytest.mark.parametrize(("mode", "straight"), [("La", "LA"), ("RGBa", "RGBA")])
    def test_premultiplied_alpha(self, mode, straight):
        picture = load_picture(Image.new(straight, (3, 2), 200).convert(straight).convert(mode))
        assert (picture.mode, picture.size) == ("RGB", (3, 2))

    def test_greyscale_is_the_same_in_all_channels(self, tmp_path):
        grey = noise(5, 7)
        picture = np.asarray(load_picture(file_of(Image.fromarray(grey), tmp_path / "a.png")))
        np.testing.assert_array_equal(picture, np.repeat(grey[..., None], 3, axis=2))

    def test_alpha_is_dropped_and_the_colour_under_it_kept(self, tmp_path):
        pixels = noise(6, 5, 4)
        picture = np.asarray(load_picture(file_of(Image.fromarray(pixels), tmp_path / "a.png")))
        np.testing.assert_array_equal(picture, pixels[..., :3])

    def test_palette_with_transparency(self, tmp_path):
        image = Image.fromarray(noise(8, 8, 4)).quantize(16)
        path = file_of(image, tmp_path / "a.png")
        with Image.open(path) as opened:
            assert "transparency" in opened.info
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture = load_picture(path)
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(image.convert("RGBA"))[..., :3])

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
    def test_sixteen_bits_are_scaled_and_not_clipped(self, tmp_path, suffix):
        levels = np.array([[0, 256, 257, 32768, 40000, 65535]], np.uint16)
        picture = load_picture(file_of(Image.fromarray(levels), tmp_path / f"a{suffix}"))
        np.testing.assert_array_equal(np.asarray(picture)[0, :, 0], [0, 1, 1, 128, 156, 255])

    def test_big_endian_sixteen_bits(self):
        image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257, 65535))
        np.testing.assert_array_equal(np.asarray(load_picture(image))[0, :, 0], [1, 255])

    def test_float_tiff(self, tmp_path):
        levels = np.array([[0.0, 0.5, 1.0]], np.float32)
        picture = load_picture(file_of(Image.fromarray(levels), tmp_path / "a.tif"))
        np.testing.assert_array_equal(np.asarray(picture)[0, :, 0], [0, 128, 255])

    def test_cmyk_jpeg(self, tmp_path):
        path = file_of(Image.new("RGB", (16, 16), RED).convert("CMYK"), tmp_path / "a.jpg", quality=100)
        np.testing.assert_allclose(load_picture(path).getpixel((8, 8)), RED, atol=4)

    @pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
    def test_first_frame_of_an_animation(self, tmp_path, suffix):
        frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
        options = {"lossless": True} if suffix == ".webp" else {}
        path = file_of(frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
        assert load_picture(path).getpixel((4, 4)) == RED

    @pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)])
    def test_extreme_shapes(self, tmp_path, size):
        assert load_picture(file_of(Image.new("RGB", size, RED), tmp_path / "a.png")).size == size

    def test_suffix_does_not_matter(self, tmp_path):
        path = tmp_path / "picture.txt"
        quarters().save(path, "PNG")
        assert load_picture(path).size == (4, 2)

    def test_loading_leaves_no_file_open(self, tmp_path):
        path = file_of(quarters(), tmp_path / "a.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            load_picture(path)


class TestArrays:
    @pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
    @pytest.mark.parametrize("library", [np.asarray, jnp.asarray])
    def test_shapes(self, shape, library):
        pixels = noise(*shape)
        expected = np.broadcast_to(pixels.reshape(3, 5, -1)[..., :3], (3, 5, 3))
        np.testing.assert_array_equal(np.asarray(load_picture(library(pixels))), expected)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.array([[0.0, 0.5, 1.0]]), [0, 128, 255]),
            (np.array([[0.0, 0.25, 1.0]], np.float16), [0, 64, 255]),
            (np.array([[-0.0005, 0.5, 1.0005]], np.float32), [0, 128, 255]),
            (np.array([[False, True]]), [0, 255]),
            (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
            (np.array([[0, 7, 255]], np.int64), [0, 7, 255]),
            (jnp.array([[0.0, 0.5, 1.0]], jnp.bfloat16), [0, 128, 255]),
        ],
    )
    def test_types(self, values, expected):
        np.testing.assert_array_equal(np.asarray(load_picture(values))[0, :, 0], expected)

    def test_a_view_that_is_not_contiguous(self):
        pixels = noise(6, 8, 3)
        np.testing.assert_array_equal(np.asarray(load_picture(pixels[::-2, ::2])), pixels[::-2, ::2])

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (np.zeros((3, 480, 640), np.uint8), "(3, 480, 640)"),
            (np.zeros((1, 4, 4, 3), np.uint8), "(1, 4, 4, 3)"),
            (np.zeros((4, 4, 2), np.uint8), "(4, 4, 2)"),
            (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
            (np.zeros(7, np.uint8), "(7,)"),
            (np.full((2, 2), 200.0), "from 200 to 200; expected 0 to 1"),
            (np.full((2, 2), np.nan), "from nan to nan"),
            (np.full((2, 2), -1), "from -1 to -1; expected 0 to 255"),
            (np.zeros((2, 2), np.complex64), "complex64"),
            (np.array([["a", "b"]]), "<U1"),
        ],
    )
    def test_what_is_no_picture(self, array, says):
        assert says in error_of(array)


class TestBadFiles:
    def test_missing(self, tmp_path):
        assert "no such file" in error_of(tmp_path / "a.png")

    def test_empty(self, tmp_path):
        (tmp_path / "a.png").touch()
        assert "a.png: the file is empty" in error_of(tmp_path / "a.png")

    def test_folder(self, tmp_path):
        assert "a folder" in error_of(tmp_path)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp"])
    def test_truncated(self, tmp_path, suffix):
        path = file_of(Image.fromarray(noise(64, 64, 3)), tmp_path / f"a{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert path.name in error_of(path)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp", ".tga", ".ppm"])
    def test_damaged_anywhere_is_a_picture_or_a_clear_error(self, tmp_path, suffix):
        path = file_of(Image.fromarray(noise(16, 16, 3)), tmp_path / f"a{suffix}")
        data = path.read_bytes()
        rng = np.random.default_rng(0)
        messages = []
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, min(len(data), 200), 4):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert load_picture(path).mode == "RGB"
                except PictureError as error:
                    messages.append(str(error))
        assert not any("\n" in message for message in messages)

    @pytest.mark.parametrize("content", [b"hello", b"\0" * 5000, b"%PDF-1.7 ...", b"<svg xmlns='...'/>"])
    def test_foreign(self, tmp_path, content):
        (tmp_path / "a.jpg").write_bytes(content)
        assert "not a picture" in error_of(tmp_path / "a.jpg")

    def test_heic_is_told_by_name(self, tmp_path):
        (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        assert "HEIC pictures aren't supported; convert" in error_of(tmp_path / "IMG_1.HEIC")

    def test_decompression_bomb(self, tmp_path):
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(data)
        message = error_of(tmp_path / "bomb.png")
        assert "bomb.png: too large, over 178 million pixels" in message

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
    def test_unreadable(self, tmp_path):
        path = file_of(quarters(), tmp_path / "a.png")
        path.chmod(0)
        assert "Permission denied" in error_of(path)

    def test_values_of_no_known_scale(self, tmp_path):
        path = file_of(Image.fromarray(np.array([[0, 70000]], np.int32)), tmp_path / "a.tif")
        assert "greys from 0 to 70000" in error_of(path)

    @pytest.mark.parametrize("source", [None, 3, ["a.png"], b"bytes"])
    def test_other_things(self, source):
        assert "not a picture" in error_of(source)

    def test_null_character(self):
        assert "null" in error_of("a\0.png")


@pytest.fixture(scope="module")
def server():
    """A local web server, and its address."""
    png = io.BytesIO()
    quarters().save(png, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            pages = {
                "/a.png": (200, "image/png", png.getvalue()),
                "/a%20b%C3%A9.png?x=1": (200, "image/png", png.getvalue()),
                "/page": (200, "text/html; charset=utf-8", b"<html>"),
                "/empty": (200, "image/png", b""),
                "/large": (200, "image/png", b"x" * 5000),
            }
            status, kind, body = pages.get(self.path, (404, "text/plain", b""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as it:
        threading.Thread(target=it.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{it.server_port}"
        it.shutdown()


class TestAddresses:
    @pytest.mark.parametrize("path", ["/a.png", "/a bé.png?x=1", "/a%20b%C3%A9.png?x=1"])
    def test_http(self, server, path):
        np.testing.assert_array_equal(np.asarray(load_picture(server + path)), np.asarray(quarters()))

    @pytest.mark.parametrize(
        ("path", "says"),
        [("/none.png", "404"), ("/page", "web page"), ("/empty", "nothing"), ("/large", "not a picture")],
    )
    def test_bad_answers(self, server, path, says):
        message = error_of(server + path)
        assert says in message
        assert message.startswith(server + path)

    def test_size_limit(self, server, monkeypatch):
        monkeypatch.setattr(addresses, "MAX_DOWNLOAD", 4999)
        assert "download it and give the file's path" in error_of(server + "/large")

    def test_no_network(self):
        with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as taken:
            address = f"http://127.0.0.1:{taken.server_port}/a.png"  # free again, so nobody listens, once closed
        message = error_of(address)
        assert "can't be reached" in message
        assert "check the address and the network" in message

    @pytest.mark.parametrize("address", ["http://", "http://[", "https://:x/"])
    def test_malformed(self, address):
        assert "can't be reached" in error_of(address)

    def test_file_address(self, tmp_path):
        path = file_of(quarters(), tmp_path / "a b.png")
        assert load_picture(path.as_uri()).size == (4, 2)
        assert "no such file" in error_of((tmp_path / "none.png").as_uri())

    def test_data_address(self):
        file = io.BytesIO()
        quarters().save(file, "PNG")
        address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        np.testing.assert_array_equal(np.asarray(load_picture(address)), np.asarray(quarters()))

    @pytest.mark.parametrize(
        "address", ["data:image/png;base64,@@@", "data:image/png", "data:image/png;base64,aGVsbG8="]
    )
    def test_bad_data_address(self, address):
        error_of(address)

    def test_unknown_scheme(self):
        assert "can't fetch from s3://" in error_of("s3://bucket/a.png")


class TestNames:
    def test_names(self, tmp_path):
        assert picture_name("b/a.jpg") == "b/a.jpg"
        assert picture_name(Path("b") / "a.jpg") == os.path.join("b", "a.jpg")
        assert picture_name("https://x.org/a.jpg") == "https://x.org/a.jpg"
        assert picture_name("data:image/png;base64," + "A" * 1000) == "data:image/png;base64," + "A" * 18 + "..."
        assert picture_name(quarters()) == "picture"
        assert picture_name(np.zeros((2, 2))) == "array"
        path = file_of(quarters(), tmp_path / "a.png")
        with Image.open(path) as image:
            assert picture_name(image) == str(path)


class TestFinding:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ["b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.jpeg", "sub/.git/d.jpg", "empty/readme.md"]:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    def names(self, folder, found):
        return [Path(f).relative_to(folder).as_posix() for f in found]

    def test_folder(self, folder):
        assert self.names(folder, find_pictures([folder])) == ["a.PNG", "b.jpg", "sub/c.jpeg"]

    def test_one_path_alone(self, folder):
        assert self.names(folder, find_pictures(str(folder))) == ["a.PNG", "b.jpg", "sub/c.jpeg"]

    def test_glob(self, folder):
        assert self.names(folder, find_pictures([f"{folder}/*.jp*g"])) == ["b.jpg"]
        assert self.names(folder, find_pictures([f"{folder}/**/*.jp*g"])) == ["b.jpg", "sub/c.jpeg"]

    def test_glob_is_as_a_shell_expands_it(self, folder):
        assert self.names(folder, find_pictures([f"{folder}/*"])) == ["a.PNG", "b.jpg", "notes.txt", "sub/c.jpeg"]

    def test_order_is_kept_and_each_comes_once(self, folder):
        address = "https://example.org/a.jpg"
        found = find_pictures([address, folder / "sub", folder / "b.jpg", folder, address])
        assert found[0] == address
        assert self.names(folder, found[1:]) == ["sub/c.jpeg", "b.jpg", "a.PNG"]

    def test_named_files_are_taken_whatever_they_are(self, folder):
        wanted = [folder / "notes.txt", folder / ".hidden.jpg"]
        assert find_pictures(wanted) == [str(w) for w in wanted]

    def test_file_with_brackets(self, folder):
        path = folder / "a[1].jpg"
        path.write_bytes(b"x")
        assert find_pictures([path]) == [str(path)]

    @pytest.mark.parametrize(
        ("path", "says"),
        [("empty", "no pictures in this folder"), ("*.bmp", "no file matches"), ("nothing.jpg", "no such file")],
    )
    def test_nothing_there(self, folder, path, says):
        with pytest.raises(PictureError, match=says):
            find_pictures([folder / "b.jpg", folder / path])
