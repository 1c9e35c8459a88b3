"""AdamW with parameter groups by name, and the moving average of what it trains."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from dfine_jax.training.packing import Values, Vectors
from dfine_jax.training.recipe import Averaging, Kind, Optimization


class Group(NamedTuple):
    """Parameters that are trained alike. Frozen ones have a learning rate of zero."""

    title: str
    learning_rate: float
    weight_decay: float
    names: tuple[str, ...]

    @property
    def frozen(self) -> bool:
        """Whether these parameters stay as they are."""
        return self.learning_rate == 0


def parameter_groups(names: Iterable[str], recipe: Optimization) -> tuple[Group, ...]:
    """Every parameter in exactly one group; groups without any are left out."""
    groups: dict[tuple[str, float, float], list[str]] = {}
    for name in names:
        room = name.split(".")[0]
        backbone = room == "backbone"
        title, rate, decay = room, recipe.backbone_learning_rate if backbone else recipe.learning_rate, 0.0
        kinds = kinds_of(name)
        spared = kinds & set(recipe.backbone_no_decay if backbone else recipe.no_decay)
        if _is_frozen(name, kinds, recipe):
            title, rate = f"{room}, frozen", 0.0
        elif spared:
            title = f"{room}, {' and '.join(recipe.backbone_no_decay if backbone else recipe.no_decay)}"
        else:
            decay = recipe.weight_decay
        groups.setdefault((title, rate, decay), []).append(name)
    return tuple(Group(*key, tuple(members)) for key, members in groups.items())


def kinds_of(name: str) -> set[Kind]:
    """Which kinds of parameter, as far as weight decay tells them apart, a dotted name belongs to."""
    *_, owner, leaf = ("", *name.split("."))
    kinds: set[Kind] = set()
    if "norm" in owner:
        kinds.add("norms")
    if owner == "affine":
        kinds.add("affines")
    if leaf == "bias":
        kinds.add("biases")
    return kinds


def _is_frozen(name: str, kinds: set[Kind], recipe: Optimization) -> bool:
    stem = recipe.freeze_stem and name.startswith("backbone.stem.")
    return stem or (recipe.freeze_backbone_norms and name.startswith("backbone.") and "norms" in kinds)


def group_table(groups: tuple[Group, ...], params: Values) -> str:
    """One line for each group: its learning rate, weight decay, tensors and numbers in them."""
    rows = [("group", "learning rate", "weight decay", "tensors", "parameters")]
    for group in groups:
        count = sum(params[name].size for name in group.names)
        rate = "frozen" if group.frozen else f"{group.learning_rate:g}"
        rows.append((group.title, rate, f"{group.weight_decay:g}", str(len(group.names)), f"{count:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *numbers in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *cells]))
    return "\n".join(lines)


class Pace(NamedTuple):
    """What a schedule depends on the number of all steps for, as scalars that a compiled step is given.

    They are arguments where the number of steps is found out by a clock, when the step has been compiled already.
    """

    warmup: Int[ArrayLike, ""]
    fall_from: Int[ArrayLike, ""]
    falling: Int[ArrayLike, ""]
    decay: Float[ArrayLike, ""]
    time_constant: Float[ArrayLike, ""]

    @classmethod
    def of(cls, optimization: Optimization, averaging: Averaging, total_steps: int) -> "Pace":
        """The pace of a training of so many steps."""
        falling = round(optimization.cooldown * total_steps)
        whole = (optimization.warmup_steps, total_steps - falling, falling)
        return cls(*map(np.int32, whole), np.float32(averaging.decay), np.float32(averaging.time_constant))


def learning_rate_factor(recipe: Optimization, total_steps: int) -> optax.Schedule:
    """What every group's learning rate is multiplied by at a step: warm-up, constant, and the cosine at the end."""
    falling = round(recipe.cooldown * total_steps)

    def factor(step: Int[Array, ""]) -> Float[Array, ""]:
        if not falling:  # without the number of steps, so that any number runs the same compiled program
            return _risen(step, max(recipe.warmup_steps, 1))
        return _risen(step, max(recipe.warmup_steps, 1)) * _fallen(step, total_steps - falling, falling)

    return factor


def paced_factor(step: Int[Array, ""], pace: Pace) -> Float[Array, ""]:
    """The same of a pace."""
    rise = _risen(step, jnp.maximum(pace.warmup, 1))
    return rise * jnp.where(pace.falling > 0, _fallen(step, pace.fall_from, jnp.maximum(pace.falling, 1)), 1.0)


def _risen(step: Int[Array, ""], warmup: Int[ArrayLike, ""]) -> Float[Array, ""]:
    return jnp.minimum(1.0, (step + 1) / warmup)


def _fallen(step: Int[Array, ""], fall_from: Int[ArrayLike, ""], falling: Int[ArrayLike, ""]) -> Float[Array, ""]:
    done = jnp.clip((step - fall_from) / falling, 0.0, 1.0)
    return (1 + jnp.cos(jnp.pi * done)) / 2


def make_optimizer(
    groups: tuple[Group, ...], recipe: Optimization, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The transformation of gradients to updates, of one vector for each group that is trained, by title."""
    rates = {group.title: group.learning_rate for group in groups}
    decays = {group.title: group.weight_decay for group in groups}

    def decay_weights(updates: Vectors, params: Vectors) -> Vectors:
        return {title: update + decays[title] * params[title] for title, update in updates.items()}

    def scale_by_group(updates: Vectors, params: Vectors) -> Vectors:
        return {title: -rates[title] * update for title, update in updates.items()}

    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.scale_by_adam(*recipe.betas),
        optax.stateless(decay_weights),
        optax.stateless(scale_by_group),
        _scale_by_schedule(learning_rate_factor(recipe, total_steps)),
    )


def _scale_by_schedule(factor: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """``optax.scale_by_schedule``, but that an update may be given a pace, which then takes the schedule's place."""

    def update(updates: Vectors, state: optax.ScaleByScheduleState, params=None, *, pace: Pace | None = None, **_):
        scale = factor(state.count) if pace is None else paced_factor(state.count, pace)
        updates = jax.tree.map(lambda update: jnp.asarray(scale, update.dtype) * update, updates)
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    initial = optax.scale_by_schedule(factor).init
    return optax.GradientTransformationExtraArgs(initial, update)


class Ema(NamedTuple):
    """The moving average of a model's variables, as vectors."""

    params: Vectors
    batch_stats: Vectors
    updates: Int[Array, ""]


def update_ema(ema: Ema, params: Vectors, batch_stats: Vectors, recipe: Averaging | Pace) -> Ema:
    """One step of the average."""
    updates = ema.updates + 1
    decay = recipe.decay * (1 - jnp.exp(-updates / recipe.time_constant))

    def mix(old: Array, new: Array) -> Array:
        return old + (1 - decay) * (new - old)

    averaged = jax.tree.map(mix, (ema.params, ema.batch_stats), (params, batch_stats))
    return Ema(*averaged, updates)
