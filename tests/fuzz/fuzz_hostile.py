"""Files made to do harm: they blow up, hang, run something or end in nobody's error, where they aren't expected."""

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_kinds import KINDS

Change = Callable[[Path], Any]
"""Changes the example of a kind, in its folder."""


def written(name: str, content: bytes | str) -> Change:
    """One file has another content."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def fields(name: str, **values: Any) -> Change:
    """One JSON file has other values, given as JSON text where they are `bytes`."""

    def change(folder: Path) -> None:
        held = json.loads((folder / name).read_text())
        raw = {key: value for key, value in values.items() if isinstance(value, bytes)}
        text = json.dumps({**held, **values, **{key: f"@@{key}@@" for key in raw}})
        for key, value in raw.items():
            text = text.replace(f'"@@{key}@@"', value.decode())
        (folder / name).write_text(text)

    return change


def annotation(**values: Any) -> Change:
    """The first annotation of COCO's file has other values."""
    return _entry("annotations", values)


def image(**values: Any) -> Change:
    """The first image of COCO's file has other values."""
    return _entry("images", values)


def _entry(part: str, values: dict[str, Any]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "annotations" / "train.json"
        held = json.loads(path.read_text())
        held[part][0].update(values)
        path.write_text(json.dumps(held))

    return change


def pipe(name: str) -> Change:
    """One file is a pipe that nobody writes to."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Change:
    """One file is a link to elsewhere."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def _header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


class _Runs:
    def __reduce__(self):
        return os.system, ("true",)


def _archive(pickled: bytes, *, compression: int = zipfile.ZIP_STORED) -> Change:
    def change(folder: Path) -> None:
        with zipfile.ZipFile(folder / "best.pth", "w", compression) as file:
            file.writestr("best/data.pkl", pickled)
            file.writestr("best/version", "3\n")
            file.writestr("best/byteorder", "little")

    return change


def _png_bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


MANY = 10**6
_ALIASES = "\n".join(["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
_ENTITIES = "".join(f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 12))
_XML_BOMB = f"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY e0 'lol'>{_ENTITIES}]><annotation>&e11;</annotation>"
_XML_FILE = "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><annotation>&e;</annotation>"

_COCO, _LABEL, _YAML, _XML = "annotations/train.json", "labels/train/a.txt", "data.yaml", "Annotations/a.xml"
_CONFIG, _WEIGHTS = "model/config.json", "model/model.safetensors"

HOSTILE: dict[str, tuple[str, Change]] = {
    "coco: deep lists": ("coco", written(_COCO, "[" * 10**6)),
    "coco: deep objects": ("coco", written(_COCO, '{"images":' * 10**5)),
    "coco: a number of ten thousand digits": ("coco", written(_COCO, '{"images": [{"id": ' + "9" * 10**4 + "}]}")),
    "coco: a size of 1000 digits": ("coco", image(width=10**999, height=10**999)),
    "coco: sizes of 1e308": ("coco", image(width=1e308, height=1e308)),
    "coco: a name that is a lone surrogate": ("coco", image(file_name="\ud83d.png")),
    "coco: a name with a null character": ("coco", image(file_name="a\0.png")),
    "coco: a name of 100,000 characters": ("coco", image(file_name="x" * 10**5)),
    "coco: a device for a picture": ("coco", image(file_name="/dev/zero")),
    "coco: lists as ids": ("coco", annotation(image_id=[1], category_id={"a": 1})),
    "coco: infinite boxes": ("coco", annotation(bbox=[1e999, -1e999, 1e308, 1e308])),
    "coco: boxes of text": ("coco", annotation(bbox="abcd", area="x", iscrowd="y")),
    "coco: a box of objects": ("coco", annotation(bbox=[{}, [], None, True])),
    "coco: entries that are no objects": ("coco", written(
        _COCO, '{"images": [1], "annotations": [[]], "categories": [2]}')),
    "coco: ten thousand annotations of nothing": ("coco", written(_COCO, json.dumps(
        {"images": [{"id": 0, "file_name": "a.png"}], "annotations": [{"id": 0}] * 10**4, "categories": []}))),
    "coco: no UTF-8": ("coco", written(_COCO, b"\xff\xfe\xfd")),
    "coco: a pipe": ("coco", pipe(_COCO)),
    "coco: a pipe for a picture": ("coco", pipe("images/a.png")),
    "coco: a link to a device": ("coco", link(_COCO, "/dev/zero")),
    "coco: a bomb for a picture": ("coco", written("images/a.png", _png_bomb())),
    "yolo: aliases that explode": ("yolo", written(_YAML, f"{_ALIASES}\nnames: *a11\ntrain: images/train\n")),
    "yolo: an alias of itself": ("yolo", written(_YAML, "names: &a [*a]\ntrain: images/train\n")),
    "yolo: a tag that runs something": ("yolo", written(_YAML, "names: !!python/object/apply:os.system ['true']\n")),
    "yolo: deep nesting": ("yolo", written(_YAML, "names: " + "[" * 10**4)),
    "yolo: deep blocks": ("yolo", written(_YAML, "- " * 10**4)),
    "yolo: a hundred million classes": ("yolo", written(_YAML, "nc: 100000000\ntrain: images/train\n")),
    "yolo: a class of the number 10^9": ("yolo", written(_YAML, "names: {1000000000: ant}\ntrain: images/train\n")),
    "yolo: junk rows": ("yolo", written(_LABEL, "x y\n" * 10**5)),
    "yolo: a line of ten million characters": ("yolo", written(_LABEL, "0 " * (5 * MANY))),
    "yolo: numbers of 1000 digits": ("yolo", written(_LABEL, " ".join(["9" * 1000] * 5))),
    "yolo: not a number": ("yolo", written(_LABEL, "0 nan nan nan nan\n0 inf 1e999 -inf 0\n")),
    "yolo: a part that is a device": ("yolo", written(_YAML, "train: /dev/zero\nnames: [ant]\n")),
    "yolo: a pipe for labels": ("yolo", pipe(_LABEL)),
    "yolo: labels are a link to a device": ("yolo", link(_LABEL, "/dev/zero")),
    "voc: entities that explode": ("voc", written(_XML, _XML_BOMB)),
    "voc: an entity that reads a file": ("voc", written(_XML, _XML_FILE)),
    "voc: deep nesting": ("voc", written(_XML, "<a>" * 10**5)),
    "voc: an unknown encoding": ("voc", written(_XML, "<?xml version='1.0' encoding='klingon'?><annotation/>")),
    "voc: an encoding that is none of text": ("voc", written(
        _XML, "<?xml version='1.0' encoding='rot13'?><annotation/>")),
    "voc: a pipe": ("voc", pipe(_XML)),
    "voc: numbers of 1000 digits": ("voc", written(_XML, (
        "<annotation><filename>a.png</filename><object><name>ant</name><bndbox>"
        + "".join(f"<{side}>{'9' * 1000}</{side}>" for side in ("xmin", "ymin", "xmax", "ymax"))
        + "</bndbox></object></annotation>"))),
    "config: a million layers": ("config", fields(_CONFIG, decoder_layers=MANY)),
    "config: a billion points": ("config", fields(_CONFIG, decoder_n_points=10**9)),
    "config: points in a long list": ("config", fields(_CONFIG, decoder_n_points=[10**9] * 3)),
    "config: a billion queries": ("config", fields(_CONFIG, num_queries=10**9)),
    "config: a billion bins": ("config", fields(_CONFIG, max_num_bins=10**9)),
    "config: wide beyond reason": ("config", fields(_CONFIG, d_model=10**9, encoder_hidden_dim=10**9)),
    "config: a hundred million labels": ("config", fields(_CONFIG, num_labels=10**8)),
    "config: a depth of 1e308": ("config", fields(_CONFIG, depth_mult=1e308)),
    "config: an infinite depth": ("config", fields(_CONFIG, depth_mult=b"1e999")),
    "config: no number": ("config", fields(_CONFIG, eval_idx=b"NaN")),
    "config: labels that are no text": ("config", fields(_CONFIG, id2label={"0": 1, "x": None})),
    "config: labels that are lone surrogates": ("config", fields(
        _CONFIG, id2label={str(i): "\ud83d" for i in range(5)})),
    "config: deep nesting": ("config", written(_CONFIG, '{"a":' * 10**5)),
    "config: a list": ("config", written(_CONFIG, "[]")),
    "config: a pipe": ("config", pipe(_CONFIG)),
    "config: a device": ("config", link(_CONFIG, "/dev/zero")),
    "preprocessor: sizes of 10^9": ("preprocessor", fields(
        "model/preprocessor_config.json", size={"height": 10**9, "width": 10**9})),
    "preprocessor: numbers of 1000 digits": ("preprocessor", fields(
        "model/preprocessor_config.json", rescale_factor=10**999)),
    "safetensors: a header of 2^63 bytes": ("safetensors", written(_WEIGHTS, b"\xff" * 7 + b"\x7f{}")),
    "safetensors: types that NumPy lacks": ("safetensors", written(_WEIGHTS, _header(
        {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}) + bytes(4))),
    "safetensors: a new type": ("safetensors", written(_WEIGHTS, _header(
        {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}) + bytes(2))),
    "safetensors: a shape beyond reason": ("safetensors", written(_WEIGHTS, _header(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}) + bytes(4))),
    "safetensors: an index that leads outside": ("safetensors", lambda folder: (
        (folder / _WEIGHTS).unlink(),
        (folder / "model" / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../../../../etc/passwd"}})))),
    "safetensors: a pipe": ("safetensors", pipe(_WEIGHTS)),
    "safetensors: a device": ("safetensors", link(_WEIGHTS, "/dev/zero")),
    "training: deep nesting": ("training", written("training.json", '{"recipe":' * 10**5)),
    "training: numbers beyond reason": ("training", fields("training.json", queries=10**400)),
    "training: a pipe": ("training", pipe("training.json")),
    "pth: a pickle that runs something": ("pth", _archive(pickle.dumps({"model": _Runs()}))),
    "pth: the old form, which is a pickle": ("pth", written("best.pth", pickle.dumps({"model": _Runs()}))),
    "pth: a pickle that inflates": ("pth", _archive(bytes(2**30), compression=zipfile.ZIP_DEFLATED)),
    "pth: keys that are no text": ("pth", _archive(pickle.dumps({1: 2, None: {3: 4}, (5,): []}))),
    "pth: numbers for weights": ("pth", _archive(pickle.dumps({"model": {"a": 10**1000, "b": float("nan")}}))),
    "pth: a pipe": ("pth", pipe("best.pth")),
    "pth: nothing": ("pth", written("best.pth", b"")),
}  # fmt: skip
"""The kind of input, and what is done to a good one."""

LONG = ("pth: a pickle that inflates",)
"""Those that take seconds to make."""

HOSTILE = {name: entry for name, entry in HOSTILE.items() if entry[0] in KINDS}
