"""Every size against transformers, side by side: square and not, one picture and three, stage by stage and whole."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import SIZES, query_errors, reference_model

from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import arrays_of, load_pretrained
from dfine_jax.weights.hub_layout import save_hub_folder
from dfine_jax.weights.rules import HUB

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("optimised")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def both(size, folder):
    """The same random weights in transformers' model and, by what transformers itself saved, in ours."""
    model = reference_model(size, HUB, seed=1)
    save_hub_folder(folder / "written", model.config, Preprocessing(), arrays_of(model))
    theirs, report = transformers.DFineForObjectDetection.from_pretrained(folder / "written", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs.save_pretrained(folder / "saved")
    return theirs.eval(), load_pretrained(folder / "saved").model


@nnx.jit
def stages(model, images):
    backbone = model.backbone(images)
    encoder = model.encoder(backbone)
    return backbone, encoder, model.decoder(encoder)


def run_theirs(model, images):
    """Backbone maps, encoder maps, chosen tokens by score, logits and boxes, as NumPy arrays."""
    kept = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: kept.update({name: output}))
        for name, module in {
            "backbone": model.model.backbone,
            "encoder": model.model.encoder,
            "model": model.model,
        }.items()
    ]
    with torch.no_grad():
        output = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()
    scores = kept["model"].enc_outputs_class.max(-1).values.numpy()
    selected = np.argsort(-scores, axis=1, kind="stable")[:, : model.config.num_queries]
    maps = [[x for x, _ in kept["backbone"]], kept["encoder"].last_hidden_state]
    backbone, encoder = ([x.numpy().transpose(0, 2, 3, 1) for x in features] for features in maps)
    return backbone, encoder, selected, output.logits.numpy(), output.pred_boxes.numpy()


@pytest.mark.parametrize("size", SIZES)
def test_both_compute_the_same(size, tmp_path):
    theirs, ours = both(size, tmp_path)
    rng = np.random.default_rng(3)
    for shape in ((1, 288, 288, 3), (3, 224, 352, 3)):
        images = rng.random(shape, np.float32)
        *expected, selected, logits, boxes = run_theirs(theirs, images)
        *maps, output = stages(ours, jnp.asarray(images))
        for features, reference in zip(maps, expected, strict=True):
            for x, y in zip(features, reference, strict=True):
                np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max(), rtol=0)
        for i in range(len(images)):
            reference = {"selected": selected[i], "logits": logits[i], "boxes": boxes[i]}
            errors = query_errors(output.logits[i], output.boxes[i], output.selected[i], reference)
            assert errors.logits <= 2e-5
            assert errors.boxes <= 2e-6
