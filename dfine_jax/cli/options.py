"""Options that several verbs take, from text to values."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from dfine_jax.config import SIZES, DFineConfig
from dfine_jax.display import say
from dfine_jax.errors import InputError
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing

if TYPE_CHECKING:
    from dfine_jax.model.dfine import DFine
    from dfine_jax.weights.folder import StoredModel

DEFAULT_MODEL = "nano-coco"


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"480x640"`` to (height, width); ``InputError`` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if not match:
        raise InputError(f"size {text!r}: give HEIGHTxWIDTH, such as 640x640")
    return int(match[1]), int(match[2])


def say_remarks(stored: "StoredModel") -> None:
    """Tells on standard error what was assumed about a model or left out of it."""
    notes = Console(stderr=True)
    for remark in stored.remarks:
        say(notes, f"{stored.source}: {remark}", "yellow")


def model_of(name: str, size: tuple[int, int] | None, compute: Compute = Compute()) -> tuple["DFine", Preprocessing]:
    """A model and how it wants its pictures: of a published size with random weights, or a trained one by name.

    ``size`` (height, width) replaces its own.
    """
    from dfine_jax.model.dfine import DFine  # not for verbs that only want the options

    if name in SIZES:
        model, settings = (
            DFine(DFineConfig.from_size(name), compute=compute, rng=np.random.default_rng(0)),
            Preprocessing(),
        )
    else:
        from dfine_jax.pretrained import open_pretrained, read_stored  # brings the converter

        stored = open_pretrained(name)
        say_remarks(stored)
        loaded = read_stored(stored, compute)
        model, settings = loaded.model, loaded.preprocessing
    return model, settings if size is None else replace(settings, height=size[0], width=size[1])
