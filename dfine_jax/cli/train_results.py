"""What ``dfine train`` leaves in its folder: the model, its thresholds and card, curves, pictures."""

import shutil
from pathlib import Path

from dfine_jax import thresholds
from dfine_jax.config import DFineConfig
from dfine_jax.data.samples import Dataset
from dfine_jax.evaluation.best_threshold import best_thresholds
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.curves import training_curves
from dfine_jax.evaluation.sheet import comparison_sheet
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training import card
from dfine_jax.training.configuration import Configuration
from dfine_jax.training.folder import writing
from dfine_jax.training.packing import Values
from dfine_jax.training.saved_model import ModelFolder
from dfine_jax.training.trainer import Trained

MODEL_FOLDER, EVALUATIONS = "model", "evaluations"


class Results:
    """Writes what a training gives, as it gives it."""

    def __init__(self, configuration: Configuration, dataset: Dataset, held_out: Dataset | None, part: str):
        """``part`` says in words what was held out."""
        self.configuration = configuration
        """Of the training; to be replaced when its steps are laid."""
        self.model = DescribedModel(self)
        """For the trainer to save to."""
        self._dataset, self._held_out, self._part = dataset, held_out, part

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Draws curves and pictures with what is found in them, and keeps what is to be said of this state."""
        output = self.configuration.output
        (output / EVALUATIONS).mkdir(exist_ok=True)
        comparison_sheet(self._held_out, evaluation).save(self._path(step, ".jpg"), quality=90)
        training_curves(output / "log.jsonl").savefig(output / "curves.png")
        best = best_thresholds(evaluation) if len(evaluation.truth.labels) else None
        if best is not None:
            thresholds.write_thresholds(best, self._path(step, f".{thresholds.FILE_NAME}"))
        text = card.model_card(self.configuration, self._dataset, step, evaluation, best, self._part)
        self._path(step, f".{card.FILE_NAME}").write_text(text, "utf-8")

    def describe(self, folder: Path, step: int) -> None:
        """Puts the thresholds and the card of a step's evaluation into the folder of its model."""
        for name in (thresholds.FILE_NAME, card.FILE_NAME):
            kept = self._path(step, f".{name}")
            if kept.is_file():
                shutil.copyfile(kept, folder / name)
            elif name == card.FILE_NAME:
                text = card.model_card(self.configuration, self._dataset, step, None, None, self._part)
                (folder / name).write_text(text, "utf-8")

    def ending(self, trained: Trained) -> str:
        """What is said last; ``TrainingError`` where the model that it tells of can't be read."""
        standing, output = trained.standing, self.configuration.output
        if not trained.finished:
            return (
                f"stopped at step {standing.step:,}, with a checkpoint; "
                f"go on with: dfine train --output {output} --resume"
            )
        self.model.require()
        folder = self.model.path
        best = "" if standing.best_ap is None else f", AP {standing.best_ap:.4f} at step {standing.best_step:,}"
        found = thresholds.read_thresholds(folder)
        shown = f", and shows what scores more than {found} (the best F1, {found.all.f1:.3f})" if found else ""
        return f"the model is in {folder}{best}{shown}; use it with: dfine detect PICTURE --model {folder}"

    def _path(self, step: int, rest: str) -> Path:
        return self.configuration.output / EVALUATIONS / f"{step:08}{rest}"


class DescribedModel(ModelFolder):
    """The best model's folder, which says what the model is and from which scores on it should be shown."""

    def __init__(self, results: Results):
        configuration = results.configuration
        side = configuration.recipe.image_size
        super().__init__(
            configuration.output / MODEL_FOLDER, Preprocessing(side, side), f"dfine train on {configuration.data}"
        )
        self._results = results

    def write(self, config: DFineConfig, params: Values, batch_stats: Values, step: int) -> None:
        """Writes it with its description; see ``ModelFolder``."""
        super().write(config, params, batch_stats, step)
        with writing("the model's card to", self.path):
            self._results.describe(self.path, step)
