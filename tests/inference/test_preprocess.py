import dataclasses
import json
import zlib
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from dfine_jax.inference.pictures import load_picture
from dfine_jax.inference.preprocess import normalise, preprocess, resize
from dfine_jax.preprocessing import Preprocessing, PreprocessingError

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# What the published checkpoints say.
PUBLISHED = {
    "do_convert_annotations": True,
    "do_normalize": False,
    "do_pad": False,
    "do_rescale": True,
    "do_resize": True,
    "format": "coco_detection",
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "RTDetrImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "pad_size": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 640, "width": 640},
}


def pattern(height: int, width: int) -> Image.Image:
    """A picture made of nothing but arithmetic."""
    y, x, c = np.mgrid[:height, :width, :3]
    return Image.fromarray(((37 * y + 91 * x + 53 * c + y * x * (c + 1)) % 256).astype(np.uint8))


def all_levels() -> np.ndarray:
    """(16, 16, 3): every byte in every channel."""
    return np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


class TestResize:
    """The expected numbers are those of transformers 5.23's RTDetrImageProcessorPil with Pillow 13.0."""

    def test_bilinear(self):
        expected = [
            [[111, 132, 126], [122, 133, 129]],
            [[124, 127, 125], [115, 135, 130]],
            [[123, 133, 137], [137, 125, 122]],
        ]
        resized = resize(pattern(7, 9), Preprocessing(height=3, width=2))
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(resized, expected)

    def test_bicubic_up_and_down(self):
        settings = Preprocessing(height=9, width=4, resample=Image.Resampling.BICUBIC)
        expected = [[71, 127, 127], [95, 152, 121], [117, 183, 130], [146, 91, 152]]
        np.testing.assert_array_equal(resize(pattern(7, 9), settings)[0], expected)

    @pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
    def test_extreme_shapes(self, size):
        image = Image.new("RGB", size, (10, 20, 30))
        resized = resize(image, Preprocessing(height=32, width=64))
        np.testing.assert_array_equal(resized, np.broadcast_to(np.uint8([10, 20, 30]), (32, 64, 3)))

    def test_other_modes_are_refused(self):
        with pytest.raises(ValueError, match=r"mode 'L'.*load_picture"):
            resize(Image.new("L", (4, 4)), Preprocessing())


class TestValues:
    @pytest.mark.parametrize(
        ("settings", "checksum"),  # of transformers' float32 numbers for all levels
        [(Preprocessing(), 1505947453), (IMAGENET, 3943595040)],
    )
    def test_every_level_is_transformers_to_the_bit(self, settings, checksum):
        settings = dataclasses.replace(settings, height=16, width=16)
        values = preprocess(Image.fromarray(all_levels()), settings)
        assert values.dtype == np.float32
        assert values.shape == (16, 16, 3)
        assert zlib.crc32(np.ascontiguousarray(values).tobytes()) == checksum

    def test_white_is_exactly_one(self):
        assert (preprocess(Image.new("RGB", (4, 4), "white"), Preprocessing(height=2, width=2)) == 1.0).all()

    @pytest.mark.parametrize("jitted", [True, False])
    @pytest.mark.parametrize(
        "settings",
        [
            Preprocessing(),
            IMAGENET,
            Preprocessing(rescale_factor=1.0),
            Preprocessing(rescale_factor=1 / 127.5),
            Preprocessing(rescale_factor=0.1),
            Preprocessing(rescale_factor=1.0, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)),
        ],
    )
    def test_device_equals_host_to_the_bit(self, settings, jitted):
        settings = dataclasses.replace(settings, height=16, width=16)
        on_device = partial(normalise, settings=settings)
        on_device = jax.jit(on_device) if jitted else on_device
        values = np.asarray(on_device(all_levels()[None]))
        expected = preprocess(Image.fromarray(all_levels()), settings)[None]
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))

    def test_device_equals_host_where_the_compiler_may_fuse(self):
        """In front of a product and over a size that vectorises with a remainder."""
        images = np.random.default_rng(0).integers(0, 256, (2, 37, 41, 3), dtype=np.uint8)
        weight = np.float32(0.3)
        fused = jax.jit(lambda x: (normalise(x, Preprocessing()), normalise(x, Preprocessing()) * weight))(images)
        expected = (images.astype(np.float64) / 255).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(fused[0]), expected)
        np.testing.assert_array_equal(np.asarray(fused[1]), expected * weight)


