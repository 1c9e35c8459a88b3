import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.model.outputs import LayerPrediction, PlainPrediction, QueryPredictions, TrainingOutput
from dfine_jax.training.criterion import LossWeights, criterion
from dfine_jax.training.denoising import make_denoising
from dfine_jax.training.losses import distillation_loss, matchability_loss, varifocal_loss
from dfine_jax.training.targets import PairedTargets, Targets

CLASSES, QUERIES, LAYERS, PLACES = 3, 6, 2, 4


def loss_and_gradient(output, targets, denoising):
    def total(output):
        result = criterion(output, targets, denoising)
        return result.total, result

    (_, result), gradient = jax.value_and_grad(total, has_aux=True)(output)
    return result, gradient


@pytest.fixture(scope="module")
def answer(reference):
    denoising = reference.denoising(jax.random.key(0))
    return jax.jit(loss_and_gradient)(reference.output, reference.targets, denoising)


def test_terms_of_the_original(reference, answer):
    losses, _ = answer
    expected = {name[5:]: n for name, n in reference.numbers.items() if name.startswith("loss.loss_")}
    # The original also has the last denoising layer learn from itself, which is always 0.
    assert expected.pop("loss_ddf_dn_2") == 0
    assert losses.terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses.terms[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(losses.total, reference.numbers["loss.total"], rtol=1e-5)


def test_gradients_of_the_original(reference, answer):
    _, gradient = answer
    places = {"enc": gradient.encoder, "pre": gradient.queries.pre, "dn_pre": gradient.denoising.pre}
    places |= {f"layer_{i}": layer for i, layer in enumerate(gradient.queries.layers)}
    places |= {f"dn_layer_{i}": layer for i, layer in enumerate(gradient.denoising.layers)}
    for place, tensors in places.items():
        for name, found in tensors._asdict().items():
            expected = reference.numbers[f"grad.{place}.pred_{name}"]
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=place + name)
            np.testing.assert_array_equal(np.asarray(found)[expected == 0], 0, err_msg=place + name)
    for stopped in (gradient.queries.initial_boxes, gradient.denoising.initial_boxes, gradient.up):
        assert not stopped.any()


def test_order_of_pictures_padding_and_unused_slots_change_nothing(reference, answer):
    """All three at once: pictures mixed, more places for boxes, and rubbish in slots that are not used."""
    losses, _ = answer
    denoising = reference.denoising(jax.random.key(0))
    order, unused = jnp.array([2, 0, 1]), 5

    def mixed(tree):
        return jax.tree.map(lambda x: x[order], tree)

    def with_unused_slots(x, rubbish):
        return jnp.pad(x, [(0, unused) if axis == 1 else (0, 0) for axis in range(x.ndim)], constant_values=rubbish)

    denoising = denoising._replace(
        box=with_unused_slots(mixed(denoising.box), 0),
        positive=with_unused_slots(mixed(denoising.positive), False),
        used=jnp.pad(denoising.used, (0, unused)),
    )
    output = reference.output._replace(
        queries=mixed(reference.output.queries),
        encoder=mixed(reference.output.encoder),
        denoising=jax.tree.map(lambda x: with_unused_slots(x, 0.7), mixed(reference.output.denoising)),
    )
    again = jax.jit(criterion)(output, mixed(reference.widely_padded_targets), denoising)
    for name, value in losses.terms.items():
        np.testing.assert_allclose(again.terms[name], value, rtol=1e-5, err_msg=name)


def test_runs_on_the_device_alone(reference):
    denoising = reference.denoising(jax.random.key(0))
    program = str(jax.make_jaxpr(loss_and_gradient)(reference.output, reference.targets, denoising))
    assert "while" in program  # the matching is in it
    assert "callback" not in program


def test_denoising_and_its_output_come_together(reference):
    with pytest.raises(ValueError, match=r"denoising is missing, output\.denoising is given"):
        criterion(reference.output, reference.targets, None)


def test_varifocal_loss_worked_out_by_hand():
    """Query 0 has class 1 with a box that half covers its own; query 1 has none."""
    logits = np.array([[0.3, -1.2], [2.0, -0.4]])
    boxes = jnp.array([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 1, 1]]])
    paired = PairedTargets(boxes.at[0, 0, 2].set(0.4), jnp.array([[1, 0]]), jnp.array([[True, False]]))
    probability = 1 / (1 + np.exp(-logits))
    negatives = -0.75 * probability**2 * np.log(1 - probability)
    wanted = -0.5 * (0.5 * np.log(probability[0, 1]) + 0.5 * np.log(1 - probability[0, 1]))
    found = jax.jit(varifocal_loss)(jnp.asarray(logits, jnp.float32)[None], boxes, paired)
    np.testing.assert_allclose(found, [[negatives[0, 0] + wanted, negatives[1].sum()]], rtol=1e-5)


