"""The original release's ``.pth``: what is told from its shapes, and files good and bad."""

import numpy as np
import pytest
from reference import MadeWeights, manifest

from dfine_jax.class_names import COCO_CLASSES, OBJECTS365_CLASSES
from dfine_jax.config import DFineConfig
from dfine_jax.weights import sources
from dfine_jax.weights.file_type import FileType, file_type_of
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.inferred_config import (
    inferred_config,
    known_shapes,
    original_picture_side,
    size_of_config,
    size_of_shapes,
)
from dfine_jax.weights.rules import HUB, ORIGINAL
from dfine_jax.weights.sources import open_model
from dfine_jax.weights.torch_file import TorchFile
from dfine_jax.weights.weight_files import Opened


def with_classes(shapes, count):
    heads = ("dec_score_head", "enc_score_head")
    changed = {}
    for name, shape in shapes.items():
        if any(head in name for head in heads):
            changed[name] = (count, *shape[1:])
        elif "denoising_class_embed" in name:
            changed[name] = (count + 1, *shape[1:])
        else:
            changed[name] = shape
    return changed


def torch_file(path):
    return TorchFile(path, file_type_of(path), (HUB, ORIGINAL))


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens shapes as if they were in a file; values are made up as they are read."""

    def open_shapes(shapes, **options):
        made = MadeWeights(shapes, seed=0, reg_scale=4.0)
        monkeypatch.setattr(sources, "open_weights", lambda files, dialects: Opened(made))
        (tmp_path / "dfine.pth").touch()
        return open_model(tmp_path / "dfine.pth", **options)

    return open_shapes


@pytest.mark.parametrize("size", "nsmlx")
def test_size_is_told_from_shapes(opened, size):
    model = opened(manifest("original", size))
    config = model.config
    assert config.encoder == DFineConfig.from_size(size).encoder
    assert config.decoder == DFineConfig.from_size(size).decoder
    assert config.class_names == COCO_CLASSES
    assert config.backbone.frozen_norms == (size in "lx")
    assert (model.preprocessing.height, model.preprocessing.width) == (640, 640)
    assert size_of_config(config) == size
    assert size_of_shapes(known_shapes(HUB, manifest("huggingface", size))) == size


@pytest.mark.parametrize(
    ("count", "names"), [(366, OBJECTS365_CLASSES), (80, COCO_CLASSES), (3, ("class 0", "class 1", "class 2"))]
)
def test_classes_are_named_by_their_number(opened, count, names):
    assert opened(with_classes(manifest("original", "n"), count)).config.class_names == names


def test_given_class_names(opened):
    shapes = with_classes(manifest("original", "n"), 2)
    assert opened(shapes, class_names=["ant", "bee"]).config.class_names == ("ant", "bee")
    with pytest.raises(CheckpointError, match="has 2 classes, but 3 names were given"):
        opened(shapes, class_names=["ant", "bee", "cat"])


def test_objects365_numbers_its_categories_from_one():
    assert len(OBJECTS365_CLASSES) == 366
    assert [OBJECTS365_CLASSES[i] for i in (1, 6, 47, 140, 365)] == ["Person", "Car", "Bicycle", "Cat", "Table Tennis"]
    assert len(set(OBJECTS365_CLASSES)) == 366


def test_wide_layers_past_the_one_that_counts(opened):
    shapes = dict(manifest("original", "n"))
    bins = DFineConfig.nano().decoder.bins
    for name, shape in manifest("original", "n").items():
        wide = tuple(2 * n if n in (128, 256, 384, 512) else n for n in shape)
        for group in ("decoder.layers", "dec_score_head", "dec_bbox_head", "decoder.lqe_layers"):
            start = f"decoder.{group}.2."
            if name.startswith(start):
                same = "lqe" in name or "num_points" in name
                new = shape if same else wide
                if name.endswith(("sampling_offsets.bias", "attention_weights.bias")):
                    new = shape
                if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
                    new = (shape[0], 2 * shape[1])
                if "score_head" in name:
                    new = (shape[0], *(2 * n for n in shape[1:]))
                shapes[name] = new
                shapes[name.replace(start, f"decoder.{group}.3.")] = new
    model = opened(shapes)
    decoder = model.config.decoder
    assert (decoder.layers, decoder.eval_layer, decoder.layer_scale, decoder.bins) == (4, 1, 2.0, bins)
    assert dict(model.arrays())["decoder.layers.3.norm1.scale"].shape == (256,)


def test_queries_may_be_learned_and_not_denoised(opened):
    shapes = dict(manifest("original", "n"))
    del shapes["decoder.denoising_class_embed.weight"]
    shapes["decoder.tgt_embed.weight"] = (200, 128)
    decoder = opened(shapes).config.decoder
    assert (decoder.learned_queries, decoder.queries, decoder.denoising_queries) == (True, 200, 0)


@pytest.mark.parametrize(("tokens", "side"), [(2000, 640), (500, 320), (1999, None), (20 * 30 + 40 * 60, None)])
def test_picture_size_is_told_from_anchors(tokens, side):
    shapes = {"decoder.anchors": (1, tokens, 4)}
    assert original_picture_side(shapes, DFineConfig.nano()) == side
    assert original_picture_side({}, DFineConfig.nano()) is None


def test_a_given_size_counts_and_the_likely_one_is_named(opened):
    with pytest.raises(CheckpointError, match="the weights look like size n, the configuration is that of size s\n"):
        opened(manifest("original", "n"), size="s")


def test_shapes_of_no_published_size():
    shapes = {**manifest("original", "n"), "backbone.stem.stem4.conv.weight": (20, 16, 1, 1)}
    with pytest.raises(CheckpointError, match="shapes of no published size: say which"):
        inferred_config(ORIGINAL, shapes, "my.pth")


def test_weights_of_something_else(opened):
    with pytest.raises(
        CheckpointError, match=r"no weights of D-FINE: no rule knows any of its tensors \(a, b, c, ...\)"
    ):
        opened({"a": (1,), "b": (1,), "c": (1,), "d": (1,)})
    with pytest.raises(CheckpointError, match="no weights of D-FINE"):
        opened({})


def test_without_pytorch_it_says_what_to_install(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"needs PyTorch: pip install 'dfine-jax\[torch\]'"):
        TorchFile(tmp_path / "model.pth", FileType.TORCH_ZIP, (ORIGINAL,))


@pytest.mark.parity
class TestFiles:
    """With PyTorch."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "dfine.pth"

    def made(self, torch, seed):
        made = MadeWeights(manifest("original", "n"), seed, 4.0)
        tensors = {name: torch.from_numpy(np.array(made.read(name))) for name in made.shapes}
        return made, {name: x.long() if name.endswith("num_batches_tracked") else x for name, x in tensors.items()}

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
    def test_plain(self, torch, path, zipped):
        made, weights = self.made(torch, 1)
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=zipped)
        arrays = dict(open_model(path).arrays())
        kernel = made.read("decoder.enc_score_head.weight").T
        np.testing.assert_array_equal(arrays["decoder.encoder_score.kernel"], kernel)

    def test_the_moving_average_is_preferred(self, torch, path):
        average, weights = self.made(torch, 1)
        _, other = self.made(torch, 2)
        torch.save({"model": other, "ema": {"module": weights, "updates": 3}, "last_epoch": 7}, path)
        bias = dict(open_model(path).arrays())["decoder.encoder_score.bias"]
        np.testing.assert_array_equal(bias, average.read("decoder.enc_score_head.bias"))

    def test_half_precision(self, torch, path):
        torch.save({"model": {"a": torch.full((2,), 0.1, dtype=torch.bfloat16)}}, path)
        array = torch_file(path).read("a")
        assert array.dtype == np.float32
        assert array.tolist() == [0.10009765625, 0.10009765625]

    def test_integers_are_refused(self, torch, path):
        torch.save({"model": {"a": torch.ones(2, dtype=torch.int8)}}, path)
        assert torch_file(path).types == {"a": "int8"}

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ([1, 2], "holds no tensors by name: a list; expected a model's state_dict"),
            ({"state_dict": {}, "epoch": 3}, "holds no tensors by name: state_dict, epoch; expected"),
            ({"model": {"a": "b"}}, "holds no tensors by name: model; expected"),
            ({"model": {}}, "holds no tensors by name: model; expected"),
        ],
    )
    def test_other_contents(self, torch, path, content, words):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=words):
            torch_file(path)

    def test_python_objects_are_not_loaded(self, torch, path):
        torch.save({"model": {"a": DFineConfig.nano()}}, path)
        with pytest.raises(
            CheckpointError, match=r"holds Python objects beside tensors \(dfine_jax.config.BackboneConfig, "
        ):
            torch_file(path)

    @pytest.mark.parametrize("cut", [0, 3, -150])
    def test_cut_short(self, torch, path, cut):
        torch.save({"model": {"a": torch.ones(300)}}, path)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(CheckpointError) as caught:
            torch_file(path)
        assert str(caught.value).startswith(f"{path} is empty" if cut == 0 else f"{path} is cut short, damaged")
        assert "\n" not in str(caught.value)