class TestSettings:
    def test_published(self):
        assert Preprocessing.from_json(PUBLISHED) == Preprocessing()

    def test_from_file(self, tmp_path):
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps(PUBLISHED | {"size": {"height": 320, "width": 416}, "do_normalize": True}))
        assert Preprocessing.from_json(path) == dataclasses.replace(IMAGENET, height=320, width=416)

    @pytest.mark.parametrize(
        "settings",
        [
            Preprocessing(),
            dataclasses.replace(IMAGENET, height=320, width=416, resample=Image.Resampling.LANCZOS),
            Preprocessing(rescale_factor=1.0),
        ],
    )
    def test_there_and_back(self, settings):
        assert Preprocessing.from_json(json.loads(json.dumps(settings.to_json()))) == settings

    def test_defaults_are_those_of_transformers(self):
        assert Preprocessing.from_json({}) == Preprocessing()
        assert Preprocessing.from_json({"do_normalize": True}) == IMAGENET

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"do_rescale": False}, Preprocessing(rescale_factor=1.0)),
            (
                {"do_normalize": True, "image_mean": 0.5, "image_std": 0.25},
                Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
            ),
            ({"do_normalize": None, "size": None}, Preprocessing()),
            ({"do_pad": True}, Preprocessing()),
            ({"do_pad": True, "pad_size": {"height": 640, "width": 640}}, Preprocessing()),
            ({"do_convert_rgb": True, "processor_class": "X", "_valid_processor_keys": ["do_what"]}, Preprocessing()),
            ({"image_processor_type": "RTDetrImageProcessorFast"}, Preprocessing()),
        ],
    )
    def test_variants(self, fields, expected):
        assert Preprocessing.from_json(fields) == expected

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type='ViTImageProcessor'"),
            ({"do_resize": False}, "do_resize=False"),
            ({"do_center_crop": True}, "do_center_crop=True"),
            ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "size={'shortest_edge': 800"),
            ({"size": 640}, "size=640"),
            ({"size": {"height": 640.5, "width": 640}}, "height=640.5"),
            ({"size": {"height": 640, "width": 0}}, "width=0"),
            ({"do_pad": True, "pad_size": {"height": 800, "width": 800}}, "pad_size={'height': 800"),
            ({"resample": 9}, "resample=9"),
            ({"resample": "bilinear"}, "resample='bilinear'"),
            ({"rescale_factor": "1/255"}, "rescale_factor='1/255'"),
            ({"rescale_factor": 0}, "rescale_factor=0"),
            ({"do_normalize": True, "image_mean": [0.5, 0.5]}, "image_mean=[0.5, 0.5]"),
            ({"do_normalize": True, "image_std": [1, 1, "x"]}, "image_std='x'"),
            ({"do_normalize": True, "image_std": [1, 1, 0]}, "std=(1.0, 1.0, 0.0)"),
        ],
    )
    def test_unsupported_is_refused_by_name_and_value(self, fields, says):
        with pytest.raises(PreprocessingError) as caught:
            Preprocessing.from_json(PUBLISHED | fields)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_mean_without_std(self):
        with pytest.raises(PreprocessingError, match="give both or neither"):
            Preprocessing(mean=(0.5, 0.5, 0.5))

    @pytest.mark.parametrize("text", [None, "{", "[1]"])
    def test_bad_file(self, tmp_path, text):
        path = tmp_path / "preprocessor_config.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(PreprocessingError, match=r"preprocessor_config\.json"):
            Preprocessing.from_json(path)

    def test_hashable(self):
        assert hash(IMAGENET) == hash(dataclasses.replace(IMAGENET))


@pytest.fixture(scope="module")
def processor_class():
    """The Pillow processor, which before version 5 was the only one of the name."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        return transformers.RTDetrImageProcessor
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    return RTDetrImageProcessorPil


@pytest.mark.parity
class TestAgainstTransformers:
    def expected(self, processor, path) -> np.ndarray:
        from transformers.image_utils import load_image

        values = processor(load_image(str(path)), return_tensors="np")["pixel_values"]
        return np.asarray(values[0]).transpose(1, 2, 0)

    @pytest.mark.parametrize("size", [(1, 1), (640, 640), (641, 479), (33, 1000), (2000, 3), (1281, 1283)])
    @pytest.mark.parametrize("normalised", [False, True])
    def test_sizes(self, processor_class, tmp_path, size, normalised):
        path = tmp_path / "a.png"
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        settings = IMAGENET if normalised else Preprocessing()
        expected = self.expected(processor_class(**settings.to_json()), path)
        image = load_picture(path)
        np.testing.assert_array_equal(preprocess(image, settings), expected)
        np.testing.assert_array_equal(np.asarray(normalise(resize(image, settings), settings)), expected)

    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [("L", "png"), ("1", "png"), ("P", "png"), ("LA", "png"), ("RGBA", "png"), ("RGBA", "webp"), ("RGB", "jpg"),
         ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "tif"), ("P", "gif"), ("RGB", "avif")],
    )  # fmt: skip
    def test_modes(self, processor_class, tmp_path, mode, suffix):
        path = tmp_path / f"a.{suffix}"
        pixels = np.random.default_rng(2).integers(0, 256, (61, 97, 4), dtype=np.uint8)
        image = Image.fromarray(pixels)
        (image if mode in ("LA", "RGBA") else image.convert("RGB")).convert(mode).save(path)
        settings = Preprocessing(height=96, width=64)
        expected = self.expected(processor_class(**settings.to_json()), path)
        np.testing.assert_array_equal(preprocess(load_picture(path), settings), expected)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif(self, processor_class, tmp_path, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pattern(61, 97).save(tmp_path / "a.jpg", exif=exif)
        settings = Preprocessing(height=64, width=96)
        expected = self.expected(processor_class(**settings.to_json()), tmp_path / "a.jpg")
        np.testing.assert_array_equal(preprocess(load_picture(tmp_path / "a.jpg"), settings), expected)

    @pytest.mark.parametrize("resample", list(Image.Resampling))
    def test_filters(self, processor_class, tmp_path, resample):
        pattern(61, 97).save(tmp_path / "a.png")
        settings = Preprocessing(height=32, width=128, resample=resample)
        expected = self.expected(processor_class(**settings.to_json()), tmp_path / "a.png")
        np.testing.assert_array_equal(preprocess(load_picture(tmp_path / "a.png"), settings), expected)

    @pytest.mark.parametrize("settings", [Preprocessing(), dataclasses.replace(IMAGENET, height=320, width=416)])
    def test_settings_are_read_alike(self, processor_class, tmp_path, settings):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings.to_json()))
        processor = processor_class.from_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        assert Preprocessing.from_json(tmp_path / "preprocessor_config.json") == settings
        assert dict(processor.size) == {"height": settings.height, "width": settings.width}
        assert processor.do_normalize == (settings.mean is not None)
