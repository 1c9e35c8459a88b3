"""One update of everything that changes in training, as a pure function of state and batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import Apply
from dfine_jax.training.criterion import Criterion, criterion
from dfine_jax.training.denoising import make_denoising
from dfine_jax.training.optimizer import Ema, Group, Pace, update_ema
from dfine_jax.training.packing import Packing, Values, Vectors
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.targets import Targets


class TrainState(NamedTuple):
    """Everything a training must remember to continue exactly; a pytree."""

    params: Vectors
    """One vector for each group of parameters (``layout_of``)."""
    batch_stats: Vectors
    opt_state: optax.OptState
    """Of the groups that are trained."""
    ema: Ema
    step: Int[Array, ""]
    """Batches seen. It and ``key`` give each step its random numbers."""
    skipped: Int[Array, ""]
    """Batches whose loss or gradient was not finite, which changed nothing but ``step``."""
    key: UInt32[Array, " words"]
    """The data of a random key (``jax.random.key_data``), as files can hold it."""


class Layout(NamedTuple):
    """Where the model's arrays lie in a state's vectors."""

    params: Packing
    batch_stats: Packing
    frozen: frozenset[str]
    """Groups that are not trained."""

    def trained(self, params: Vectors) -> Vectors:
        """The groups that are trained."""
        return {title: vector for title, vector in params.items() if title not in self.frozen}

    def variables(self, params: Vectors, batch_stats: Vectors) -> tuple[dict[str, Array], dict[str, Array]]:
        """The model's parameters and batch statistics by dotted name."""
        return self.params.unpack(params), self.batch_stats.unpack(batch_stats)


def layout_of(params: Values, batch_stats: Values, groups: tuple[Group, ...]) -> Layout:
    """The layout in which each group of parameters is a vector, and all batch statistics are one."""
    return Layout(
        Packing.of({group.title: group.names for group in groups}, params),
        Packing.of({"all": tuple(batch_stats)}, batch_stats),
        frozenset(group.title for group in groups if group.frozen),
    )


class Metrics(NamedTuple):
    """What one step reports; scalars on the device."""

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    """Weighted, by the criterion's names."""
    gradient_norm: Float[Array, ""]
    """Of all gradients together, before clipping."""
    finite: Bool[Array, ""]
    """False where the update was skipped."""


Update = Callable[..., tuple[TrainState, Metrics]]
"""Of a state, images (B, H, W, 3), ``Targets`` and, if there is one, a pace."""


def start_state(
    params: Values, batch_stats: Values, layout: Layout, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first step."""
    vectors, statistics = layout.params.pack(params), layout.batch_stats.pack(batch_stats)
    copies = jax.tree.map(jnp.copy, (vectors, statistics))  # what is donated must not be there twice
    return TrainState(
        params=vectors,
        batch_stats=statistics,
        opt_state=optimizer.init(layout.trained(vectors)),
        ema=Ema(*copies, jnp.zeros((), jnp.int32)),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def make_update(
    apply: Apply,
    config: DFineConfig,
    recipe: Recipe,
    layout: Layout,
    optimizer: optax.GradientTransformation,
    criterion: Criterion = criterion,
) -> Update:
    """The function from a state and a batch to the next state, for ``jax.jit`` with ``donate_argnums=0``.

    A ``pace`` takes the place of the recipe's schedule, a ``criterion`` that of the paper's loss. It sees the whole
    batch: under a sharded ``jit`` batch norms, counts and denoising are the global batch's.
    """
    loss_of = make_loss(apply, config, recipe, criterion)
    parts = recipe.optimization.accumulate

    def update(
        state: TrainState, images: UInt8[Array, "B H W 3"], targets: Targets, pace: Pace | None = None
    ) -> tuple[TrainState, Metrics]:
        trained = layout.trained(state.params)
        params, batch_stats = layout.variables(state.params, state.batch_stats)
        by_gradient = layout.params.unpack(trained)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def gradients(batch_stats, part):
            inputs = (by_gradient, params, batch_stats, *part)
            (loss, (terms, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(*inputs)
            packed = layout.params._replace(groups={title: layout.params.groups[title] for title in trained})
            return batch_stats, (loss, terms, packed.pack(gradient))

        if parts == 1:
            batch_stats, means = gradients(batch_stats, (images, targets, key))
        else:
            split = jax.tree.map(lambda x: _parts(x, parts), (images, targets))
            batch_stats, each = jax.lax.scan(gradients, batch_stats, (*split, jax.random.split(key, parts)))
            means = jax.tree.map(lambda x: x.mean(0), each)
        loss, terms, gradient = means

        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained, pace=pace)
        vectors = {**state.params, **optax.apply_updates(trained, updates)}
        statistics = layout.batch_stats.pack(batch_stats)
        ema = update_ema(state.ema, vectors, statistics, pace or recipe.averaging)
        new, old = (vectors, statistics, opt_state, ema), (state.params, state.batch_stats, state.opt_state, state.ema)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        return TrainState(*kept, state.step + 1, skipped, state.key), Metrics(loss, terms, norm, finite)

    return update


def make_loss(apply: Apply, config: DFineConfig, recipe: Recipe, criterion: Criterion = criterion) -> Callable:
    """``loss(trained, params, batch_stats, images, targets, key)`` gives ``total, (terms, new batch statistics)``.

    ``trained`` are those of ``params`` by which it is differentiated. ``images`` are bytes, or numbers from 0 to 1.
    Without a ``key`` (None) there are no denoising queries.
    """
    queries, copies = config.decoder.queries, recipe.denoising_copies
    denoises = copies > 0 and config.decoder.denoising_queries > 0

    def loss(trained, params, batch_stats, images, targets, key):
        noisy = denoises and key is not None
        denoising = make_denoising(key, targets, config.num_classes, queries, copies) if noisy else None
        pixels = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        output, batch_stats = apply({**params, **trained}, batch_stats, pixels, denoising, train=True)
        losses = criterion(output, targets, denoising, recipe.loss, recipe.matching)
        return losses.total, (losses.terms, batch_stats)

    return loss


def _parts(x: Array, parts: int) -> Array:
    """(B, ...) to (parts, B / parts, ...), taking every so-manieth picture so that each device keeps its own."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
