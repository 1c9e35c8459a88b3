"""PaddlePaddle's ``.pdparams``: HGNetV2's arrays are read, and nothing in the file is run."""

import os
import pickle

import numpy as np
import pytest
from tiny import TINY

from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.paddle_file import PaddleFile
from dfine_jax.weights.rules import BACKBONES, to_torch
from dfine_jax.weights.sources import read_backbone

PADDLE = next(dialect for dialect in BACKBONES if "Paddle" in dialect.name)


@pytest.fixture(scope="module")
def theirs(backbone_arrays) -> dict[str, np.ndarray]:
    stored = {"fc.weight": np.zeros((3, 4), np.float32), "last_conv.weight": np.zeros((4, 3, 1, 1), np.float32)}
    for name, value in backbone_arrays.items():
        match = to_torch(PADDLE, name)
        stored[match.name] = np.ascontiguousarray(match.layout.to_torch(value))
    return stored


def test_names(theirs):
    assert {"stem.stem1.conv.weight", "stem.stem1.bn._mean", "stem.stem1.bn._variance", "stem.stem1.lab.scale"} < set(
        theirs
    )
    assert "stages.0.blocks.0.aggregation_squeeze_conv.conv.weight" in theirs
    assert "stages.2.blocks.1.aggregation_excitation_conv.bn._mean" in theirs


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_read(backbone_arrays, theirs, tmp_path, protocol, prefix):
    table = {"StructuredToParameterName@@": {"stem.stem1.conv.weight": "conv2d_0.w_0"}}
    named = {prefix + name: value for name, value in theirs.items()}
    (tmp_path / "b0.pdparams").write_bytes(pickle.dumps({**named, **table}, protocol))
    read = read_backbone(tmp_path / "b0.pdparams", TINY)
    assert read.keys() == backbone_arrays.keys()
    for name, value in read.items():
        np.testing.assert_array_equal(value, backbone_arrays[name], err_msg=name)


def test_arrays_of_other_kinds(tmp_path):
    arrays = {
        "by column": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "other way round": np.arange(3, dtype=">f4"),
        "half": np.ones(2, np.float16),
        "number": np.array(3.0),
        "whole": np.arange(2),
    }
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(arrays, 2))
    file = PaddleFile(tmp_path / "a.pdparams")
    assert file.types["half"] == "float16"
    assert file.types["whole"] == "int64"
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.read(name), array)


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": Runs()}), r"holds Python objects beside arrays \((posix|nt)\.system\)"),
        (pickle.dumps({"a": np.array([Runs()], dtype=object)}), "holds Python objects beside arrays"),
        (pickle.dumps([np.ones(3)]), "holds a list, expected arrays by their names"),
        (pickle.dumps({"a": 1}), "holds 0 arrays"),
        (pickle.dumps({"a": np.ones(300)})[:-90], "is cut short, damaged, or not PaddlePaddle's"),
        (b"\x80\x02", "is cut short, damaged"),
        (b"\x80\x02.", "is cut short, damaged"),
        (pickle.dumps({"a": np.array(["text"])}), "claims 1 bytes, and has 16"),
    ],
)
def test_files_that_are_not_read(tmp_path, content, words):
    (tmp_path / "a.pdparams").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_backbone(tmp_path / "a.pdparams", TINY)
    assert "\n" not in str(caught.value)


def test_an_array_that_claims_more_than_it_has(tmp_path):
    content = pickle.dumps({"a": np.zeros((3, 5), np.float32)}, 2)
    (tmp_path / "a.pdparams").write_bytes(content.replace(b"K\x03K\x05", b"K\x7fK\x7f"))
    with pytest.raises(CheckpointError, match="a claims 64,516 bytes, and has 60"):
        PaddleFile(tmp_path / "a.pdparams")


def test_all_backbones_names_have_all_tensors(backbone_arrays):
    for dialect in BACKBONES:
        assert all(to_torch(dialect, name) for name in backbone_arrays), dialect.name
