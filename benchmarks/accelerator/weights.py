"""The weights that transformers reads: those of ``programs``, in the Hub's layout."""

from pathlib import Path

from benchmarks import peers
from benchmarks.accelerator.programs import model_of
from benchmarks.accelerator.scale import Task
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import arrays_of
from dfine_jax.weights.hub_layout import save_hub_folder


def hub_folder(task: Task, size: str) -> Path:
    """The folder that holds ``model``, written by the first who asks."""
    folder = task.scratch / f"weights-{size}"
    if not (folder / peers.MODEL).exists():
        model = model_of(size, "float32")
        settings = Preprocessing(task.scale.side, task.scale.side)
        save_hub_folder(folder / peers.MODEL, model.config, settings, arrays_of(model))
    return folder
