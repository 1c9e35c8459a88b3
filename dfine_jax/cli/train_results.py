"""What ``dfine train`` leaves in its folder: the model, its thresholds and card, curves, pictures."""

from collections.abc import Mapping

import numpy as np

from convert.folder import save_folder
from dfine_jax.config import DFineConfig
from dfine_jax.data.samples import Dataset
from dfine_jax.evaluation.best_threshold import best_thresholds
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.curves import training_curves
from dfine_jax.evaluation.sheet import comparison_sheet
from dfine_jax.inference.preprocess import Preprocessing
from dfine_jax.inference.thresholds import Thresholds, write_thresholds
from dfine_jax.training.card import model_card, write_card
from dfine_jax.training.configuration import Configuration
from dfine_jax.training.trainer import Trained

MODEL_FOLDER = "model"


class Results:
    """Writes what a training gives, as it gives it: the trainer's ``on_evaluation`` and ``save``."""

    def __init__(self, configuration: Configuration, dataset: Dataset, held_out: Dataset | None, part: str):
        """``part`` says in words what was held out."""
        self.configuration = configuration
        """Of the training; to be replaced when its steps are laid."""
        self._dataset, self._held_out, self._part = dataset, held_out, part
        self._step = 0
        self._evaluation: Evaluation | None = None

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Draws curves, and pictures with what is found in them."""
        self._step, self._evaluation = step, evaluation
        output = self.configuration.output
        pictures = output / "evaluations"
        pictures.mkdir(exist_ok=True)
        comparison_sheet(self._held_out, evaluation).save(pictures / f"{step:08}.jpg", quality=90)
        training_curves(output / "log.jsonl").savefig(output / "curves.png")

    def save(
        self, config: DFineConfig, params: Mapping[str, np.ndarray], batch_stats: Mapping[str, np.ndarray]
    ) -> None:
        """Writes the model that was evaluated last, with its thresholds and its card."""
        configuration = self.configuration
        folder, side = configuration.output / MODEL_FOLDER, configuration.recipe.image_size
        about = f"dfine train on {configuration.data}"
        arrays = {**params, **batch_stats}.items()
        save_folder(folder, config, Preprocessing(side, side), arrays, source=about, replace=True)
        thresholds = self.thresholds
        if thresholds is not None:
            write_thresholds(thresholds, folder)
        step = self._step or configuration.recipe.steps or 0
        write_card(model_card(configuration, self._dataset, step, self._evaluation, thresholds, self._part), folder)

    @property
    def thresholds(self) -> Thresholds | None:
        """By which to show what the model of the last evaluation finds; None where there was nothing to be found."""
        if self._evaluation is None or not len(self._evaluation.truth.labels):
            return None
        return best_thresholds(self._evaluation)


def ending(trained: Trained, configuration: Configuration) -> str:
    """What to say when a training has ended."""
    standing, output = trained.standing, configuration.output
    if not trained.finished:
        return f"stopped at step {standing.step:,}; go on with: dfine train --output {output} --resume"
    best = "" if standing.best_ap is None else f", AP {standing.best_ap:.4f} at step {standing.best_step:,}"
    model = output / MODEL_FOLDER
    return f"the model is in {model}{best}; use it with: dfine detect PICTURE --model {model}"
