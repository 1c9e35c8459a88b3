"""HGNetV2 trained alone, as the original release and timm store it."""

import numpy as np
import pytest
from reference import manifest
from safetensors.numpy import save_file
from tiny import TINY

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import DFine, variables
from dfine_jax.weights.fill import CheckpointError, torch_shape
from dfine_jax.weights.rules import BACKBONES, to_torch
from dfine_jax.weights.sources import read_backbone


@pytest.fixture(scope="module")
def theirs(backbone_arrays) -> dict[str, np.ndarray]:
    stored = {"head.fc.weight": np.zeros((3, 4), np.float32), "stem.stem1.bn.num_batches_tracked": np.zeros((), int)}
    for name, value in backbone_arrays.items():
        match = to_torch(BACKBONES[0], name)
        stored[match.name] = np.ascontiguousarray(match.layout.to_torch(value))
    return stored


@pytest.mark.parametrize("size", "nsmlx")
def test_names_are_those_of_the_original_release(size):
    params, batch_stats = variables(DFine(DFineConfig.from_size(size)))
    written = {}
    for name, value in {**params, **batch_stats}.items():
        if name.startswith("backbone."):
            match = to_torch(BACKBONES[0], name)
            written[f"backbone.{match.name}"] = torch_shape(match, value.shape)
    known = manifest("original", size)
    assert written == {
        name: shape for name, shape in known.items() if name.startswith("backbone.") and not name.endswith("tracked")
    }


def test_safetensors(backbone_arrays, theirs, tmp_path):
    save_file(theirs, tmp_path / "hgnetv2.safetensors")
    read = read_backbone(tmp_path / "hgnetv2.safetensors", TINY)
    assert read.keys() == backbone_arrays.keys()
    for name, value in read.items():
        np.testing.assert_array_equal(value, backbone_arrays[name], err_msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("wrapped", [False, True])
def test_pth(backbone_arrays, theirs, tmp_path, wrapped):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in theirs.items()}
    torch.save({"model": tensors} if wrapped else tensors, tmp_path / "stage1.pth")
    for name, value in read_backbone(tmp_path / "stage1.pth", TINY).items():
        np.testing.assert_array_equal(value, backbone_arrays[name], err_msg=name)


def test_another_size_is_refused_with_everything_that_does_not_fit(theirs, tmp_path):
    some = {name: value for name, value in theirs.items() if name != "stem.stem3.conv.weight"}
    some["stem.stem1.conv.weight"] = np.zeros((9, 3, 3, 3), np.float32)
    save_file(some, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_backbone(tmp_path / "other.safetensors", TINY)
    for words in ("missing: stem.stem3.conv.weight", "stem.stem1.conv.weight is [9, 3, 3, 3]", "HGNetV2 alone"):
        assert words in str(caught.value)
