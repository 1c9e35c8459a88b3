"""The model as a pure function: values under jit, grad and vmap, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY, tiny_config, tiny_model, tiny_pictures

from dfine_jax.model.dfine import DFine, Functional, functional, load, variables
from dfine_jax.model.outputs import TrainingOutput


def test_shapes_and_types(detected):
    assert detected.logits.shape == (3, TINY.decoder.queries, TINY.num_classes)
    assert detected.boxes.shape == (3, TINY.decoder.queries, 4)
    assert {x.dtype for x in detected} == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert float(jnp.abs(detected.logits[0] - detected.logits[1]).max()) > 0.1  # pictures make a difference


@pytest.mark.slow
def test_jit_equals_eager():
    """Of a model of one level and one layer, as each operation is compiled by itself."""
    config = replace(
        TINY,
        backbone=replace(TINY.backbone, stages=TINY.backbone.stages[:2], out_stages=(2,)),
        encoder=replace(TINY.encoder, attention_levels=(0,)),
        decoder=replace(TINY.decoder, layers=1, points=(2,), queries=4),
    )
    model, x = tiny_model(config), tiny_pictures(1, 32, 32)
    eager = model(x)
    compiled = nnx.jit(lambda model, x: model(x))(model, x)
    np.testing.assert_array_equal(eager.selected, compiled.selected)
    np.testing.assert_allclose(eager.logits, compiled.logits, atol=1e-5)
    np.testing.assert_allclose(eager.boxes, compiled.boxes, atol=1e-6)


def test_a_batch_is_each_picture_by_itself(tiny, pictures, detected):
    forward = jax.jit(tiny.apply)
    for i in range(3):
        alone = forward(tiny.params, tiny.batch_stats, pictures[i : i + 1])
        np.testing.assert_array_equal(alone.selected[0], detected.selected[i])
        np.testing.assert_allclose(alone.logits[0], detected.logits[i], atol=1e-5)
        np.testing.assert_allclose(alone.boxes[0], detected.boxes[i], atol=1e-6)


@pytest.mark.slow
def test_vmap_over_parameters(tiny, forward, pictures, detected):
    second = functional(tiny_model(seed=1))
    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *pair) for pair in zip(tiny[1:], second[1:], strict=True)]
    many = jax.jit(jax.vmap(tiny.apply, in_axes=(0, 0, None)))(*stacked, pictures)
    other = forward(second.params, second.batch_stats, pictures)
    assert float(jnp.abs(other.logits - detected.logits).max()) > 0.1
    for i, alone in enumerate((detected, other)):
        np.testing.assert_array_equal(many.selected[i], alone.selected)
        np.testing.assert_allclose(many.logits[i], alone.logits, atol=2e-5)
        np.testing.assert_allclose(many.boxes[i], alone.boxes, atol=2e-6)


# Gradients


@pytest.fixture(scope="module")
def smooth() -> Functional:
    """A model whose true derivatives are those that autodiff gives.

    Queries are learned and every box is its anchor, so that no gradient is stopped on the way; what is left that
    stops one (the choice of queries) doesn't move in small steps.
    """
    model = tiny_model(tiny_config(layers=1, learned_queries=True))
    params, batch_stats = variables(model)
    still = ("decoder.encoder_box.layers.2.", "decoder.pre_box.layers.2.")
    params = {name: jnp.zeros_like(x) if name.startswith(still) else x for name, x in params.items()}
    load(model, {**params, **batch_stats})
    return functional(model)


@pytest.mark.slow
def test_gradients_are_slopes(smooth):
    """Over the parameters of each part and over the pixels, against central differences along random directions."""
    still = ("decoder.encoder_box", "decoder.pre_box")
    fixed = {name: x for name, x in smooth.params.items() if name.startswith(still)}
    point = {name: x for name, x in smooth.params.items() if name not in fixed}, tiny_pictures(1)
    weights = np.sin(np.arange(100)), 10 * np.cos(np.arange(80))  # of 20 queries' logits and boxes

    def score(params, x):
        output = smooth.apply({**params, **fixed}, smooth.batch_stats, x)
        return jnp.vdot(output.logits.ravel(), weights[0]) + jnp.vdot(output.boxes.ravel(), weights[1]), output

    slopes = jax.jit(jax.grad(score, argnums=(0, 1), has_aux=True))

    def exact_score(params, x):
        _, (logits, boxes, chosen) = slopes(params, x)
        np.testing.assert_array_equal(chosen, selected)
        return np.vdot(np.float64(logits), weights[0]) + np.vdot(np.float64(boxes), weights[1])

    gradients, (*_, selected) = slopes(*point)
    gradients = jax.tree.map(np.asarray, gradients)
    rng = np.random.default_rng(0)
    for part in ("backbone.stem", "backbone.stages", "encoder", "decoder", "pixels"):
        belongs = {name: name.startswith(part) for name in point[0]}, part == "pixels"
        parts = jax.tree.map(lambda gradient, here: gradient * here, gradients, belongs)
        size = norm(parts) / np.sqrt(sum(g.size for g in jax.tree.leaves(parts) if np.any(g)))
        # Along the slope rather than across it, or rounding errors would be all there is to see.
        direction = jax.tree.map(
            lambda g, here: (g * rng.uniform(0, 2, g.shape) + size * rng.standard_normal(g.shape)) * here,  # noqa: B023
            gradients,
            belongs,
        )
        step = jax.tree.map(lambda d: 3e-4 / norm(direction) * d, direction)  # noqa: B023
        there, back = (exact_score(*jax.tree.map(lambda x, d: jnp.float32(x + s * d), point, step)) for s in (1, -1))  # noqa: B023
        slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(step), strict=True))
        assert slope == pytest.approx((there - back) / 2, rel=0.02), part


def norm(tree) -> float:
    return float(np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree))))


# Training


@pytest.fixture(scope="module")
def trained(model, tiny, pictures) -> tuple[TrainingOutput, dict[str, jax.Array]]:
    return jax.jit(lambda p, s, x: tiny.apply(p, s, x, train=True))(tiny.params, tiny.batch_stats, pictures)


def test_training_gives_new_statistics_and_changes_nothing(model, tiny, trained, pictures):
    _, new = trained
    assert new.keys() == tiny.batch_stats.keys()
    moved = {name for name in new if not np.array_equal(new[name], tiny.batch_stats[name])}
    assert moved == new.keys() - {"decoder.up", "decoder.reg_scale"}
    for now, before in zip(variables(model), tiny[1:], strict=True):
        assert all(np.array_equal(now[name], before[name]) for name in before)


def test_statistics_are_those_of_the_batch(model, tiny, trained, pictures):
    """By hand for the first norm: a tenth of the way to the batch's mean and unbiased variance."""
    convolved = jax.lax.conv_general_dilated(
        pictures,
        tiny.params["backbone.stem.stem1.kernel"],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    cells = np.asarray(convolved, np.float64).reshape(-1, 8)
    for name, value in (("mean", cells.mean(0)), ("var", cells.var(0, ddof=1))):
        name = f"backbone.stem.stem1.norm.{name}"
        expected = 0.9 * np.asarray(tiny.batch_stats[name]) + 0.1 * value
        np.testing.assert_allclose(trained[1][name], expected, rtol=1e-4)


@pytest.mark.slow
def test_frozen_norms_keep_their_statistics_to_the_bit(pictures):
    config = replace(TINY, backbone=replace(TINY.backbone, frozen_norms=True))
    apply, params, batch_stats = functional(DFine(config, rng=np.random.default_rng(0)))
    stored = {name: value + 0.3 if name.startswith("backbone") else value for name, value in batch_stats.items()}
    _, new = jax.jit(lambda x: apply(params, stored, x, train=True))(pictures)
    changed = {name for name, value in stored.items() if not np.array_equal(new[name], value)}
    assert {name.split(".")[0] for name in changed} == {"encoder"}


def test_training_gives_every_layer(tiny, trained):
    output, _ = trained
    assert len(output.queries.layers) == TINY.decoder.layers
    assert output.denoising is None
    np.testing.assert_array_equal(output.up, tiny.batch_stats["decoder.up"])
    np.testing.assert_array_equal(output.reg_scale, tiny.batch_stats["decoder.reg_scale"])
    for layer in output.queries.layers:
        assert layer.corners.shape == (3, TINY.decoder.queries, 4 * (TINY.decoder.bins + 1))
        assert np.isfinite(layer.logits).all()


# What is inside


@pytest.mark.parametrize("train", [False, True])
def test_no_callback_and_no_shape_that_depends_on_data(tiny, pictures, train):
    lowered = jax.jit(lambda p, s, x: tiny.apply(p, s, x, train=train)).lower(tiny.params, tiny.batch_stats, pictures)
    text = lowered.as_text()
    assert "stablehlo.dot_general" in text  # it is the program
    assert "callback" not in text
    assert "tensor<?" not in text


def test_callbacks_would_be_found():
    def with_callback(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert "callback" in jax.jit(with_callback).lower(jnp.ones(3)).as_text()


# What is refused


def test_names_and_shapes_that_do_not_fit_are_all_named(tiny, pictures):
    name = "decoder.class_heads.0.kernel"
    renamed = {("x." + key if key == name else key): x for key, x in tiny.params.items()}
    stats = {**tiny.batch_stats, "decoder.up": jnp.ones(2)}
    with pytest.raises(ValueError, match="do not fit the model") as caught:
        tiny.apply(renamed, stats, pictures)
    message = str(caught.value)
    assert f"missing {name}" in message
    assert f"unexpected x.{name}" in message
    assert "decoder.up has shape (2,), the model's is (1,)" in message


def test_loading_is_all_or_nothing(tiny):
    model = DFine(TINY)
    values = {**tiny.params, **tiny.batch_stats}
    values.pop("decoder.reg_scale")
    with pytest.raises(ValueError, match=r"missing decoder\.reg_scale"):
        load(model, values)
    assert isinstance(variables(model)[0]["decoder.class_heads.0.kernel"], jax.ShapeDtypeStruct)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((64, 96, 3), r"\(64, 96, 3\).*\(B, H, W, 3\)"),
        ((1, 3, 64, 96), r"\(1, 3, 64, 96\)"),
        ((1, 64, 96, 1), r"\(1, 64, 96, 1\)"),
        ((1, 64, 80, 3), r"64x80 \(height x width\).*divisible by 32"),
        ((1, 48, 96, 3), "48x96"),
    ],
)
def test_pictures_of_other_shapes(tiny, shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(tiny.apply, tiny.params, tiny.batch_stats, jnp.zeros(shape))


def test_any_size_divisible_by_32(tiny):
    for height, width in ((32, 160), (128, 64)):
        output = jax.eval_shape(tiny.apply, tiny.params, tiny.batch_stats, jnp.zeros((1, height, width, 3)))
        assert output.boxes.shape == (1, TINY.decoder.queries, 4)
