import itertools
import math

import numpy as np
import pytest
from PIL import Image

from dfine_jax.class_names import COCO_CLASSES
from dfine_jax.inference import draw as drawing
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.draw import class_color, draw, text_color


def detections(boxes, size, labels=None, names=COCO_CLASSES) -> Detections:
    n = len(boxes)
    labels = np.arange(n) if labels is None else np.asarray(labels)
    return Detections(np.float32(boxes).reshape(n, 4), np.linspace(0.99, 0.5, n, dtype=np.float32), labels, names, size)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before) != np.asarray(after)).any(-1)


def places(found: Detections) -> np.ndarray:
    """Where the tags go."""
    texts = [drawing._tag_text(d) for d in found]
    face = drawing._face(None, drawing._text_size(found.size, texts), texts)
    return np.array([tag.place for tag in drawing._place_tags(found, texts, found.size, face)])


def overlap(a, b) -> int:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


class TestDraw:
    def test_the_box_is_drawn_in_its_colour_and_the_picture_left_alone(self):
        image = Image.new("RGB", (640, 480), "grey")
        before = image.copy()
        drawn = draw(image, detections([[100, 200, 400, 420]], image.size, [15]))
        assert image == before
        for corner in [(100, 200), (400, 200), (100, 420), (400, 420)]:
            assert drawn.getpixel(corner) == class_color(15)
        assert drawn.getpixel((250, 310)) == (128, 128, 128)

    def test_the_tag_is_above_the_box_with_text_in_it(self):
        image = Image.new("RGB", (640, 480), "grey")
        found = detections([[100, 200, 400, 420]], image.size, [15])
        x0, y0, x1, y1 = places(found)[0]
        assert (x0, y1) == (100, 200)
        tag = np.asarray(draw(image, found))[y0:y1, x0:x1].reshape(-1, 3)
        assert (tag == class_color(15)).all(-1).mean() > 0.5
        assert (tag == text_color(class_color(15))).all(-1).any()

    def test_edges_beyond_the_picture_show_on_its_border(self):
        image = Image.new("RGB", (640, 480), "grey")
        drawn = draw(image, detections([[-10, -10, 650, 490]], image.size, [57]))
        for place in [(0, 240), (639, 240), (320, 0), (320, 479)]:
            assert drawn.getpixel(place) == class_color(57)

    def test_nothing_found(self):
        image = Image.new("RGB", (64, 48), "grey")
        drawn = draw(image, detections([], image.size))
        assert drawn == image
        assert drawn is not image

    @pytest.mark.parametrize("size", [(1, 1), (2, 5), (12, 400), (400, 12), (100, 75)])
    @pytest.mark.parametrize(
        "box", [[0, 0, 1, 1], [0.2, 0.2, 0.2, 0.2], [-1, -1, 2, 2], [2, 2, 3, 3], [0.6, 0.6, 0.4, 0.4]]
    )
    def test_any_picture_and_any_box(self, size, box):
        image = Image.new("RGB", size, "grey")
        drawn = draw(image, detections([np.array(box) * (size * 2)], size))
        assert drawn.size == size
        assert changed(image, drawn).any()

    @pytest.mark.parametrize("name", ["猫", "naïve", "שלום", "😀", "\ud800", "two\nlines", "x" * 500, ""])
    def test_any_name(self, name):
        image = Image.new("RGB", (200, 100), "grey")
        found = detections([[20, 40, 150, 90]], image.size, names=(name,))
        assert changed(image, draw(image, found)).any()

    def test_without_a_wide_font_on_the_system(self, monkeypatch):
        monkeypatch.setattr(drawing, "WIDE_FONTS", ("no such font.ttf",))
        self.test_any_name("猫")

    def test_a_font_that_is_not_there(self):
        with pytest.raises(OSError, match="cannot open resource"):
            draw(Image.new("RGB", (64, 48)), detections([], (64, 48)), font="no such font.ttf")

    def test_a_picture_of_another_size(self):
        with pytest.raises(ValueError, match=r"640x480, but detections on one of 480x640.*load_picture"):
            draw(Image.new("RGB", (640, 480)), detections([], (480, 640)))


class TestTags:
    @pytest.mark.parametrize("size", [(640, 480), (100, 75), (2000, 200), (4000, 3000)])
    def test_inside_the_picture(self, size):
        rng = np.random.default_rng(0)
        corners = rng.uniform(-0.1, 1.1, (20, 4)) * (size * 2)
        tags = places(detections(np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), corners[:, 2:]], 1), size))
        assert (tags[:, :2] >= 0).all()
        assert (tags[:, 2:] <= size).all()

    def test_clear_of_one_another_where_there_is_room(self):
        boxes = [[100, 100, 300, 300]] * 6 + [[102, 98, 290, 290], [0, 0, 640, 480], [-5, -5, 640, 480]]
        tags = places(detections(boxes, (640, 480)))
        assert [overlap(a, b) for a, b in itertools.combinations(tags, 2)] == [0] * math.comb(len(boxes), 2)

    def test_the_best_has_the_best_place(self):
        tags = places(detections([[100, 100, 300, 300]] * 2, (640, 480)))
        assert tuple(tags[0][[0, 3]]) == (100, 100)
        assert tuple(tags[1][[0, 3]]) != (100, 100)

    def test_a_low_box_is_not_hidden_by_its_tag(self):
        # Above the lower box is the tag of the other.
        tags = places(detections([[100, 100, 300, 400], [100, 100, 300, 120]], (640, 480)))
        assert overlap(tags[1], (100, 100, 300, 120)) == 0

    def test_text_grows_with_the_picture_and_shrinks_in_a_crowd(self):
        def size(picture, tags=1):
            return drawing._text_size(picture, ["person 0.99"] * tags)

        assert size((1, 1)) == size((100, 75)) == 10
        assert 12 <= size((640, 480)) <= 18
        assert 100 <= size((6000, 4000)) <= 160
        assert size((6000, 100)) == 10
        assert size((1280, 960), tags=80) < size((1280, 960), tags=10) == size((1280, 960))
        assert size((1280, 960), tags=300) >= 0.55 * size((1280, 960))


class TestColors:
    def test_stable(self):
        assert [class_color(i) for i in (0, 15, 365)] == [(228, 9, 11), (19, 191, 58), (1, 210, 253)]

    def test_all_differ(self):
        assert len({class_color(i) for i in range(366)}) == 366

    def test_neighbours_are_far_apart(self):
        colors = np.array([class_color(i) for i in range(80)], float)
        for near in range(1, 4):
            assert np.linalg.norm(colors[near:] - colors[:-near], axis=1).min() > 60

    def test_text_is_legible(self):
        def luminance(color):
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        for i in range(366):
            dark, light = sorted([luminance(class_color(i)), luminance(text_color(class_color(i)))])
            assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG's least for large text and for signs

        assert text_color((255, 255, 255)) == (0, 0, 0)
        assert text_color((0, 0, 0)) == (255, 255, 255)
