"""The kinds of input that users give, a good example of each, how it is changed, and what reads it."""

import importlib.util
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fuzz_mutations import bytes_of, json_of, words_of
from PIL import Image
from tiny import TINY

from dfine_jax.data.formats import recognise
from dfine_jax.inference.pictures import load_picture
from dfine_jax.model_shapes import model_shapes
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import open_pretrained
from dfine_jax.training.configuration import Configuration, read_configuration, write_configuration
from dfine_jax.training.recipe import Recipe
from dfine_jax.weights.folder import save_folder
from dfine_jax.weights.hub_layout import save_hub_folder

PICTURES = (
    "jpg", "png", "gif", "webp", "tif", "bmp", "tga", "ppm", "ico", "jp2", "avif", "qoi", "pcx", "sgi", "icns",
)  # fmt: skip


class Kind(NamedTuple):
    """One kind of input."""

    write: Callable[[Path], Path]
    """Writes a good one into an empty folder and returns what is to be read."""
    targets: tuple[str, ...]
    """Patterns of the files in that folder that are changed, one at a time."""
    read: Callable[[Path], object]


def open_data(path: Path) -> None:
    """Opens every part of a data set and decodes some pictures, as training does."""
    source = recognise(path)
    for split in source.splits or (None,):
        dataset = source.open(split)
        for index in range(min(2, len(dataset))):
            dataset.sample(index)


def open_weights(path: Path) -> None:
    """Opens a model and reads all its weights."""
    for _ in open_pretrained(path).arrays():
        pass


def write_changed(rng: np.random.Generator, kind: Kind, folder: Path) -> Path:
    """Writes an input of this kind with one file changed at random; returns what is to be read."""
    path = kind.write(folder)
    files = sorted(file for target in kind.targets for file in folder.glob(target) if file.is_file())
    file = files[int(rng.integers(len(files)))]
    data = file.read_bytes()
    if file.suffix in (".json", ".jsonl"):
        first, *others = data.decode().splitlines() if file.suffix == ".jsonl" else [data.decode()]
        lines = [json_of(rng, first), *others]
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    elif file.suffix in (".txt", ".xml", ".yaml", ".data", ".names"):
        file.write_bytes(words_of(rng, data.decode()))
    elif file.suffix == ".safetensors" and rng.random() < 0.6:
        file.write_bytes(_safetensors(rng, data))
    else:
        file.write_bytes(bytes_of(rng, data))
    return path


def _safetensors(rng: np.random.Generator, data: bytes) -> bytes:
    """The header's JSON is changed, and its length told rightly."""
    length = int.from_bytes(data[:8], "little")
    header = json_of(rng, data[8 : 8 + length].decode()).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


@cache
def _pixels(size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))


def _picture(folder: Path, suffix: str) -> Path:
    path = folder / f"a.{suffix}"
    path.write_bytes(_encoded(suffix))
    return path


