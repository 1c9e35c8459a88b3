"""Whose network a checkpoint is of: D-FINE's, DEIM's or RT-DETRv4's, which share names and shapes of their tensors."""

from pathlib import Path

import pytest
from reference import MadeWeights, manifest

from dfine_jax.config import DECODER_ACTIVATIONS
from dfine_jax.weights import sources
from dfine_jax.weights.families import FAMILIES, Signs, told_family
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.sources import open_model
from dfine_jax.weights.weight_files import Opened

PROJECTOR = {"encoder.feature_projector.0.weight": (768, 256), "encoder.feature_projector.0.bias": (768,)}
MASKS = {"decoder.mask_head.layers.0.weight": (256, 256), "decoder.mask_decoder.fusion_norm.bias": (256,)}


def names(size, *, trained_norms=None):
    """Of the tensors in a checkpoint; D-FINE's own L and X have frozen norms in the backbone."""
    published = manifest("original", size)
    if not trained_norms:
        return published
    norms = [name for name in published if name.startswith("backbone.") and name.endswith(".running_mean")]
    return {**published, **{name.replace("running_mean", "num_batches_tracked"): () for name in norms}}


def told(size, path, given=None, more=(), trained_norms=False, **about):
    signs = Signs({**names(size, trained_norms=trained_norms), **dict(more)}, Path(path), size, about)
    return told_family(signs, given, "it")


def family_of(*arguments, **options):
    """Family, activation, and whether there is a remark."""
    found = told(*arguments, **options)
    return found.family.name, found.activation, found.remark is not None


@pytest.mark.parametrize("size", "smlx")
def test_rtdetrv4_is_told_from_what_it_compares_with_its_teacher(size):
    trained = size in "lx"
    assert family_of(size, "dfine.pth", more=PROJECTOR, trained_norms=trained) == ("rtdetrv4", "silu", False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", "nlx")
def test_what_lies_beside_the_weights_is_a_proof(size, family):
    activation = FAMILIES[family].activation
    assert family_of(size, "deim_x.pt", model_family=family) == (family, activation, False)


def test_dfine_seg_is_dfine():
    assert family_of("s", "best.pt", more=MASKS) == ("dfine", "relu", False)


@pytest.mark.parametrize("size", "lx")
def test_frozen_norms_of_the_large_sizes_are_dfines(size):
    assert family_of(size, "best.pth") == ("dfine", "relu", False)
    assert family_of(size, "dfine_x_coco.pth") == ("dfine", "relu", False)


@pytest.mark.parametrize("size", "lx")
def test_trained_norms_of_the_large_sizes_are_deims(size):
    assert family_of(size, "best.pth", trained_norms=True) == ("deim", "silu", True)
    assert family_of(size, "deim_dfine_hgnetv2_l_coco_50e.pth", trained_norms=True) == ("deim", "silu", False)
    assert family_of(size, "RTv4-L-hgnet.pth", trained_norms=True) == ("rtdetrv4", "silu", False)


def test_trained_norms_in_a_file_called_dfine_are_remarked_on():
    found = told("l", "dfine_l_cells.pth", trained_norms=True)
    assert (found.family.name, found.activation) == ("dfine", "relu")
    assert found.remark == (
        "taken for D-FINE's by its name, although the backbone's norms were trained; "
        "if it is another's, convert it with --family (deim, rtdetrv4)"
    )


@pytest.mark.parametrize("given", [None, "deim"])
def test_deims_x_from_objects365_keeps_relu(given):
    found = told("x", "deim_dfine_hgnetv2_x_obj365_coco_24e.pth", given)
    assert (found.family.name, found.activation) == ("deim", "relu")
    assert "as in DEIM's X from Objects365 alone: its decoder has ReLU" in found.remark


def test_deims_l_with_frozen_norms_is_asked_for():
    with pytest.raises(CheckpointError, match="its name says one thing and its backbone's frozen norms another"):
        told("l", "deim_l.pth")
    assert family_of("l", "deim_l.pth", "deim") == ("deim", "silu", False)


@pytest.mark.parametrize("size", "nsm")
@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("dfine_n_coco.pth", "dfine"),
        ("D-FINE-S.pt", "dfine"),
        ("dfine_m_obj2coco.pt", "dfine"),
        ("deim_dfine_hgnetv2_n_coco_160e.pth", "deim"),
        ("LibreDEIMs.pt", "deim"),
        ("RTv4-S-hgnet.pth", "rtdetrv4"),
        ("rtdetrv4_m.pth", "rtdetrv4"),
        ("RT-DETRv4-S.ckpt", "rtdetrv4"),
        ("deim_hgnetv2_n_coco/best_stg2.pth", "deim"),
        ("dfine_hgnetv2_s_custom/last.pth", "dfine"),
        ("rtv4_hgnetv2_s_coco/best_stg1.pth", "rtdetrv4"),
    ],
)
def test_the_others_are_told_by_their_names_with_a_remark(size, path, family):
    found = told(size, path)
    assert (found.family.name, found.activation) == (family, FAMILIES[family].activation)
    assert found.remark.startswith(f"taken for {FAMILIES[family].title}'s by its name; if it is another's, ")


