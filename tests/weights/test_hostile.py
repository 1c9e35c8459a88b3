"""Files made to fill the memory, to wait for ever or to compute nonsense: one line each, and nothing is built."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import TINY

from dfine_jax.errors import InputError
from dfine_jax.json_file import LARGEST, read_object
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import open_pretrained
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.folder import open_folder, save_folder
from dfine_jax.weights.sources import open_model


def refused(path):
    """The one line that says why."""
    with pytest.raises(InputError) as caught:
        list(open_pretrained(path).arrays())
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600 + len(str(path))
    return text


def write_safetensors(path, entries, data=b""):
    head = json.dumps(entries).encode() if isinstance(entries, dict) else entries
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 10**6, "it is nested too deeply"),
        (b'{"a":' * 10**5, "it is nested too deeply"),
        (b'{"a": ' + b"1" * 401 + b"}", "a number of 401 digits"),
        (b'{"a": ' + b"1" * 10**6 + b"}", "a number of 1,000,000 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice, with different values"),
        (b'{"a": "' + b"x" * LARGEST + b'"}', "too many for a file of settings"),
        ('{"a": "é"}'.encode("latin1"), "can't be read as JSON"),
        (b"\0" * 100, "can't be read as JSON"),
        (b"[1]", "expected a JSON object, found a list"),
        (b"3", "expected a JSON object, found 3"),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_settings_that_are_damaged(hub, name, text, words):
    (hub.path / name).write_bytes(text)
    assert words in refused(hub.path)


def test_a_name_that_is_there_twice_with_one_value_is_fine(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1], "b": 2, "a": [1]}')
    assert read_object(tmp_path / "a.json") == {"a": [1], "b": 2}


def fifo(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def device(path):
    path.symlink_to("/dev/zero")


def dangling(path):
    path.symlink_to("nothing")


def circle(path):
    path.symlink_to(path.name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fifo, "is a named pipe, expected a file"),
        (folder, "is a folder, expected a file"),
        (device, "is a device, expected a file"),
        (dangling, "the link leads to nothing"),
        (circle, "can't be looked at"),
    ],
)
def test_what_is_no_plain_file_is_never_opened(hub, name, make, words):
    (hub.path / name).unlink()
    make(hub.path / name)
    assert words in refused(hub.path)


def test_a_pipe_given_as_the_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert refused(tmp_path / "pipe.pth") == f"{tmp_path / 'pipe.pth'} is a named pipe, expected a file"


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
MANY = {f"a{i}": {**ONE, "data_offsets": [4 * i, 4 * i + 4]} for i in range(20_001)}


@pytest.mark.parametrize(
    ("entries", "data", "words"),
    [
        ({"a": {**ONE, "data_offsets": [0, 400]}}, b"1234", "is cut short, damaged"),
        ({"a": {**ONE, "data_offsets": [9, 4]}}, b"1234", "is cut short, damaged"),
        ({"a": {**ONE, "shape": [10**10, 10**10]}}, b"1234", "is cut short, damaged"),
        ({"a": {**ONE, "shape": [-1]}}, b"1234", "is cut short, damaged"),
        ({"a": {**ONE, "dtype": "F99"}}, b"1234", "is cut short, damaged"),
        (b'{"\\ud800": {}}', b"", "is cut short, damaged"),
        (b'{"__metadata__": {"a": ' + b"[" * 10**5, b"", "is cut short, damaged"),
        (b"[]", b"", "is cut short, damaged"),
        (MANY, b"1234" * len(MANY), "20,001 tensors"),
    ],
    ids=range(9),
)
def test_safetensors_that_are_damaged(hub, entries, data, words):
    write_safetensors(hub.path / "model.safetensors", entries, data)
    assert words in refused(hub.path)


def test_a_head_that_claims_a_gigabyte(hub):
    file = hub.path / "model.safetensors"
    file.write_bytes((10**9).to_bytes(8, "little") + file.read_bytes()[8:])
    assert "is cut short, damaged" in refused(hub.path)


@pytest.mark.parametrize(
    ("kind", "width", "called"), [("F8_E4M3", 1, "float8_e4m3"), ("I64", 8, "int64"), ("BOOL", 1, "bool")]
)
def test_types_that_are_not_read_are_named(hub, kind, width, called):
    file = hub.path / "model.safetensors"
    weights = load_file(file)
    name = "model.enc_output.1.bias"
    size = weights.pop(name).size
    entries, data = {name: {"dtype": kind, "shape": [size], "data_offsets": [0, width * size]}}, bytes(width * size)
    for other, value in weights.items():
        dtype = {"f": "F32", "i": "I64"}[value.dtype.kind]
        entries[other] = {"dtype": dtype, "shape": value.shape, "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    write_safetensors(file, entries, data)
    with pytest.raises(CheckpointError, match=rf"wrong type: {name} holds {called}, expected floating-point numbers"):
        open_model(hub.path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("model.enc_output.1.bias", lambda x: x * np.nan, "has 16 NaN of 16 values"),
        ("model.enc_output.1.bias", lambda x: np.where(np.arange(16) < 2, np.inf, x), "has 2 infinite of 16 values"),
        ("model.enc_output.1.bias", lambda x: np.full(16, 1e300), "has 16 infinite of 16 values"),
        ("model.backbone.model.embedder.stem1.normalization.running_var", lambda x: -x, "has a negative variance, -"),
    ],
)
def test_spoilt_weights_are_named(hub, name, change, words):
    file = hub.path / "model.safetensors"
    weights = load_file(file)
    value = change(weights[name])
    save_file({**weights, name: value if value.max() > 1e38 else value.astype(np.float32)}, file)
    text = refused(hub.path)
    assert text.startswith(f"{hub.path}: 1 tensor can't be computed with, the weights are spoilt: {name} {words}")


def test_nothing_spoilt_is_handed_on_and_all_is_counted(hub):
    file = hub.path / "model.safetensors"
    weights = load_file(file)
    spoilt = {name: x * np.nan if x.dtype.kind == "f" else x for name, x in weights.items()}
    save_file(spoilt, file)
    given = []
    with pytest.raises(CheckpointError, match=rf"{len(hub.arrays)} tensors can't be computed with.*; \.\.\.$"):
        given.extend(open_model(hub.path).arrays())
    assert given == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory, stored_hub):
    path = tmp_path_factory.mktemp("converted") / "tiny"
    save_folder(path, TINY, Preprocessing(64, 96), stored_hub.arrays.items(), source="from \udcff\nthere")
    return path


def changed(stored, target, *path):
    """A copy whose configuration has another value at the end of a path of names."""
    shutil.copytree(stored, target)
    about = json.loads((target / "config.json").read_text())
    *places, name, value = path
    inside = about
    for place in places:
        inside = inside[place]
    inside[name] = value
    (target / "config.json").write_text(json.dumps(about))
    return target


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("decoder", "layers", 10**6), "decoder.layers = 1000000, expected a whole number up to 65,536"),
        (("decoder", "layers", 10**300), "decoder.layers = 1000"),
        (("decoder", "layers", 60_000), "layers of the decoder: 60,000 is too many"),
        (("decoder", "layers", [3]), r"decoder.layers = \[3\], expected a whole number"),
        (("decoder", "layers", True), "decoder.layers = true, expected a whole number"),
        (("decoder", "points", [10**9, 1]), r"decoder.points\[0\] = 1000000000, expected a whole number"),
        (("decoder", "points", 3), "decoder.points = 3, expected a list"),
        (("decoder", "heads", 0), "decoder.heads = 0 must be at least 1"),
        (("decoder", "width", -16), "d_model = -16 must be a whole number, 1 or more"),
        (("encoder", "depth", 1e308), r"encoder.depth = 1e\+308, expected a number within"),
        (("encoder", "depth", float("nan")), "encoder.depth = NaN, expected a number within"),
        (("encoder", "activation", "mish"), 'activation_function = "mish" is not supported'),
        (("backbone", "stages", []), r"backbone.out_stages = \(2, 3\) must lie in 1..0"),
        (("backbone", "stages", 0, "blocks", 60_000), "convolutions in the backbone: 60,00"),
        (("class_names", ["a"] * 10**5), "class_names = a list of 100,000 entries, expected a list of up to 65,536"),
        (("class_names", ["a\ud800"] * 5), "has half a character"),
        (("class_names", [1] * 5), r"class_names\[0\] = 1, expected text"),
    ],
)
def test_a_converted_config_is_held_to_the_same(stored, tmp_path, path, words):
    target = changed(stored, tmp_path / "copy", "model", *path)
    with pytest.raises(
        CheckpointError, match=rf'config\.json: "model" describes no model \((config.json: )?(.*)?{words}'
    ):
        open_folder(target)


def test_a_converted_folder_with_a_pipe_in_its_weights(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "copy")
    (tmp_path / "copy" / "weights" / "_METADATA").unlink()
    os.mkfifo(tmp_path / "copy" / "weights" / "_METADATA")
    assert refused(tmp_path / "copy").endswith("_METADATA is a named pipe, expected a file")


def test_a_converted_folder_without_preprocessing_says_what_is_assumed(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "copy")
    (tmp_path / "copy" / "preprocessor_config.json").unlink()
    assert "640x640 is assumed" in open_folder(tmp_path / "copy").remarks[0]


def test_spoilt_weights_of_a_converted_folder_are_named(tmp_path, stored_hub):
    arrays = {**stored_hub.arrays, "decoder.encoder_norm.bias": np.full(16, np.nan, np.float32)}
    save_folder(tmp_path / "copy", TINY, Preprocessing(64, 96), arrays.items())
    assert "1 tensor can't be computed with, the weights are spoilt: decoder.encoder_norm.bias" in refused(
        tmp_path / "copy"
    )


def test_damaged_arrays_of_a_converted_folder_are_one_line(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "copy")
    (tmp_path / "copy" / "SHA256SUMS").unlink()  # which would tell before Orbax does
    file = max((tmp_path / "copy" / "weights").rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    for place in range(0, len(data) * 9 // 10, len(data) // 50):
        data[place] ^= 255
    file.write_bytes(data)
    command = [sys.executable, "-m", "dfine_jax.cli.main", "convert", str(tmp_path / "copy"), str(tmp_path / "out")]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"dfine convert: {tmp_path / 'copy' / 'weights'} is damaged")
    assert finished.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["copy"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_a_full_disk_is_one_line_and_leaves_nothing(hub, tmp_path):
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2); "
        "from dfine_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "convert", str(hub.path), str(tmp_path / "out")]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert f"{tmp_path / 'out'} was not written: no room for it on the disk" in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["tiny"]


def test_where_it_came_from_is_noted_as_plain_text(stored):
    assert json.loads((stored / "config.json").read_text())["source"] == "from \\xff\\nthere"


MEASURED = """
import re, sys
from dfine_jax.cli.main import main
code = main(sys.argv[1:])
print("MiB", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("verb", ["convert", "detect", "info"])
def test_the_command_line_says_one_line_and_stays_small(hub, tmp_path, verb):
    path = hub.path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_layers": 10**6, "depth_mult": 1e308}))
    arguments = {
        "convert": ["convert", str(hub.path), str(tmp_path / "out")],
        "detect": ["detect", "--model", str(hub.path)],
        "info": ["info", "--model", str(hub.path)],
    }[verb]
    command = [sys.executable, "-c", MEASURED, *arguments]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "depth_mult = 1e+308 must lie within" in finished.stderr or "decoder_layers = 1000000" in finished.stderr
    assert int(finished.stdout.split("MiB")[1]) < 500
    assert not (tmp_path / "out").exists()