@cache
def _encoded(suffix: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = dict(exif=exif) if suffix in ("jpg", "png", "webp", "tif") else {}
    with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
        _pixels(32).save(file.name, **options)
        return Path(file.name).read_bytes()


def _pictures_beside(folder: Path, names: tuple[str, ...] = ("a.png", "b.png")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    _pixels(16).save(content, "PNG")
    for name in names:
        (folder / name).write_bytes(content.getvalue())


def _coco(folder: Path) -> Path:
    _pictures_beside(folder / "images")
    box = {"area": 20, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    labels = {
        "info": {"year": 2020},
        "images": [{"id": i, "file_name": f"{name}.png", "width": 16, "height": 16} for i, name in enumerate("ab")],
        "annotations": [
            {"id": i, "image_id": i % 2, "category_id": 3 + i % 2, "bbox": [1, 1, 4 + i, 5], **box} for i in range(4)
        ],
        "categories": [{"id": 3, "name": "ant", "supercategory": "animal"}, {"id": 4, "name": "bee"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "train.json").write_text(json.dumps(labels, indent=1))
    return folder


def _yolo(folder: Path) -> Path:
    _pictures_beside(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    for name in "ab":
        (folder / "labels" / "train" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.1\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames:\n  0: ant\n  1: bee\n")
    return folder


def _voc(folder: Path) -> Path:
    _pictures_beside(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    for name in "ab":
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<?xml version='1.0' encoding='utf-8'?>\n<annotation><filename>{name}.png</filename>"
            "<size><width>16</width><height>16</height><depth>3</depth></size>"
            "<object><name>ant</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>\n"
        )
    return folder


def _image_folder(folder: Path) -> Path:
    _pictures_beside(folder / "train")
    rows = [{"file_name": f"{name}.png", "objects": {"bbox": [[1, 1, 5, 5]], "categories": [0]}} for name in ("a", "b")]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def _labelme(folder: Path) -> Path:
    _pictures_beside(folder)
    for name in "ab":
        shapes = [{"label": "ant", "points": [[1, 1], [6, 7]], "shape_type": "rectangle", "group_id": None}]
        labels = {"version": "5", "shapes": shapes, "imagePath": f"{name}.png", "imageHeight": 16, "imageWidth": 16}
        (folder / f"{name}.json").write_text(json.dumps(labels))
    return folder


def _darknet(folder: Path) -> Path:
    _pictures_beside(folder / "obj_train_data")
    (folder / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (folder / "obj.names").write_text("ant\nbee\n")
    (folder / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    for name in "ab":
        (folder / "obj_train_data" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return folder


@cache
def _weights() -> tuple[tuple[str, np.ndarray], ...]:
    rng = np.random.default_rng(0)
    params, batch_stats = model_shapes(TINY)
    return tuple((name, rng.random(shape, np.float32)) for name, shape in {**params, **batch_stats}.items())


def _copied(make: Callable[[Path], None]) -> Callable[[Path], Path]:
    """Writes a model once, and copies it from then on."""
    kept: list[tempfile.TemporaryDirectory] = []

    def write(folder: Path) -> Path:
        if not kept:
            kept.append(tempfile.TemporaryDirectory(prefix="fuzz-"))
            make(Path(kept[0].name) / "model")
        shutil.copytree(Path(kept[0].name) / "model", folder / "model")
        return folder / "model"

    return write


_hub = _copied(lambda target: save_hub_folder(target, TINY, Preprocessing(64, 96), _weights()))
_converted = _copied(lambda target: save_folder(target, TINY, Preprocessing(64, 96), _weights()))


def _pth(folder: Path) -> Path:
    import torch

    tensors = {f"backbone.stem.{i}.weight": torch.ones(3, 4) for i in range(5)}
    torch.save({"ema": {"module": tensors, "updates": 3}, "last_epoch": 1}, folder / "best.pth")
    return folder / "best.pth"


def _training(folder: Path) -> Path:
    recipe = replace(Recipe.for_size("n"), batch_size=4)
    write_configuration(Configuration(data="cells", output=Path("runs"), recipe=recipe), folder / "training.json")
    return folder / "training.json"


KINDS: dict[str, Kind] = {
    **{
        f"picture.{suffix}": Kind(lambda folder, suffix=suffix: _picture(folder, suffix), ("a.*",), load_picture)
        for suffix in PICTURES
    },
    "coco": Kind(_coco, ("annotations/*.json",), open_data),
    "yolo": Kind(_yolo, ("data.yaml", "labels/*/*.txt"), open_data),
    "voc": Kind(_voc, ("Annotations/*.xml", "ImageSets/Main/*.txt"), open_data),
    "image folder": Kind(_image_folder, ("train/metadata.jsonl",), open_data),
    "labelme": Kind(_labelme, ("*.json",), open_data),
    "darknet": Kind(_darknet, ("obj.*", "train.txt", "obj_train_data/*.txt"), open_data),
    "config": Kind(_hub, ("model/config.json",), open_weights),
    "preprocessor": Kind(_hub, ("model/preprocessor_config.json",), open_weights),
    "safetensors": Kind(_hub, ("model/*.safetensors",), open_weights),
    "converted": Kind(_converted, ("model/*.json", "model/*/*", "model/*/*/*"), open_weights),
    "training": Kind(_training, ("training.json",), read_configuration),
}
if importlib.util.find_spec("torch") is not None:
    KINDS["pth"] = Kind(_pth, ("best.pth",), open_weights)
