"""`shapes`: a data set the library draws itself, in any number and size.

Coloured, rotated shapes of eight classes, partly over one another and partly over the edge, on grounds with gradients,
blotches and grain. Every picture is a pure function of seed, split and index, so nothing has to be stored, any number
of processes can draw, and an epoch can be as long as one likes. The form alone tells the class: colours mean nothing.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image, ImageDraw

from dfine_jax.data.samples import SPLITS, DataError, Dataset, Record, Split

SHAPES = "shapes"
CLASS_NAMES = ("circle", "ring", "square", "triangle", "star", "cross", "heart", "moon")
COUNTS: dict[Split, int] = {"train": 20_000, "val": 1_000, "test": 1_000}
MOST_SHAPES = 6
RADII = (0.07, 0.24)
"""Smallest and largest distance from a shape's centre to its farthest point, in sides of the picture."""
LEAST_VISIBLE = 0.4
"""Shapes of which less is to be seen are not labelled."""
FINENESS = 4
"""Masks are drawn this many times finer than the picture."""

Outline = Float32[np.ndarray, "P 2"]


def _regular(corners: int, radius: float = 1.0) -> Outline:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1).astype(np.float32)


def _star() -> Outline:
    points = _regular(10)
    points[1::2] *= 0.46
    return points


def _cross() -> Outline:
    arm, half = 0.95, 0.31
    side = [(-half, -half), (-half, -arm), (half, -arm)]
    turns = [np.array(side) @ np.array([[c, s], [-s, c]]) for c, s in [(1, 0), (0, 1), (-1, 0), (0, -1)]]
    return np.concatenate(turns).astype(np.float32)


def _heart() -> Outline:
    t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return (np.stack([x, y + 1.5], axis=1) / 17).astype(np.float32)


def _moon() -> Outline:
    """A disc without the disc of 0.85 its radius that is moved aside by 0.52: two arcs between their crossings."""
    inner, shift = 0.85, 0.52
    x = (1 - inner**2 + shift**2) / (2 * shift)
    outer_angle, inner_angle = math.acos(x), math.acos((x - shift) / inner)
    outer = np.linspace(outer_angle, 2 * math.pi - outer_angle, 48)
    back = np.linspace(2 * math.pi - inner_angle, inner_angle, 32)
    arcs = [
        np.stack([np.cos(outer), np.sin(outer)], 1),
        np.stack([shift + inner * np.cos(back), inner * np.sin(back)], 1),
    ]
    return (np.concatenate(arcs) + np.array([0.15, 0.0])).astype(np.float32) / 1.15


class Form(NamedTuple):
    """What a class looks like: an outline within the unit circle, and the hole in it, if any."""

    outline: Outline
    hole: Outline | None = None


FORMS: dict[str, Form] = {
    "circle": Form(_regular(64)),
    "ring": Form(_regular(64), _regular(48, 0.56)),
    "square": Form(_regular(4)),
    "triangle": Form(_regular(3)),
    "star": Form(_star()),
    "cross": Form(_cross()),
    "heart": Form(_heart()),
    "moon": Form(_moon()),
}


class Shape(NamedTuple):
    """One shape to draw; lengths in pixels."""

    label: int
    x: float
    y: float
    radius: float
    angle: float
    colour: tuple[int, int, int]


class Drawing(NamedTuple):
    """A drawn picture and its labels."""

    picture: UInt8[np.ndarray, "H W 3"]
    boxes: Float32[np.ndarray, "N 4"]
    labels: Int32[np.ndarray, " N"]
    areas: Float32[np.ndarray, " N"]
    """Visible area in square pixels."""


