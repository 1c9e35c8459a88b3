"""Annotated pictures: a box and a tag for each detection, legible at any size of picture."""

import contextlib
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont

from dfine_jax.display import printable
from dfine_jax.inference.detections import Box, Detection, Detections

# Text is about this part of the picture's size, but never smaller than this many pixels, where letters blur.
TEXT_SHARE = 0.026
SMALLEST_TEXT = 10
# In a crowd text shrinks until tags cover no more than this part of the picture, or to this part of its size.
TAGS_SHARE = 0.15
SMALLEST_SHARE = 0.6
# Characters of a class name, beyond which it is cut.
LONGEST_NAME = 40
# Pillow's own font has no letters beyond ASCII. For those these are looked for on the system, widest first.
WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
)

_LAB_TO_CONES = np.array([[0.39633778, 0.21580376], [-0.10556135, -0.06385417], [-0.08948418, -1.29148555]])
_CONES_TO_RGB = np.array(
    [
        [4.07674166, -3.30771159, 0.23096993],
        [-1.26843800, 2.60975740, -0.34131940],
        [-0.00419609, -0.70341861, 1.70761470],
    ]
)


class Color(NamedTuple):
    """Red, green and blue, 0 to 255."""

    red: int
    green: int
    blue: int


class _Tag(NamedTuple):
    text: str
    color: Color
    place: Int[np.ndarray, "4"]
    """x0, y0, x1, y1, the last two exclusive."""


def draw(image: Image.Image, detections: Detections, *, font: str | None = None) -> Image.Image:
    """A copy of the picture with every detection's box, class name and score in the colour of its class.

    `image` is the picture the detections were made from, upright as `load_picture` gives it. `font` is the
    path of a TrueType font; without one it is Pillow's, or for class names beyond ASCII a common one of the
    system's. Raises ValueError if the picture's size isn't that of the detections.
    """
    if image.size != tuple(detections.size):
        raise ValueError(
            f"a picture of {image.width}x{image.height}, but detections on one of "
            f"{detections.size[0]}x{detections.size[1]}; read it with load_picture, which turns it upright"
        )
    drawn = image.convert("RGB")  # a copy, whatever the mode
    texts = [_tag_text(detection) for detection in detections]
    face = _face(font, _text_size(drawn.size, texts), texts)
    line = max(1, round(face.size / 7))
    canvas = ImageDraw.Draw(drawn, "RGBA")
    # The best come last, on top of the others, but choose the places of their tags first.
    for detection in reversed(list(detections)):
        _draw_box(canvas, _inside(detection.box, drawn.size), class_color(detection.label_id), line)
    for tag in reversed(_place_tags(detections, texts, drawn.size, face)):
        _draw_tag(canvas, tag, face)
    return drawn


def class_color(label_id: int) -> Color:
    """The colour of a class, always the same; any few classes lie well apart in hue or in lightness.

    Evenly spread in OKLCH (bottosson.github.io/posts/oklab), where equal steps look equal.
    """
    # Powers of 1 / the plastic number: the additive recurrence that spreads best in two dimensions.
    hue = 2 * math.pi * ((0.08 + label_id * 0.7548776662466927) % 1)
    lightness = 0.58 + 0.22 * (label_id * 0.5698402909980532 % 1)
    # The strongest colour of this hue and lightness that a screen can show.
    shown = (_oklch_to_linear(lightness, chroma, hue) for chroma in np.arange(0.25, 0.0, -0.005))
    linear = next(rgb for rgb in shown if rgb.min() >= 0 and rgb.max() <= 1)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return Color(*(int(c) for c in np.round(255 * encoded)))


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better on `background`, by its relative luminance."""
    encoded = np.array(background) / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    # Equal contrast by the formula of WCAG is at 0.18; saturated colours up to 0.3 read better with white.
    return Color(255, 255, 255) if linear @ (0.2126, 0.7152, 0.0722) < 0.3 else Color(0, 0, 0)


def _oklch_to_linear(lightness: float, chroma: float, hue: float) -> np.ndarray:
    """Linear sRGB, outside 0..1 for colours that a screen can't show."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    cones = lightness + _LAB_TO_CONES @ (a, b)
    return _CONES_TO_RGB @ cones**3


