"""The Hub's layout as we write it: what transformers would write, to the bit, and readable by its own tools."""

import json

import numpy as np
import pytest
from reference import manifest
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny import TINY, tiny_config, tiny_model

from dfine_jax.config import DFineConfig
from dfine_jax.evaluation.against_transformers import compare, synthetic_picture
from dfine_jax.hub_config import from_hub, to_hub
from dfine_jax.model.dfine import variables
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.fill import torch_shape
from dfine_jax.weights.hub_layout import hub_tensors, save_hub_folder
from dfine_jax.weights.sources import open_model


def arrays_of(model):
    params, batch_stats = variables(model)
    return {name: np.asarray(value) for name, value in {**params, **batch_stats}.items()}


@pytest.mark.parametrize("size", "nsmlx")
def test_names_and_shapes_are_those_of_the_published_files(size):
    config = from_hub({**to_hub(DFineConfig.from_size(size)), "freeze_backbone_batch_norms": True})
    weights, constants = hub_tensors(config)
    written = {match.name: torch_shape(match, shape) for match, shape in weights.values()}
    written |= {name: array.shape for name, array in constants.items()}
    assert written == manifest("huggingface", size)


def test_there_and_back_to_the_bit(stored_hub, tmp_path, same_arrays):
    model = open_model(stored_hub.path)
    save_hub_folder(tmp_path / "again", model.config, model.preprocessing, model.arrays())
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (stored_hub.path / file).read_bytes()
    same_arrays(open_model(tmp_path / "again").arrays(), stored_hub.arrays)


def test_half_precision_rounds_what_is_large(stored_hub, tmp_path):
    model = open_model(stored_hub.path)
    save_hub_folder(tmp_path / "half", model.config, model.preprocessing, model.arrays(), half=True)
    for name, tensor in load_file(tmp_path / "half" / "model.safetensors").items():
        vector = tensor.ndim < 2
        assert tensor.dtype == (np.int64 if name.endswith("tracked") else np.float32 if vector else np.float16), name
    for name, value in open_model(tmp_path / "half").arrays():
        whole = stored_hub.arrays[name]
        np.testing.assert_array_equal(value, whole.astype(np.float16) if whole.ndim > 1 else whole)


def test_half_precision_refuses_what_it_can_not_hold(stored_hub, tmp_path):
    model = open_model(stored_hub.path)
    large = {
        **stored_hub.arrays,
        "decoder.encoder_score.kernel": stored_hub.arrays["decoder.encoder_score.kernel"] + 7e4,
    }
    with pytest.raises(ValueError, match=r"decoder\.encoder_score\.kernel has values up to 700.*too large for half"):
        save_hub_folder(tmp_path / "half", model.config, model.preprocessing, large.items(), half=True)
    assert not (tmp_path / "half").exists()


def test_the_library_reads_the_file(stored_hub):
    tensors = load_file(stored_hub.path / "model.safetensors")
    kernel = stored_hub.arrays["decoder.layers.1.mlp.layers.0.kernel"]
    np.testing.assert_array_equal(tensors["model.decoder.layers.1.fc1.weight"], kernel.T)
    stem = stored_hub.arrays["backbone.stem.stem1.kernel"]
    np.testing.assert_array_equal(
        tensors["model.backbone.model.embedder.stem1.convolution.weight"], stem.transpose(3, 2, 0, 1)
    )
    with safe_open(stored_hub.path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_stands_beside_the_weights(stored_hub):
    tensors = load_file(stored_hub.path / "model.safetensors")
    scale = tensors["model.decoder.layers.0.encoder_attn.num_points_scale"]
    np.testing.assert_array_equal(scale, np.float32([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]))
    counts = {name: value for name, value in tensors.items() if name.endswith("num_batches_tracked")}
    norms = {name for name in tensors if name.endswith("running_mean")}
    assert {name.replace("num_batches_tracked", "running_mean") for name in counts} == norms
    assert all(value.dtype == np.int64 and value.shape == () and value == 0 for value in counts.values())


def test_frozen_norms_have_no_counts():
    config = from_hub({**to_hub(TINY), "freeze_backbone_batch_norms": True})
    counted = [name for name in hub_tensors(config).constants if name.endswith("num_batches_tracked")]
    assert counted
    assert not any(name.startswith("model.backbone") for name in counted)


def test_layers_past_the_one_that_counts_are_left_out(tmp_path):
    wide = tiny_model(tiny_config(layers=3, eval_layer=1, layer_scale=2.0))
    arrays = arrays_of(wide)
    save_hub_folder(tmp_path / "out", wide.config, Preprocessing(), arrays.items())
    model = open_model(tmp_path / "out")
    assert model.config == TINY
    for name, value in model.arrays():
        np.testing.assert_array_equal(value, arrays[name])


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen", "twice"])
def test_arrays_must_be_the_models(tmp_path, stored_hub, change):
    arrays = list(stored_hub.arrays.items())
    name, value = arrays[0]
    arrays = {
        "missing": arrays[1:],
        "extra": [*arrays, ("more", value)],
        "misshapen": [(name, value[..., None]), *arrays[1:]],
        "twice": [*arrays, (name, value)],
    }[change]
    with pytest.raises(ValueError, match="more" if change == "extra" else name):
        save_hub_folder(tmp_path / "out", TINY, Preprocessing(), arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parity
class TestTransformers:
    """With PyTorch and transformers."""

    @pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "not frozen"])
    @pytest.mark.parametrize("decoder", [{}, dict(learned_queries=True, denoising_queries=0)], ids=["plain", "learned"])
    def test_transformers_loads_every_key(self, tmp_path, decoder, frozen):
        transformers = pytest.importorskip("transformers")
        config = from_hub({**to_hub(tiny_config(**decoder)), "freeze_backbone_batch_norms": frozen})
        save_hub_folder(tmp_path / "hub", config, Preprocessing(64, 96), arrays_of(tiny_model(config)).items())
        read = transformers.DFineForObjectDetection.from_pretrained
        theirs, about = read(tmp_path / "hub", output_loading_info=True)
        assert not any(about[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        assert theirs.config.id2label == dict(enumerate(TINY.class_names))

    def test_transformers_computes_the_same(self, stored_hub):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
        found = compare(tiny_model(), stored_hub.path, Preprocessing(64, 96), synthetic_picture())
        assert (found.queries, found.shared) == (20, 20)
        assert found.logits < 2e-5
        assert found.boxes < 2e-6
        other = compare(tiny_model(seed=1), stored_hub.path, Preprocessing(64, 96), synthetic_picture())
        assert not other.small

    def test_what_transformers_saves_comes_back_to_the_bit(self, tmp_path, same_arrays):
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        config = transformers.DFineConfig(**to_hub(tiny_config(points=(2, 1, 3), method="discrete")))
        theirs = transformers.DFineForObjectDetection(config)
        theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
        assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
        model = open_model(tmp_path / "theirs")
        save_hub_folder(tmp_path / "ours", model.config, model.preprocessing, model.arrays())
        again = transformers.DFineForObjectDetection.from_pretrained(tmp_path / "ours").state_dict()
        expected = theirs.state_dict()
        assert again.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(again[name], value), name
        written = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert transformers.DFineConfig(**written).decoder_n_points == [2, 1, 3]
