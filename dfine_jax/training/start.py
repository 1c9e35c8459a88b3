"""The values a training starts from: fresh, a trained detector's, or those and fresh ones for new classes."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dfine_jax.config import DFineConfig
from dfine_jax.data.values import plain_name
from dfine_jax.errors import InputError
from dfine_jax.model.dfine import DFine, variables

CLASS_AXES = {
    r"decoder\.encoder_score\.kernel": 1,
    r"decoder\.encoder_score\.bias": 0,
    r"decoder\.class_heads\.\d+\.kernel": 1,
    r"decoder\.class_heads\.\d+\.bias": 0,
    r"decoder\.denoising_embed": 0,
}
"""Which axis of which parameter goes over the classes (``denoising_embed`` has one more, for padding)."""


class Start(NamedTuple):
    """A model's variables before the first step."""

    config: DFineConfig
    params: dict[str, np.ndarray]
    batch_stats: dict[str, np.ndarray]
    report: str
    """What was kept of a loaded model, in a few words."""


def fresh(config: DFineConfig, seed: int, backbone: Mapping[str, np.ndarray] | None = None) -> Start:
    """Untrained values, but for those of a ``backbone`` that are given, by dotted name."""
    params, batch_stats = _host(variables(DFine(config, rng=np.random.default_rng(seed))))
    if backbone is None:
        return Start(config, params, batch_stats, "all weights are new")
    params, batch_stats = ({**values, **_members(backbone, values)} for values in (params, batch_stats))
    return Start(config, params, batch_stats, "the backbone's weights are kept; all others are new")


def fine_tune(config: DFineConfig, values: Mapping[str, np.ndarray], class_names: Sequence[str], seed: int) -> Start:
    """All values of a trained model but those for classes it doesn't know, which are new.

    Args:
        config: the trained model's.
        values: its parameters and batch statistics, by dotted name.
        class_names: what it shall tell apart from now on. Names agree whatever their case and joining of words.
        seed: of the new values.
    """
    start = fresh(config.with_classes(tuple(class_names)), seed)
    known = {plain_name(name): row for row, name in enumerate(config.class_names)}
    pairs = [(row, known[plain_name(name)]) for row, name in enumerate(class_names) if plain_name(name) in known]
    new_rows, old_rows = (list(rows) for rows in zip(*pairs, strict=True)) if pairs else ([], [])
    missing = [name for name in (*start.params, *start.batch_stats) if name not in values]
    if missing:
        raise InputError(f"the model to start from lacks {', '.join(missing[:5])}{' ...' if missing[5:] else ''}")

    def taken(name: str, new: np.ndarray) -> np.ndarray:
        old = np.asarray(values[name], np.float32)
        axis = next((axis for pattern, axis in CLASS_AXES.items() if re.fullmatch(pattern, name)), None)
        if axis is None:
            return old
        padding = ([-1], [-1]) if name == "decoder.denoising_embed" else ([], [])
        merged = np.moveaxis(new.copy(), axis, 0)
        merged[new_rows + padding[0]] = np.moveaxis(old, axis, 0)[old_rows + padding[1]]
        return np.ascontiguousarray(np.moveaxis(merged, 0, axis))

    params = {name: taken(name, new) for name, new in start.params.items()}
    batch_stats = {name: taken(name, new) for name, new in start.batch_stats.items()}
    return Start(start.config, params, batch_stats, _report(class_names, [class_names[row] for row in new_rows]))


def _members(some: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in some.items() if name in known}


def _report(class_names: Sequence[str], kept: Sequence[str]) -> str:
    if len(kept) == len(class_names):
        return f"all weights are kept, and the heads of all {len(kept)} classes"
    new = [name for name in class_names if name not in kept]
    heads = f"and of the heads those of {_some(kept)}" if kept else "but the classes' heads"
    return f"all weights are kept {heads}; new are the heads of {_some(new)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _host(trees: tuple[dict, dict]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    params, batch_stats = ({name: np.asarray(value) for name, value in tree.items()} for tree in trees)
    return params, batch_stats