def _text_size(picture: tuple[int, int], texts: list[str]) -> int:
    width, height = picture
    # In a strip the shorter side counts, so that it isn't covered by text.
    size = TEXT_SHARE * min(math.sqrt(width * height), 2 * min(width, height))
    tags = sum(len(text) for text in texts) * 0.55 * size * 1.4 * size  # about, in square pixels
    crowded = math.sqrt(TAGS_SHARE * width * height / tags) if tags else 1.0
    return max(SMALLEST_TEXT, round(size * min(1.0, max(crowded, SMALLEST_SHARE))))


def _face(font: str | None, size: int, texts: list[str]) -> ImageFont.FreeTypeFont:
    if font is not None:
        return ImageFont.truetype(font, size)
    if not all(text.isascii() for text in texts):
        for wide in WIDE_FONTS:
            with contextlib.suppress(OSError):  # not on this system
                return ImageFont.truetype(wide, size)
    return ImageFont.load_default(size)  # shows a box for each letter it lacks


def _inside(box: Box, picture: tuple[int, int]) -> Box:
    """The box in whole pixels, corners included, cut to the picture: edges beyond its border show on it."""
    right, bottom = picture[0] - 1, picture[1] - 1
    x0, x1 = sorted(min(max(round(x), 0), right) for x in (box.x0, box.x1))
    y0, y1 = sorted(min(max(round(y), 0), bottom) for y in (box.y0, box.y1))
    return Box(x0, y0, x1, y1)


def _draw_box(canvas: ImageDraw.ImageDraw, box: Box, color: Color, line: int) -> None:
    # A faint dark rim keeps the line apart from a background of its own colour.
    rim = max(1, line // 3)
    canvas.rectangle((box.x0 - rim, box.y0 - rim, box.x1 + rim, box.y1 + rim), outline=(0, 0, 0, 90), width=rim)
    canvas.rectangle(box, outline=color, width=line)


def _draw_tag(canvas: ImageDraw.ImageDraw, tag: _Tag, face: ImageFont.FreeTypeFont) -> None:
    x0, y0, x1, y1 = tag.place.tolist()
    canvas.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=max(2, round(face.size / 6)), fill=tag.color)
    color = text_color(tag.color)
    canvas.text((x0 + _padding(face), (y0 + y1) / 2), tag.text, fill=color, font=face, anchor="lm")


def _padding(face: ImageFont.FreeTypeFont) -> int:
    return max(2, round(face.size / 3.5))


def _tag_text(detection: Detection) -> str:
    name = printable(" ".join(detection.label.split()))
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
    return f"{name} {detection.score:.2f}"


def _place_tags(
    detections: Detections, texts: list[str], picture: tuple[int, int], face: ImageFont.FreeTypeFont
) -> list[_Tag]:
    """A tag for each detection, inside the picture, and clear of those before it where there is room."""
    ascent, descent = face.getmetrics()
    height = ascent + descent + max(1, round(face.size / 10))
    taken = np.zeros((len(texts), 4), int)
    tags = []
    for i, (detection, text) in enumerate(zip(detections, texts, strict=True)):
        width = math.ceil(face.getlength(text)) + 2 * _padding(face)
        places = _places(_inside(detection.box, picture), width, height, picture)
        taken[i] = places[_overlaps(places, taken[:i]).argmin()]
        tags.append(_Tag(text, class_color(detection.label_id), taken[i]))
    return tags


def _places(box: Box, width: int, height: int, picture: tuple[int, int]) -> Int[np.ndarray, "P 4"]:
    """Where a tag may sit, the best first, all inside the picture if the tag fits there at all.

    Above the box, inside its top, below it, inside its bottom, then down its sides, outside and inside; a low
    box has the place below it before those inside, where the tag would hide the thing.
    """
    x0, y0, x1, y1 = box.x0, box.y0, box.x1 + 1, box.y1 + 1
    columns = [x0, x1 - width, (x0 + x1 - width) // 2]
    low = y1 - y0 < 3 * height
    ends = [y0 - height, y1, y0, y1 - height] if low else [y0 - height, y0, y1, y1 - height]
    corners = [(x, y) for y in ends for x in columns]
    sides = [(x, y) for y in range(y0 - height, y1 + 2 * height, height) for x in (x1, x0 - width, *columns)]
    room = np.maximum(np.array(picture) - (width, height), 0)
    origins = np.clip(np.array(corners + sides), 0, room)
    return np.concatenate([origins, origins + np.array([width, height])], axis=1)


def _overlaps(places: Int[np.ndarray, "P 4"], taken: Int[np.ndarray, "T 4"]) -> Int[np.ndarray, " P"]:
    """The area of each place that is taken already."""
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    return np.maximum(high - low, 0).prod(-1).sum(-1)