def draw(index: int, *, size: int = 192, seed: int = 0, split: Split = "train") -> Drawing:
    """Draws one picture of `size` by `size` pixels.

    A box encloses what can be seen of its shape. Its edges lie between pixels: where a shape covers part of a pixel,
    they cut that pixel in proportion. Slivers that cover no pixel by half don't count. A shape of which less than
    40 per cent can be seen, the rest being covered or outside of the picture, gets no box.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    dark = rng.random() < 0.5
    canvas = _ground(rng, size, dark)
    shapes = _place(rng, size, dark)
    owners = Image.new("L", (size * FINENESS, size * FINENESS))
    whole_areas = []
    for number, shape in enumerate(shapes, start=1):
        mask, left, top = _mask(shape)
        alpha = mask.reduce(FINENESS)
        whole_areas.append(_coverage(alpha).sum())
        canvas.paste(shape.colour, (left, top), alpha)
        owners.paste(number, (left * FINENESS, top * FINENESS), mask)
    boxes, labels, areas = [], [], []
    for number, (shape, whole_area) in enumerate(zip(shapes, whole_areas, strict=True), start=1):
        seen = _visible(owners, number, shape, size)
        if seen is not None and seen.area >= LEAST_VISIBLE * whole_area:
            boxes.append(seen.box)
            labels.append(shape.label)
            areas.append(seen.area)
    grain = rng.integers(-8, 9, (size, size, 3), np.int8).astype(np.int16)
    picture = np.clip(np.asarray(canvas, np.int16) + grain, 0, 255).astype(np.uint8)
    columns = np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32), np.array(areas, np.float32)
    return Drawing(picture, *columns)


def _ground(rng: np.random.Generator, size: int, dark: bool) -> Image.Image:
    """A smooth, muted ground: a few coloured points, interpolated."""
    value = rng.uniform(0.12, 0.35) if dark else rng.uniform(0.75, 0.95)
    base = np.array(_rgb(rng.random(), rng.uniform(0.05, 0.35), value))
    points = rng.integers(2, 7)
    colours = np.clip(base + rng.normal(0, 14, (points, points, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)


def _place(rng: np.random.Generator, size: int, dark: bool) -> list[Shape]:
    """Shapes to draw one over the other, none of which hides most of another."""
    shapes: list[Shape] = []
    hue = rng.random()
    for number in range(rng.integers(1, MOST_SHAPES + 1)):
        radius = size * math.exp(rng.uniform(math.log(RADII[0]), math.log(RADII[1])))
        value = rng.uniform(0.75, 1.0) if dark else rng.uniform(0.4, 0.8)
        # Steps of the golden ratio keep the hues of one picture apart.
        colour = _rgb((hue + number * 0.618034) % 1.0, rng.uniform(0.55, 0.95), value)
        label, angle = int(rng.integers(len(CLASS_NAMES))), rng.uniform(0, 2 * math.pi)
        for _ in range(20):
            x, y = rng.uniform(0.3 * radius, size - 0.3 * radius, 2)
            if all(math.hypot(x - other.x, y - other.y) > 0.72 * (radius + other.radius) for other in shapes):
                shapes.append(Shape(label, x, y, radius, angle, colour))
                break
    return shapes


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def _mask(shape: Shape) -> tuple[Image.Image, int, int]:
    """What the shape covers, 0 or 255, `FINENESS` times finer than the picture, and the pixel its corner lies on."""
    left, top = math.floor(shape.x - shape.radius) - 1, math.floor(shape.y - shape.radius) - 1
    side = 2 * math.ceil(shape.radius) + 4
    mask = Image.new("L", (side * FINENESS, side * FINENESS))
    pen = ImageDraw.Draw(mask)
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    turn = shape.radius * np.array([[cos, sin], [-sin, cos]])
    form = FORMS[CLASS_NAMES[shape.label]]
    for outline, fill in ((form.outline, 255), (form.hole, 0)):
        if outline is not None:
            points = (outline @ turn + [shape.x - left, shape.y - top]) * FINENESS - 0.5
            pen.polygon(points.ravel().tolist(), fill=fill)
    return mask, left, top


class _Seen(NamedTuple):
    box: tuple[float, float, float, float]
    area: float


def _coverage(alpha: Image.Image) -> Float32[np.ndarray, "h w"]:
    return np.asarray(alpha, np.float32) / 255


def _visible(owners: Image.Image, number: int, shape: Shape, size: int) -> _Seen | None:
    """The box and area of what is left of a shape, or None if it covers no pixel by half.

    `owners` has the number of the topmost shape at each place, `FINENESS` times finer than the picture.
    """
    left, top = (max(0, math.floor(centre - shape.radius) - 1) for centre in (shape.x, shape.y))
    right, bottom = (min(size, math.ceil(centre + shape.radius) + 1) for centre in (shape.x, shape.y))
    around = owners.crop((left * FINENESS, top * FINENESS, right * FINENESS, bottom * FINENESS))
    coverage = _coverage(around.point([0] * number + [255] + [0] * (255 - number)).reduce(FINENESS))
    if coverage.max() < 0.5:
        return None
    x0, x1 = _extent(coverage.max(axis=0))
    y0, y1 = _extent(coverage.max(axis=1))
    return _Seen((left + x0, top + y0, left + x1, top + y1), float(coverage.sum()))


def _extent(coverage: Float32[np.ndarray, " L"]) -> tuple[float, float]:
    """Where the covered part of a row of pixels begins and ends."""
    covered = np.flatnonzero(coverage >= 0.5)
    first, last = covered[0], covered[-1]
    before = coverage[first - 1] if first > 0 else 0.0
    after = coverage[last + 1] if last + 1 < len(coverage) else 0.0
    return first + 1 - coverage[first] - before, last + coverage[last] + after


@dataclass(frozen=True)
class DrawnRecords(Sequence[Record]):
    """The records of a drawn data set; each is drawn when asked for."""

    pictures: int
    size: int
    seed: int
    split: Split

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.pictures:
            raise IndexError(f"picture {index} of {self.pictures}")
        drawing = draw(index, size=self.size, seed=self.seed, split=self.split)
        return Record(
            picture=drawing.picture,
            image_id=index + 1,
            width=self.size,
            height=self.size,
            boxes=drawing.boxes,
            labels=drawing.labels,
            areas=drawing.areas,
        )


def shapes(count: int, *, size: int = 192, seed: int = 0, split: Split = "train") -> Dataset:
    """A data set of `count` drawn pictures; the splits of one seed have no picture in common.

    Raises:
        DataError: `count` is not positive or `size` under 32.
    """
    if count < 1 or size < 32:
        raise DataError(f"shapes need count >= 1 and size >= 32, not count {count} and size {size}")
    category_ids = tuple(range(1, len(CLASS_NAMES) + 1))
    return Dataset(CLASS_NAMES, category_ids, DrawnRecords(count, size, seed, split), MOST_SHAPES)


def parse_shapes(name: str) -> Callable[[Split], Dataset]:
    """What `shapes:size=192,count=20000,seed=0` stands for: a function from a split to its data set.

    Each of the three may be left out; without a count there are 20,000 pictures to train on and 1,000 each to
    validate and test with.

    Raises:
        DataError: it says anything else.
    """
    options: dict[str, int] = {}
    for part in filter(None, name.removeprefix(SHAPES).removeprefix(":").split(",")):
        key, _, value = part.partition("=")
        if key not in ("size", "count", "seed") or not value.isdecimal():
            raise DataError(f"{part!r} in {name!r} is not one of size=N, count=N and seed=N")
        options[key] = int(value)
    return lambda split: shapes(**({"count": COUNTS[split]} | options), split=split)
