"""One update of everything that changes in training, as a pure function of state and batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import Apply
from dfine_jax.training.criterion import criterion
from dfine_jax.training.denoising import make_denoising
from dfine_jax.training.optimizer import Ema, Group, Values, split_frozen, start_ema, update_ema
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.targets import Targets


class TrainState(NamedTuple):
    """Everything a training must remember to continue exactly; a pytree."""

    params: Values
    batch_stats: Values
    opt_state: optax.OptState
    ema: Ema
    step: Int[Array, ""]
    """Batches seen. It and ``key`` give each step its random numbers."""
    skipped: Int[Array, ""]
    """Batches whose loss or gradient was not finite, which changed nothing but ``step``."""
    key: UInt32[Array, " words"]
    """The data of a random key (``jax.random.key_data``), as files can hold it."""


class Metrics(NamedTuple):
    """What one step reports; scalars on the device."""

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    """Weighted, by the criterion's names."""
    gradient_norm: Float[Array, ""]
    """Of all gradients together, before clipping."""
    finite: Bool[Array, ""]
    """False where the update was skipped."""


Update = Callable[[TrainState, UInt8[Array, "B H W 3"], Targets], tuple[TrainState, Metrics]]


def start_state(
    params: Values,
    batch_stats: Values,
    groups: tuple[Group, ...],
    optimizer: optax.GradientTransformation,
    seed: int,
) -> TrainState:
    """The state before the first step. Only its own arrays are donated later: parameters and statistics are copied."""
    params, batch_stats = jax.tree.map(jnp.array, (params, batch_stats))
    trained, _ = split_frozen(params, groups)
    return TrainState(
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(trained),
        ema=start_ema(params, batch_stats),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def make_update(
    apply: Apply,
    config: DFineConfig,
    recipe: Recipe,
    groups: tuple[Group, ...],
    optimizer: optax.GradientTransformation,
) -> Update:
    """The function from a state and a batch to the next state, for ``jax.jit`` with ``donate_argnums=0``.

    It sees the whole batch: under a sharded ``jit`` batch norms, counts and denoising are the global batch's.
    """
    loss_of = make_loss(apply, config, recipe)
    parts = recipe.optimization.accumulate

    def update(state: TrainState, images: UInt8[Array, "B H W 3"], targets: Targets) -> tuple[TrainState, Metrics]:
        trained, frozen = split_frozen(state.params, groups)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def gradients(batch_stats, part):
            images, targets, key = part
            inputs = (trained, frozen, batch_stats, images, targets, key)
            (loss, (terms, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(*inputs)
            return batch_stats, (loss, terms, gradient)

        if parts == 1:
            batch_stats, means = gradients(state.batch_stats, (images, targets, key))
        else:
            split = jax.tree.map(lambda x: _parts(x, parts), (images, targets))
            batch_stats, each = jax.lax.scan(gradients, state.batch_stats, (*split, jax.random.split(key, parts)))
            means = jax.tree.map(lambda x: x.mean(0), each)
        loss, terms, gradient = means

        norm = optax.global_norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        params = {**frozen, **optax.apply_updates(trained, updates)}
        ema = update_ema(state.ema, params, batch_stats, recipe.averaging)
        new, old = (params, batch_stats, opt_state, ema), (state.params, state.batch_stats, state.opt_state, state.ema)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        return TrainState(*kept, state.step + 1, skipped, state.key), Metrics(loss, terms, norm, finite)

    return update


def make_loss(apply: Apply, config: DFineConfig, recipe: Recipe) -> Callable:
    """``loss(trained, frozen, batch_stats, images, targets, key)`` gives ``total, (terms, new batch statistics)``."""
    queries, copies = config.decoder.queries, recipe.denoising_copies
    denoises = copies > 0 and config.decoder.denoising_queries > 0

    def loss(trained, frozen, batch_stats, images, targets, key):
        denoising = make_denoising(key, targets, config.num_classes, queries, copies) if denoises else None
        pixels = images.astype(jnp.float32) / 255
        output, batch_stats = apply({**frozen, **trained}, batch_stats, pixels, denoising, train=True)
        losses = criterion(output, targets, denoising, recipe.loss, recipe.matching)
        return losses.total, (losses.terms, batch_stats)

    return loss


def _parts(x: Array, parts: int) -> Array:
    """(B, ...) to (parts, B / parts, ...), taking every so-manieth picture so that each device keeps its own."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
