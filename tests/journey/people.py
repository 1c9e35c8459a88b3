"""What people have on their disks: a few pictures, and a small set of labelled ones."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dfine_jax.bundled import SHAPES_PICTURE

CLASSES = ("circle", "ring", "cell")
"""Fewer than the packaged model's, and one that it doesn't know."""
WIDTH, HEIGHT = 160, 120
PARTS = {"train": 12, "val": 4, "test": 4}
OBJECT = """  <object><name>{}</name><difficult>0</difficult>
    <bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>
"""


def things_that_people_have(folder: Path) -> None:
    """Lays out all that README's commands name: ``cats.jpg``, ``holiday``, ``scans``, ``new`` and ``cells``."""
    shutil.copy(SHAPES_PICTURE, folder / "cats.jpg")
    for name in ("holiday", "scans", "new"):
        (folder / name).mkdir()
    shutil.copy(SHAPES_PICTURE, folder / "holiday" / "Höhle [1].jpg")
    shutil.copy(SHAPES_PICTURE, folder / "street.jpg")
    with Image.open(SHAPES_PICTURE) as picture:
        picture.convert("L").save(folder / "scans" / "page 1.png")
    for number in range(3):
        labelled_picture(folder / "new" / f"{number}.png", seed=100 + number)
    cells(folder / "cells")


def cells(folder: Path) -> None:
    """A set in Pascal VOC's layout, in three parts."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    number = 0
    for part, count in PARTS.items():
        names = [f"{part}{i}" for i in range(count)]
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            objects = labelled_picture(folder / "JPEGImages" / f"{name}.jpg", seed=number)
            text = "".join(OBJECT.format(kind, *box) for kind, box in objects)
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
            file = folder / "Annotations" / f"{name}.xml"
            file.write_text(f"<annotation><filename>{name}.jpg</filename>{size}\n{text}</annotation>\n")
            number += 1


def labelled_picture(path: Path, seed: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Draws one thing of each class, side by side; returns them with their boxes."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (WIDTH, HEIGHT), tuple(int(v) for v in rng.integers(60, 160, 3)))
    draw, objects = ImageDraw.Draw(image), []
    for place, kind in enumerate(CLASSES):
        x, y, side = 5 + 52 * place, int(rng.integers(5, 60)), int(rng.integers(30, 45))
        box = (x, y, x + side, y + side)
        if kind == "circle":
            draw.ellipse(box, fill=(220, 30, 40))
        elif kind == "ring":
            draw.ellipse(box, outline=(20, 200, 60), width=8)
        else:
            draw.ellipse(box, fill=(240, 240, 250), outline=(90, 40, 140), width=3)
            draw.ellipse((x + 12, y + 12, x + 20, y + 20), fill=(90, 40, 140))
        objects.append((kind, box))
    image.save(path)
    return objects