@pytest.mark.parametrize("path", ["best_stg2.pth", "model.pt", "dfine/best.pth", "deim/runs/model.pth", "deimv2_s.pth"])
def test_where_nothing_tells_it_is_asked_for_in_one_line(path):
    with pytest.raises(CheckpointError) as caught:
        told("n", path)
    assert str(caught.value) == (
        "it may be of D-FINE, DEIM or RT-DETRv4, whose tensors have the same names and shapes: say which with "
        "--family dfine|deim|rtdetrv4 of dfine convert, or family='dfine' and so on in Python"
    )


@pytest.mark.parametrize("size", "nsm")
def test_the_others_without_counts_of_batches_are_dfines_with_a_remark(size):
    shapes = {name: shape for name, shape in names(size).items() if not name.endswith("num_batches_tracked")}
    found = told_family(Signs(shapes, Path("best.pth"), size, {}), None, "it")
    assert (found.family.name, found.activation) == ("dfine", "relu")
    assert found.remark.startswith("taken for D-FINE's, since its backbone's norms count no batches, as those of DEIM")
    named = told_family(Signs(shapes, Path("deim.pth"), size, {}), None, "it")
    assert (named.family.name, named.activation) == ("deim", "silu")


@pytest.mark.parametrize("given", FAMILIES)
@pytest.mark.parametrize("path", ["dfine_n.pth", "deim_n.pth", "best.pth"])
def test_what_is_given_counts_before_the_name(given, path):
    assert family_of("n", path, given) == (given, FAMILIES[given].activation, False)


@pytest.mark.parametrize(("more", "about"), [(PROJECTOR, {}), ({}, {"model_family": "deim"})])
def test_what_is_given_does_not_count_before_a_proof(more, about):
    with pytest.raises(CheckpointError, match="not D-FINE's: leave --family out"):
        told("s", "a.pth", "dfine", more=more, **about)
    assert family_of("s", "a.pth", "rtdetrv4", more=more, **about)[1] == "silu"


def test_other_families_beside_the_weights_are_not_read():
    with pytest.raises(
        CheckpointError, match=r"of the family 'yolox', which is not read \(dfine, deim, rtdetrv4 are\)"
    ):
        told("n", "dfine.pt", model_family="yolox")
    assert family_of("n", "dfine.pt", model_family=["deim"]) == ("dfine", "relu", True)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens shapes as if they were in a file of some name; values are made up as they are read."""

    def open_shapes(shapes, name="model.pth", about=None, **options):
        made = MadeWeights(shapes, seed=0, reg_scale=4.0)
        monkeypatch.setattr(sources, "open_weights", lambda files, dialects: Opened(made, about=about or {}))
        (tmp_path / name).touch()
        return open_model(tmp_path / name, **options)

    return open_shapes


def activations(model):
    return {getattr(model.config.decoder, place) for place in DECODER_ACTIVATIONS}


def test_the_configuration_says_what_was_told(opened):
    shapes = names("n")
    assert activations(opened(shapes, "dfine.pth")) == {"relu"}
    deim = opened(shapes, "deim.pth")
    assert activations(deim) == {"silu"}
    assert deim.remarks[0].startswith("taken for DEIM's by its name")
    assert activations(opened(shapes, family="rtdetrv4")) == {"silu"}
    assert opened(shapes, family="rtdetrv4").remarks == ()
    assert activations(opened({**shapes, **PROJECTOR})) == {"silu"}
    assert activations(opened(manifest("huggingface", "n"), family=None)) == {"relu"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "ema.module."])
def test_behind_a_prefix(opened, prefix):
    shapes = {prefix + name: shape for name, shape in {**names("n"), **PROJECTOR}.items()}
    assert activations(opened(shapes)) == {"silu"}


def test_masks_are_left_out_and_said(opened):
    model = opened({**names("n"), **MASKS}, "dfine_seg_n_coco.pt")
    assert activations(model) == {"relu"}
    assert model.remarks == ("left out: the 2 tensors of D-FINE-seg's masks; boxes are found without them",)


def test_names_of_classes_and_size_of_pictures_beside_the_weights(opened):
    shapes = {
        name: shape for name, shape in names("n").items() if name not in ("decoder.anchors", "decoder.valid_mask")
    }
    about = {"model_family": "deim", "names": {i: f"thing {i}" for i in range(80)}, "imgsz": 320}
    model = opened(shapes, about=about)
    assert model.config.class_names[79] == "thing 79"
    assert (model.preprocessing.height, model.preprocessing.width) == (320, 320)
    assert model.remarks == ()
    strange = {"model_family": "deim", "names": {0: 1, "a": "b"}, "imgsz": True}
    assert opened(shapes, about=strange).config.class_names[0] == "person"


def test_what_does_not_fit_is_said_before_the_family_is_asked_for(opened):
    shapes = names("n")
    del shapes["decoder.up"]
    with pytest.raises(CheckpointError, match=r"missing: decoder\.up"):
        opened(shapes)


def test_a_backbone_alone_is_no_detector(opened):
    shapes = {
        name.removeprefix("backbone."): shape for name, shape in names("n").items() if name.startswith("backbone")
    }
    with pytest.raises(CheckpointError, match="holds HGNetV2 alone, no detector: start a training from it"):
        opened(shapes)
