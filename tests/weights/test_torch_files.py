"""PyTorch's checkpoints as people have them, and those that are made to run code or to fill the memory."""

import argparse
import collections
import datetime
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from dfine_jax.cli.main import main
from dfine_jax.weights.file_type import FileType
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.sources import open_model
from dfine_jax.weights.torch_pickle import Empty, stand_ins


class Calls:
    """Pickled, it asks for a call."""

    def __init__(self, function, *arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


def zipped(path, content, compression=zipfile.ZIP_STORED, **more):
    """A file as PyTorch writes one around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for name, data in more.items():
            archive.writestr(f"archive/{name}", data)
    return path


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        stand_ins(path, FileType.TORCH_ZIP)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("function", [os.system, eval, bytearray, getattr, Calls, __import__, pickle.loads])
def test_whatever_could_run_code_is_refused_unread_with_a_way_out(tmp_path, function):
    text = refused(zipped(tmp_path / "evil.pth", pickle.dumps({"a": Calls(function, "touch x")}, 2)))
    assert "Python objects beside tensors (" in text
    assert function.__name__ in text
    assert "torch.save(model.state_dict(), 'weights.pth')" in text


def test_plain_data_is_passed_over(tmp_path):
    plain = {
        "score": np.float64(0.4),
        "scores": np.ones(3),
        "kind": np.dtype("f4"),
        "args": argparse.Namespace(output=pathlib.Path("x"), none=None),
        "when": datetime.datetime.now(datetime.UTC),
        "lists": collections.defaultdict(list),
        "last": collections.deque([1]),
        "order": collections.OrderedDict(a=1),
    }
    found = stand_ins(zipped(tmp_path / "a.pth", pickle.dumps(plain, 2)), FileType.TORCH_ZIP)
    named = {name: stand_in for stand_in, name in found}
    assert named["argparse.Namespace"] is named["datetime.datetime"] is named["numpy.dtype"] is Empty
    assert named["collections.defaultdict"](int) == {}
    assert named["collections.deque"]([1], 3) == []
    assert "collections.OrderedDict" not in named
    assert vars(Empty(1, 2)) == {}


def test_what_inflates_is_not_read(tmp_path):
    path = zipped(tmp_path / "bomb.pth", b"\x80\x02X" + struct.pack("<I", 10**8) + b"a" * 10**8, zipfile.ZIP_DEFLATED)
    assert "claims to hold 100,000,0" in refused(path)


def test_a_pickle_of_very_many_steps_is_not_read(tmp_path):
    assert "more than 1,000,000 steps" in refused(zipped(tmp_path / "a.pth", b"\x80\x02" + b"]" * 1_000_002 + b"."))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02", "is cut short, damaged"),
        (b"\x80\x02X\xff\xff\xff\xffab", "is cut short, damaged"),
        (b"\x80\x02\xff.", "is cut short, damaged"),
        (b"\x80\x02c\xff\n\xff\n.", "is cut short, damaged"),
        (b"\x80\x02L" + b"9" * 5000 + b"L\n.", "is cut short, damaged"),
    ],
)
def test_pickles_that_are_damaged(tmp_path, content, words):
    assert words in refused(zipped(tmp_path / "a.pth", content))


def test_zips_that_are_no_checkpoint(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(1))
    assert "is a zip archive without PyTorch's data.pkl (a.npy)" in refused(tmp_path / "a.npz")
    program = zipped(tmp_path / "a.pt", b"\x80\x02N.", **{"constants.pkl": b"x"})
    assert "is a program of TorchScript" in refused(program)


def test_a_pickle_that_is_not_pytorchs(tmp_path):
    path = tmp_path / "a.pth"
    for value, words in (({"a": 1}, "is a pickle, but not PyTorch's"), (Calls(os.system, "x"), "(posix.system)")):
        path.write_bytes(pickle.dumps(value, 2))
        with pytest.raises(CheckpointError) as caught:
            stand_ins(path, FileType.TORCH_PICKLE)
        assert words in str(caught.value).replace("nt.system", "posix.system")


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_protocol_that_pytorch_does_not_read_is_named_with_a_way_out(tmp_path, protocol):
    text = refused(zipped(tmp_path / "a.pth", pickle.dumps(collections.OrderedDict(a=1), protocol)))
    assert f"was saved with pickle_protocol={protocol}, which PyTorch's safe reader does not know" in text
    assert "torch.save(model.state_dict(), 'weights.pth'), with its own protocol" in text


@pytest.mark.parity
class TestRead:
    """With PyTorch."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.fixture
    def state(self, torch, hub):
        weights = load_file(hub.path / "model.safetensors")
        (hub.path / "model.safetensors").unlink()
        return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}

    def other(self, torch, state):
        return {name: value + 1 for name, value in state.items()}

    @pytest.mark.parametrize(
        "place",
        ["", "model", "state_dict", "model_state_dict", "weights", "net", "params", "ema", "ema.module", "model_ema",
         "ema_state_dict", "a.b.c"],
    )  # fmt: skip
    def test_wherever_the_weights_are(self, torch, hub, state, same_arrays, place):
        content = state
        for name in reversed(place.split(".") if place else []):
            content = {name: content, "epoch": 3}
        torch.save(content, hub.path / "best.pth")
        model = open_model(hub.path)
        same_arrays(model.arrays(), hub.arrays)
        assert (f"those under {place}" in model.notes) == bool(place)

    @pytest.mark.parametrize("place", ["ema", "ema_state_dict", "model_ema", "params_ema"])
    @pytest.mark.parametrize("inside", [False, True])
    def test_the_average_comes_first(self, torch, hub, state, same_arrays, place, inside):
        average = {"module": state, "updates": 3} if inside else state
        optimizer = {"state": {0: state}}
        torch.save({"model": self.other(torch, state), "optimizer": optimizer, place: average}, hub.path / "a.pth")
        same_arrays(open_model(hub.path).arrays(), hub.arrays)

    @pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt", "a.bin", "a.pth.tar", "a.tar", "a", "a.safetensors"])
    @pytest.mark.parametrize("zip_format", [True, False])
    def test_any_ending(self, torch, hub, state, same_arrays, name, zip_format):
        path = hub.path / name
        torch.save(
            {"model": {f"module.{n}": x for n, x in state.items()}}, path, _use_new_zipfile_serialization=zip_format
        )
        same_arrays(open_model(path).arrays(), hub.arrays)

    def test_compressed_by_someone(self, torch, hub, state, same_arrays):
        memory = io.BytesIO()
        torch.save(state, memory)
        with zipfile.ZipFile(memory) as plain, zipfile.ZipFile(hub.path / "a.pth", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
        same_arrays(open_model(hub.path).arrays(), hub.arrays)

    @pytest.mark.parametrize("zip_format", [True, False])
    def test_plain_data_beside_the_weights(self, torch, hub, state, same_arrays, zip_format):
        beside = {
            "best": {"bbox": np.float64(0.4), "ap": np.ones((2, 2)), "name": np.str_("a"), "fine": np.bool_(True)},
            "args": argparse.Namespace(output=pathlib.Path("x"), when=datetime.datetime.now(), lr=np.float32(1)),
            "meters": collections.defaultdict(lambda: 0).__class__(list, a=[1]),
            "window": collections.deque([1.0, 2.0], maxlen=3),
            "random": np.random.RandomState(0).get_state(),
            "set": {1, 2},
        }
        torch.save({"model": state, **beside}, hub.path / "a.pth", _use_new_zipfile_serialization=zip_format)
        same_arrays(open_model(hub.path).arrays(), hub.arrays)

    @pytest.mark.parametrize("zip_format", [True, False])
    def test_another_protocol_of_pickles(self, torch, hub, state, same_arrays, zip_format):
        options = dict(_use_new_zipfile_serialization=zip_format)
        torch.save(state, hub.path / "a.pth", pickle_protocol=3, **options)
        same_arrays(open_model(hub.path).arrays(), hub.arrays)
        torch.save(state, hub.path / "a.pth", pickle_protocol=4, **options)
        with pytest.raises(CheckpointError, match="saved with pickle_protocol=4, which"):
            open_model(hub.path)

    def test_shards(self, torch, hub, state, same_arrays):
        names = sorted(state)
        places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
        for file in set(places.values()):
            torch.save({name: state[name] for name in names if places[name] == file}, hub.path / file)
        (hub.path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
        same_arrays(open_model(hub.path).arrays(), hub.arrays)

    def test_nothing_of_a_hostile_file_runs(self, torch, hub, state, capsys):
        torch.save({"model": state, "x": Calls(os.system, f"touch {hub.path}/ran")}, hub.path / "a.pth")
        assert main(["convert", str(hub.path), str(hub.path.parent / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "holds Python objects beside tensors (posix.system)" in error.replace("nt.system", "posix.system")
        assert not (hub.path / "ran").exists()

    def test_a_tensor_that_claims_more_than_it_has(self, torch, hub, state):
        state["model.enc_output.1.bias"] = torch.zeros(1).expand(16)
        torch.save(state, hub.path / "a.pth")
        with pytest.raises(CheckpointError, match=r"model\.enc_output\.1\.bias claims 16 numbers, and has 1"):
            list(open_model(hub.path).arrays())

    def test_mappings_that_hold_each_other_many_times(self, torch, hub):
        nested = {"a": torch.ones(1)}
        for _ in range(50):
            nested = {str(i): nested for i in range(50)}
        torch.save(nested, hub.path / "a.pth")
        with pytest.raises(CheckpointError, match="holds no tensors by name"):
            open_model(hub.path / "a.pth")

    def test_names_that_are_no_text(self, torch, hub, state):
        torch.save({**state, 5: torch.ones(1), ("a",): torch.ones(1), None: torch.ones(1)}, hub.path / "a.pth")
        with pytest.raises(CheckpointError, match=r"(?s)3 unexpected.*\('a',\).*5.*None"):
            open_model(hub.path)

    @pytest.mark.parametrize("kind", ["float8_e4m3fn", "int8", "complex64"])
    def test_types_that_are_not_read(self, torch, hub, state, kind):
        state["model.enc_output.1.bias"] = state["model.enc_output.1.bias"].to(getattr(torch, kind))
        torch.save(state, hub.path / "a.pth")
        with pytest.raises(CheckpointError, match=rf"wrong type: model\.enc_output\.1\.bias holds {kind}"):
            open_model(hub.path)
