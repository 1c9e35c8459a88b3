"""What ``dfine convert --explain`` prints of each tensor, and models that the Hub's layout can't hold."""

import numpy as np
import pytest
from reference import MadeWeights, manifest
from safetensors.numpy import load_file, save_file
from tiny import tiny_config, tiny_model

from dfine_jax.cli.main import main
from dfine_jax.config import DECODER_ACTIVATIONS
from dfine_jax.errors import InputError
from dfine_jax.hub_config import FIXED_ACTIVATIONS, to_hub
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import load_pretrained, save_pretrained
from dfine_jax.weights import sources
from dfine_jax.weights.sources import open_model
from dfine_jax.weights.weight_files import Opened

SILU = dict.fromkeys(DECODER_ACTIVATIONS, "silu")


def explained(monkeypatch, tmp_path, shapes):
    made = MadeWeights(shapes, seed=0, reg_scale=4.0)
    monkeypatch.setattr(sources, "open_weights", lambda files, dialects: Opened(made))
    (tmp_path / "dfine.pth").touch()
    entries = open_model(tmp_path / "dfine.pth").explain()
    assert [entry.name for entry in entries] == sorted(shapes)
    return {entry.name: str(entry) for entry in entries}


def test_every_tensor_is_told_of(monkeypatch, tmp_path):
    shapes = {**manifest("original", "n"), "encoder.feature_projector.0.bias": (768,)}
    lines = explained(monkeypatch, tmp_path, shapes)
    assert lines["decoder.dec_bbox_head.1.layers.0.weight"] == (
        "decoder.dec_bbox_head.1.layers.0.weight [128, 128] -> decoder.box_heads.1.layers.0.kernel [128, 128]: "
        "rule decoder.dec_bbox_head.#.layers.#.weight -> decoder.box_heads.#.layers.#.kernel, (out, in) to (in, out)"
    )
    attention = "decoder.layers.0.self_attention"
    assert lines["decoder.decoder.layers.0.self_attn.in_proj_bias"] == (
        f"decoder.decoder.layers.0.self_attn.in_proj_bias [384] -> {attention}.query.bias [128], {attention}.key.bias "
        f"[128], {attention}.value.bias [128]: rule decoder.decoder.layers.#.self_attn.in_proj_bias -> "
        "decoder.layers.#.self_attention.query.bias in 3 equal parts, as it is"
    )
    assert "OIHW to HWIO" in lines["backbone.stem.stem1.conv.weight"]
    for name, why in {
        "decoder.anchors": "computed for the picture at hand",
        "decoder.decoder.up": "the same parameters under a second name",
        "encoder.feature_projector.0.bias": "what RT-DETRv4 compares with its teacher, in training alone",
        "backbone.stem.stem1.bn.num_batches_tracked": "counts batches, which norms never look at",
    }.items():
        assert lines[name] == f"{name} {list(shapes[name])} -> nothing: {why}"


def test_what_was_taken_off_and_left_out(monkeypatch, tmp_path):
    one = manifest("original", "n")
    shapes = {**{f"ema._orig_mod.{n}": s for n, s in one.items()}, **{f"net.{n}": s for n, s in one.items()}}
    lines = explained(monkeypatch, tmp_path, {**shapes, "ema.n_averaged": (), "criterion.weight": (3,)})
    assert lines["ema._orig_mod.decoder.up"].endswith("; _orig_mod. (torch.compile), ema. taken off")
    assert lines["net.decoder.up"].endswith("-> nothing: of another copy of the model")
    assert lines["ema.n_averaged"].endswith("-> nothing: a number that an average counts with")
    assert lines["criterion.weight"].endswith("-> nothing: no rule knows it")


def convert(capsys, *arguments):
    code = main(["convert", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_on_the_command_line(hub, tmp_path, capsys):
    code, out, _ = convert(capsys, hub.path, tmp_path / "out", "--explain")
    assert code == 0
    stored = load_file(hub.path / "model.safetensors")
    assert all(any(line.startswith(f"{name} [") for line in out.splitlines()) for name in stored)
    assert "model.decoder.up [1] -> decoder.up [1]: rule model.decoder.up -> decoder.up, as it is" in out
    code, out, err = convert(capsys, tmp_path / "out", tmp_path / "again", "--explain")
    assert (code, out) == (2, "")
    assert "--explain is for PyTorch's weights" in err
    assert not (tmp_path / "again").exists()


def test_names_that_look_like_markup_are_printed_as_they_are(hub, tmp_path, capsys):
    weights = load_file(hub.path / "model.safetensors")
    save_file(
        {**{f"net.{n}": v for n, v in weights.items()}, "[bold]x[/y]\n": np.ones(1, np.float32)},
        hub.path / "model.safetensors",
    )
    code, out, _ = convert(capsys, hub.path, tmp_path / "out", "--explain")
    assert code == 0
    assert "[bold]x[/y]\\n [1] -> nothing: no rule knows it" in out


@pytest.fixture(scope="module")
def silu_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("silu") / "deim"
    save_pretrained(path, tiny_model(tiny_config(**SILU)), Preprocessing(64, 96))
    return path


def test_a_folder_keeps_the_activations(silu_folder):
    decoder = load_pretrained(silu_folder).config.decoder
    assert {getattr(decoder, place) for place in DECODER_ACTIVATIONS} == {"silu"}


def test_an_unknown_activation_in_a_folder_is_named(silu_folder, tmp_path):
    (tmp_path / "m").mkdir()
    text = (silu_folder / "config.json").read_text("utf-8")
    (tmp_path / "m" / "config.json").write_text(
        text.replace('"box_activation": "silu"', '"box_activation": "mish"'), "utf-8"
    )
    with pytest.raises(InputError, match=r"decoder\.box_activation = .mish., expected one of relu, silu"):
        open_model(tmp_path / "m")


@pytest.mark.parametrize("options", [["--to", "hub"], ["--verify"]])
def test_what_transformers_can_not_compute_is_refused(silu_folder, tmp_path, capsys, options):
    if "--verify" in options:
        pytest.importorskip("transformers")
    code, out, err = convert(capsys, silu_folder, tmp_path / "out", *options)
    assert (code, out) == (2, "")
    assert "transformers can't compute this model: its decoder has quality_activation = 'silu', " in err
    assert "where transformers' D-FINE always has 'relu'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", FIXED_ACTIVATIONS)
def test_each_place_that_transformers_has_fixed(place):
    with pytest.raises(InputError, match=f"its decoder has {place} = 'silu', where"):
        to_hub(tiny_config(**{place: "silu"}))


def test_the_activation_that_transformers_lets_choose():
    assert to_hub(tiny_config(activation="silu"))["decoder_activation_function"] == "silu"


def test_a_family_is_for_checkpoints(silu_folder, tmp_path, capsys):
    code, _, err = convert(capsys, silu_folder, tmp_path / "out", "--family", "deim")
    assert code == 2
    assert "a family can be given for a .pth only; config.json says it here" in err
    assert "a family can be given" in err