def test_matchability_loss_and_its_gradient_worked_out_apart():
    """Value and gradient by NumPy from the paper's formula; no gradient flows through IoU or weight."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3, 2, 4, 5))
    matched = np.array([[True, False, True, False], [False, True, True, True]])
    labels, share = rng.integers(0, 5, matched.shape), rng.uniform(0.05, 1, matched.shape)
    boxes = np.broadcast_to([0.5, 0.5, 0.4, 0.4], (*matched.shape, 4)).copy()
    true = boxes.copy()
    boxes[..., 2] *= share  # inside of the true box, so that the IoU is the share

    y = np.eye(5)[labels] * matched[..., None]
    target = (y * share[..., None]) ** 1.5
    p = 1 / (1 + np.exp(-logits))
    weight = p**1.5 * (1 - y) + y
    value = (weight * -(target * np.log(p) + (1 - target) * np.log(1 - p))).sum(-1)
    gradient = weight * (p - target)

    def total(logits, boxes):
        paired = PairedTargets(jnp.asarray(true, jnp.float32), jnp.asarray(labels), jnp.asarray(matched))
        losses = matchability_loss(logits, boxes, paired)
        return losses.sum(), losses

    given = jnp.asarray(logits, jnp.float32), jnp.broadcast_to(jnp.asarray(boxes, jnp.float32), (3, *boxes.shape))
    (_, losses), (by_logits, by_boxes) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(*given)
    np.testing.assert_allclose(losses, value, rtol=1e-5)
    np.testing.assert_allclose(by_logits, gradient, rtol=1e-5, atol=1e-7)
    assert not by_boxes.any()


def test_a_layer_that_equals_its_teacher_has_nothing_to_learn():
    corners = jax.random.normal(jax.random.key(0), (1, 2, 132)) * 3
    boxes = jnp.full((1, 2, 4), 0.5)
    paired = PairedTargets(boxes, jnp.zeros((1, 2), int), jnp.array([[True, False]]))

    @jax.jit
    @jax.value_and_grad
    def loss(student):
        return distillation_loss(student, boxes, corners, jnp.zeros((1, 2, 3)), paired).sum()

    value, gradient = loss(corners)
    assert value == 0
    assert not gradient.any()
    assert loss(corners.at[0, 1, 5].add(1.0))[0] > 0


# Pictures that are hard to bear: name -> (boxes of the first picture, of the second), each cx, cy, w, h.
PIXEL = 1 / 640
HARD = {
    "no boxes in one picture": ([[0.5, 0.5, 0.2, 0.2]], []),
    "no boxes at all": ([], []),
    "one pixel": ([[0.5, 0.5, PIXEL, PIXEL]], [[0.1, 0.2, PIXEL, 0.5], [0.1, 0.2, 0.5, PIXEL]]),
    "no size": ([[0.5, 0.5, 0.0, 0.0]], [[0.2, 0.2, 0.0, 0.5]]),
    "over the edge": ([[0.99, 0.5, 0.3, 0.2]], [[0.0, 0.0, 0.5, 0.5], [1.2, 1.2, 0.1, 0.1]]),
    "the same box four times": ([[0.5, 0.5, 0.2, 0.2]] * 4, [[0.3, 0.3, 0.1, 0.1]]),
}


def make_output(scale: float, queries: int, slots: int, spread: float = 1.0) -> TrainingOutput:
    """Random predictions, logits about `scale` large; `spread` 0 makes every box of no size at one point."""
    rng = np.random.default_rng(0)

    def logits(size: int, last: int):
        return jnp.asarray(rng.standard_normal((2, size, last)) * scale, jnp.float32)

    def boxes(size: int):
        sizes = np.array([1, 1, spread, spread])
        return jnp.asarray(rng.uniform(0, 1, (2, size, 4)) * sizes, jnp.float32)

    def predictions(size: int):
        layers = tuple(LayerPrediction(logits(size, CLASSES), boxes(size), logits(size, 4 * 33)) for _ in range(LAYERS))
        return QueryPredictions(layers, PlainPrediction(logits(size, CLASSES), boxes(size)), boxes(size))

    encoder = PlainPrediction(logits(queries, CLASSES), boxes(queries))
    return TrainingOutput(predictions(queries), encoder, predictions(slots), jnp.float32(0.5), jnp.float32(4))


@pytest.fixture(scope="module")
def make_step():
    """One compiled function for all hard pictures: their denoising queries, loss and gradient."""

    @jax.jit
    def step(output, targets):
        denoising = make_denoising(jax.random.key(0), targets, CLASSES, QUERIES, copies=4)
        return loss_and_gradient(output, targets, denoising)

    return step


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(("scale", "spread"), [(1.0, 1.0), (0.0, 0.0), (1e4, 1.0), (1e30, 1.0)])
def test_hard_pictures_never_give_a_nan(pad_targets, make_step, name, scale, spread):
    pictures = HARD[name]
    counts = [len(boxes) for boxes in pictures]
    boxes = np.array([box for boxes in pictures for box in boxes], np.float32).reshape(-1, 4)
    targets = pad_targets(counts, boxes, np.arange(len(boxes)) % CLASSES, PLACES)
    losses, gradient = make_step(make_output(scale, QUERIES, 8, spread), targets)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(losses)), losses.terms
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if not any(counts):
        for term, value in losses.terms.items():
            if "_dn_" in term:
                assert value == 0, term
            elif "ddf" not in term and scale < 2:
                assert (value > 0) == ("vfl" in term), term


def test_more_boxes_than_queries(pad_targets):
    """Every query has a box, and the queries of the other picture have none."""
    boxes = np.random.default_rng(1).uniform(0.2, 0.5, (PLACES, 4)).astype(np.float32)
    targets = pad_targets([PLACES, 0], boxes, np.zeros(PLACES), PLACES)
    losses, gradient = jax.jit(loss_and_gradient)(one_layer(2), targets, None)
    assert np.isfinite(losses.total)
    (layer,) = gradient.queries.layers
    assert (jnp.abs(layer.boxes[0]).sum(-1) > 0).all()
    assert not layer.boxes[1].any()


def one_layer(queries: int = QUERIES) -> TrainingOutput:
    output = make_output(1.0, queries, 8)
    return output._replace(queries=output.queries._replace(layers=output.queries.layers[:1]), denoising=None)


@pytest.fixture(scope="module")
def few_targets(pad_targets) -> Targets:
    return pad_targets([1, 0], np.full((1, 4), 0.4, np.float32), np.array([2]), 2)


@pytest.fixture(scope="module")
def one_layer_losses(few_targets):
    return jax.jit(criterion)(one_layer(), few_targets)


def test_one_layer_has_no_one_to_teach(one_layer_losses):
    expected = {f"loss_{kind}{place}" for kind in ("vfl", "bbox", "giou") for place in ("", "_pre", "_enc_0")}
    assert one_layer_losses.terms.keys() == expected | {"loss_fgl"}
    assert np.isfinite(one_layer_losses.total)


def test_weights_multiply_terms(few_targets, one_layer_losses):
    weights = LossWeights(vfl=2.0, bbox=0.0, giou=1.0, fgl=0.3)
    changed = jax.jit(lambda *inputs: criterion(*inputs, weights=weights))(one_layer(), few_targets)
    ratio = {"vfl": 2, "bbox": 0, "giou": 0.5, "fgl": 2}
    for name, value in one_layer_losses.terms.items():
        np.testing.assert_allclose(changed.terms[name], ratio[name.split("_")[1]] * value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(changed.total, sum(changed.terms.values()), rtol=1e-6)


def test_the_kind_of_loss_changes_the_terms_of_classes_alone(few_targets, one_layer_losses):
    weights = LossWeights(kind="mal", vfl=2.0)
    changed = jax.jit(lambda *inputs: criterion(*inputs, weights=weights))(one_layer(), few_targets)
    names = {name: name.replace("vfl", "mal") for name in one_layer_losses.terms}
    assert changed.terms.keys() == set(names.values())
    for name, value in one_layer_losses.terms.items():
        assert bool(np.isclose(changed.terms[names[name]], value, rtol=1e-6)) == ("vfl" not in name), name


def test_low_precision_outputs_are_summed_in_float32(few_targets):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), one_layer())
    losses, gradient = jax.jit(loss_and_gradient)(low, few_targets, None)
    again = jax.jit(criterion)(jax.tree.map(lambda x: x.astype(jnp.float32), low), few_targets)
    assert losses.total.dtype == jnp.float32
    np.testing.assert_allclose(losses.total, again.total, rtol=1e-6)
    assert gradient.queries.layers[0].corners.dtype == jnp.bfloat16
