"""Parameter groups, the optimizer against PyTorch's rules written out, and the moving average."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import DFine, variables
from dfine_jax.training.optimizer import (
    Ema,
    group_table,
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    update_ema,
)
from dfine_jax.training.packing import Packing
from dfine_jax.training.recipe import Averaging, Optimization, Recipe


def group_of(name: str, size: str):
    return next(g for g in parameter_groups([name], Recipe.for_size(size).optimization) if name in g.names)


@pytest.mark.parametrize(
    ("size", "name", "rate", "decay"),
    [
        ("n", "backbone.stages.0.blocks.0.layers.0.kernel", 4e-4, 1e-4),
        ("n", "backbone.stages.0.blocks.0.layers.0.norm.scale", 4e-4, 1e-4),
        ("n", "backbone.stem.stem1.affine.scale", 4e-4, 1e-4),
        ("n", "encoder.lateral.0.kernel", 8e-4, 1e-4),
        ("n", "encoder.lateral.0.norm.bias", 8e-4, 0.0),
        ("n", "decoder.class_heads.0.bias", 8e-4, 0.0),
        ("n", "decoder.layers.1.gateway.norm.scale", 8e-4, 0.0),
        ("n", "decoder.encoder_norm.scale", 8e-4, 0.0),
        ("n", "decoder.denoising_embed", 8e-4, 1e-4),
        ("m", "backbone.stem.stem1.kernel", 2e-5, 1e-4),
        ("l", "decoder.class_heads.0.bias", 2.5e-4, 1.25e-4),
        ("l", "decoder.layers.1.norm1.bias", 2.5e-4, 0.0),
        ("l", "backbone.stages.0.blocks.0.layers.0.kernel", 1.25e-5, 1.25e-4),
        ("x", "backbone.stages.0.blocks.0.layers.0.kernel", 2.5e-6, 1.25e-4),
    ],
)
def test_groups_are_the_recipes(size, name, rate, decay):
    group = group_of(name, size)
    assert (group.learning_rate, group.weight_decay, group.frozen) == (rate, decay, False)


@pytest.mark.parametrize(("size", "frozen"), [("n", False), ("s", False), ("m", False), ("l", True), ("x", True)])
def test_large_sizes_freeze_stem_and_backbone_norms(size, frozen):
    for name in ("backbone.stem.stem1.kernel", "backbone.stages.1.blocks.0.squeeze.norm.scale"):
        assert group_of(name, size).frozen is frozen
    assert not group_of("backbone.stages.1.blocks.0.squeeze.kernel", size).frozen
    assert not group_of("encoder.lateral.0.norm.scale", size).frozen


@pytest.mark.parametrize("size", "nl")
def test_every_parameter_is_in_one_group(size):
    params, _ = variables(DFine(DFineConfig.from_size(size)))
    groups = parameter_groups(params, Recipe.for_size(size).optimization)
    names = [name for group in groups for name in group.names]
    assert len({group.title for group in groups}) == len(groups)
    assert sorted(names) == sorted(params)


def test_the_table_counts_everything():
    params, _ = variables(DFine(TINY))
    groups = parameter_groups(params, Recipe.for_size("l").optimization)
    header, *lines = group_table(groups, params).splitlines()
    assert header.split() == ["group", "learning", "rate", "weight", "decay", "tensors", "parameters"]
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines) == sum(x.size for x in params.values())
    assert any("backbone, frozen" in line and line.split()[-4] == "frozen" for line in lines)


def test_updates_are_those_of_adamw_by_hand():
    recipe = Optimization(0.1, 0.01, weight_decay=0.5, warmup_steps=0, clip_norm=1.0)
    names = ("backbone.a.kernel", "decoder.a.kernel", "decoder.a.bias")
    values = dict(zip(names, (np.array([1.0, -2.0]), np.array([[3.0]]), np.array([4.0])), strict=True))
    groups = parameter_groups(names, recipe)
    packing = Packing.of({group.title: group.names for group in groups}, values)
    optimizer = make_optimizer(groups, recipe, total_steps=10)
    params = packing.pack({name: jnp.asarray(value, jnp.float32) for name, value in values.items()})
    state = optimizer.init(params)
    rate = {names[0]: 0.01, names[1]: 0.1, names[2]: 0.1}
    decay = {names[0]: 0.5, names[1]: 0.5, names[2]: 0.0}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    for step, size in enumerate((3.0, 0.1), start=1):  # the first is clipped, the second is not
        gradient = {name: np.full_like(value, size) for name, value in values.items()}
        updates, state = optimizer.update(
            packing.pack({name: jnp.asarray(value, jnp.float32) for name, value in gradient.items()}), state, params
        )
        params = jax.tree.map(jnp.add, params, updates)
        scale = min(1.0, 1.0 / np.sqrt(4 * size**2))
        for name, value in values.items():
            clipped = gradient[name] * scale
            first[name] = 0.9 * first[name] + 0.1 * clipped
            second[name] = 0.999 * second[name] + 0.001 * clipped**2
            direction = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            values[name] = value * (1 - rate[name] * decay[name]) - rate[name] * direction
    for name, value in packing.unpack(params).items():
        np.testing.assert_allclose(value, values[name], rtol=1e-5)


def test_the_learning_rate_rises_stays_and_falls():
    plain = learning_rate_factor(Optimization(warmup_steps=4), 100)
    assert [float(plain(jnp.asarray(step))) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    falling = learning_rate_factor(Optimization(warmup_steps=4, cooldown=0.2), 100)
    assert [round(float(falling(jnp.asarray(step))), 4) for step in (79, 80, 90, 100)] == [1.0, 1.0, 0.5, 0.0]
    assert float(learning_rate_factor(Optimization(warmup_steps=0), 5)(jnp.asarray(0))) == 1.0


def test_the_average_follows_the_papers_decay():
    recipe = Averaging(decay=0.9, time_constant=2.0)
    ema = Ema({"a": jnp.asarray([1.0])}, {"all": jnp.asarray([10.0])}, jnp.zeros((), jnp.int32))
    wanted, statistic = 1.0, 10.0
    for t, value in enumerate((5.0, -3.0, 2.0), start=1):
        ema = update_ema(ema, {"a": jnp.asarray([value])}, {"all": jnp.asarray([2 * value])}, recipe)
        decay = 0.9 * (1 - np.exp(-t / 2.0))
        wanted, statistic = decay * wanted + (1 - decay) * value, decay * statistic + (1 - decay) * 2 * value
    assert float(ema.params["a"][0]) == pytest.approx(wanted, rel=1e-6)
    assert float(ema.batch_stats["all"][0]) == pytest.approx(statistic, rel=1e-6)
    assert int(ema.updates) == 3


def test_packing_is_undone():
    values = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((1,)), "c": jnp.zeros((2, 1, 2))}
    packing = Packing.of({"one": ("c", "a"), "two": ("b",)}, values)
    vectors = packing.pack(values)
    assert {group: vector.shape for group, vector in vectors.items()} == {"one": (10,), "two": (1,)}
    for name, value in packing.unpack(vectors).items():
        np.testing.assert_array_equal(value, values[name])
    assert packing.unpack({"two": vectors["two"]}).keys() == {"b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(epochs=0), "epochs is 0"),
        (dict(image_size=100), "image_size is 100: it must be a multiple of 32"),
        (dict(batch_size=10, optimization=Optimization(accumulate=3)), "batch_size 10 can't be split"),
        (dict(strong_epochs=-1), "strong_epochs is -1"),
        (dict(optimization=Optimization(cooldown=1.5)), "cooldown is 1.5"),
        (dict(averaging=Averaging(decay=1.0)), "decay 1.0"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Recipe(), **change)


def test_recipes_of_all_sizes():
    epochs = {size: (r.epochs, r.strong_epochs, r.batch_size) for size in "nsmlx" for r in [Recipe.for_size(size)]}
    assert epochs == {"n": (160, 148, 128), **dict.fromkeys("sm", (132, 120, 32)), **dict.fromkeys("lx", (80, 72, 32))}
    tuned = Recipe.for_size("m", fine_tune=True)
    assert (tuned.epochs, tuned.strong_epochs, tuned.optimization.warmup_steps) == (56, 48, 0)
    assert Recipe.for_config(DFineConfig.small().with_classes(("a",))) == Recipe.for_size("s")
    assert Recipe.for_size("n").with_epochs(16).strong_epochs == 15
    with pytest.raises(ValueError, match="no recipe for size 'q'"):
        Recipe.for_size("q")
