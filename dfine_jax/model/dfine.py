"""The whole model, backbone to boxes, and the pure functions that research wants."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.config import DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.model.decoder import Decoder
from dfine_jax.model.hgnetv2 import HGNetV2
from dfine_jax.model.hybrid_encoder import HybridEncoder
from dfine_jax.model.outputs import DenoisingQueries, Detected, DetectedWithEdges, TrainingOutput
from dfine_jax.ops.compute import Compute

Variables = Mapping[str, Array]


class DFine(nnx.Module):
    """D-FINE (arXiv 2410.13842).

    With ``rng`` it has fresh, untrained weights; without, only their shapes, for ``load`` to fill.
    ``dfine_jax.pretrained`` gives trained models. ``compute`` says in which type and how exactly products are made.
    """

    def __init__(self, config: DFineConfig, *, compute: Compute = Compute(), rng: np.random.Generator | None = None):
        self.backbone = HGNetV2(config.backbone, compute=compute, rng=rng)
        self.encoder = HybridEncoder(config, compute=compute, rng=rng)
        self.decoder = Decoder(config, compute=compute, rng=rng)
        self.config = config

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        denoising: DenoisingQueries | None = None,
        train: bool = False,
        edges: bool = False,
    ) -> Detected | DetectedWithEdges | TrainingOutput:
        """``images`` are RGB in 0..1, height and width divisible by 32, or ``InputError``.

        Returns ``Detected`` at inference, with ``edges`` more. In training (batch norms on the batch's statistics,
        every layer's predictions, ``denoising`` queries in front of the ordinary ones) returns ``TrainingOutput``.
        """
        if images.ndim != 4 or images.shape[-1] != self.config.backbone.stem_channels[0]:
            raise ValueError(f"images have shape {images.shape}: give a batch as (B, H, W, 3)")
        if images.shape[1] % 32 or images.shape[2] % 32:
            raise InputError(
                f"pictures of {images.shape[1]}x{images.shape[2]} (height x width): both must be divisible by 32"
            )
        maps = self.encoder(self.backbone(images, train), train)
        return self.decoder(maps, denoising, train, edges)


class Apply(Protocol):
    """``apply(params, batch_stats, images)`` returns the model's output.

    With ``train=True`` it returns a pair, the output and the new batch statistics.
    """

    def __call__(
        self,
        params: Variables,
        batch_stats: Variables,
        images: Float[Array, "B H W 3"],
        denoising: DenoisingQueries | None = None,
        train: bool = False,
        edges: bool = False,
    ) -> Detected | DetectedWithEdges | tuple[TrainingOutput, dict[str, Array]]: ...


class Functional(NamedTuple):
    """A model as a pure function and its variables, flat dictionaries from dotted names to arrays."""

    apply: Apply
    params: dict[str, Array]
    batch_stats: dict[str, Array]


def functional(model: DFine) -> Functional:
    """``(apply, params, batch_stats)``: ready for ``jax.jit``, ``jax.grad``, ``jax.vmap`` over parameters or pixels.

    The model is not changed and not referred to. Names, such as ``"decoder.class_heads.0.kernel"``, are those of the
    attributes. ``apply`` raises ``ValueError`` where it is given other names or shapes than the model's.
    """
    graph, abstract = nnx.split(nnx.clone(model))
    params, batch_stats = variables(model)
    abstract = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), abstract)

    def apply(params, batch_stats, images, denoising=None, train=False, edges=False):
        merged = nnx.merge(graph, _filled(abstract, {**params, **batch_stats}))
        if not train:
            return merged(images, denoising, edges=edges)
        _, before = variables(merged)
        output = merged(images, denoising, train)
        return output, _moved(before, variables(merged)[1])

    return Functional(apply, params, batch_stats)


def _moved(running: Variables, seen: Variables) -> dict[str, Array]:
    """Running statistics a tenth of the way to those that norms saw, as PyTorch moves them; others stay as they are."""
    changed = [name for name in running if seen[name] is not running[name]]
    if not changed:
        return dict(seen)
    old, new = (jnp.concatenate([values[name] for name in changed]) for values in (running, seen))
    ends = np.cumsum([seen[name].size for name in changed])
    return {**seen, **dict(zip(changed, jnp.split(0.9 * old + 0.1 * new, ends[:-1]), strict=True))}


def variables(model: nnx.Module) -> tuple[dict[str, Array], dict[str, Array]]:
    """Parameters and batch statistics (with all else that is not trained) by dotted name."""
    params, stats = {}, {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        kind = params if isinstance(variable, nnx.Param) else stats
        kind[dotted(path)] = variable.get_value()
    return params, stats


def load(model: DFine, values: Variables) -> None:
    """Gives every variable of ``model`` its value by dotted name; ``ValueError`` names all that do not fit."""
    nnx.update(model, _filled(nnx.state(model), values))


def dotted(path: tuple[str | int, ...]) -> str:
    """The name of the variable at a path of attributes and list indices."""
    return ".".join(map(str, path))


def _filled(state: nnx.State, values: Variables) -> nnx.State:
    """``state`` with other values, after comparing names and shapes: merging would go by position."""
    flat = dict(nnx.to_flat_state(state))
    names = {dotted(path): path for path in flat}
    report = [f"missing {name}" for name in sorted(names.keys() - values.keys())]
    report += [f"unexpected {name}" for name in sorted(values.keys() - names.keys())]
    for name in sorted(names.keys() & values.keys()):
        wanted, given = flat[names[name]].shape, values[name].shape
        if wanted != given:
            report.append(f"{name} has shape {given}, the model's is {wanted}")
    if report:
        raise ValueError("these variables do not fit the model: " + "; ".join(report))
    return nnx.from_flat_state([(path, flat[path].replace(values[name])) for name, path in names.items()])
