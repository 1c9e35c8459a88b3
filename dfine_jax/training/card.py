"""A model card: what a trained model finds, how well, how it came about and how to use it, as ``README.md``."""

import math

from dfine_jax.data.samples import Dataset
from dfine_jax.display import printable
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.thresholds import FEW_BOXES, Thresholds
from dfine_jax.training.configuration import Configuration

FILE_NAME = "README.md"
LISTED = 100
"""Classes of which the figures are listed; of more the best and the worst are."""


def model_card(
    configuration: Configuration,
    dataset: Dataset,
    step: int,
    evaluation: Evaluation | None,
    thresholds: Thresholds | None,
    held_out: str,
) -> str:
    """The card of a model as it is after a step.

    Args:
        configuration: of the training.
        dataset: what it was trained on.
        step: how many steps it was trained for.
        evaluation: how good it is, if that was measured.
        thresholds: by which to show what it finds, if they were measured.
        held_out: what it was measured on, in words.
    """
    recipe, names = configuration.recipe, dataset.class_names
    side = recipe.image_size
    began = f"`{_code(configuration.model)}`" if configuration.model else f"new weights of size {configuration.size}"
    shown = ", ".join(map(_text, names[:LISTED])) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    lines = [
        f"# A detector of {_count(len(names), 'class', 'classes')}",
        "",
        f"D-FINE for pictures of {side} x {side} pixels, trained by dfine_jax. It finds: {shown}.",
        "",
        "## Use",
        "",
        "```console",
        "$ dfine detect PICTURE --model THIS_FOLDER --save drawn",
        "```",
        "",
        "```python",
        "from dfine_jax import Detector",
        "",
        'found = Detector.from_pretrained("THIS_FOLDER")("picture.jpg"'
        + (f", threshold={thresholds.all.threshold:g})" if thresholds else ")"),
        "```",
        "",
        "## How good it is",
        "",
        *_figures(evaluation, thresholds, held_out),
        "",
        "## How it was trained",
        "",
        f"- data: `{_code(configuration.data)}`, {len(dataset):,} pictures",
        f"- from {began}",
        f"- {step:,} steps of {recipe.batch_size} pictures of {side} x {side} pixels, seed {configuration.run.seed}",
        f"- learning rate {recipe.optimization.learning_rate:g}, of the backbone "
        f"{recipe.optimization.backbone_learning_rate:g}; {recipe.optimization.warmup_steps:,} steps of warm-up, "
        f"{recipe.falling}",
        f"- average of weights with a decay of {recipe.averaging.decay:g}",
        "- all settings: `training.json` beside this folder, which `dfine train --config` takes",
        "",
    ]
    return "\n".join(lines)


def _figures(evaluation: Evaluation | None, thresholds: Thresholds | None, held_out: str) -> list[str]:
    if evaluation is None or thresholds is None:
        return ["Not measured: there were no pictures to measure on."]
    figures, total = evaluation.figures, thresholds.all
    rows = sorted(evaluation.classes, key=lambda c: (c.boxes == 0, -c.ap))
    if len(rows) > LISTED:
        rows = rows[: LISTED // 2] + rows[-LISTED // 2 :]
    table = [
        f"| {_text(c.name)} | {c.boxes:,} | {_number(c.ap)} | {_number(c.ap50)} | {thresholds.of_class(c.name):.2f} | "
        + (f"{best.f1:.3f} |" if (best := thresholds.classes.get(c.name)) else "- |")
        for c in rows
    ]
    return [
        f"On {held_out}, by which this state of the model was chosen (new pictures may give less): AP "
        f"{_number(figures.ap)}, AP50 {_number(figures.ap50)}, AP75 {_number(figures.ap75)}.",
        "",
        f"What scores more than {total.threshold:.2f} has the best F1 over all classes: {total.f1:.3f} (precision "
        f"{total.precision:.3f}, recall {total.recall:.3f}). `dfine detect` shows each class from its own threshold "
        f"on, as `thresholds.json` has it; a class with fewer than {FEW_BOXES} boxes takes that of all.",
        "",
        "| class | boxes | AP | AP50 | threshold | best F1 |",
        "|---|---|---|---|---|---|",
        *table,
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _text(name: str) -> str:
    """A name as it is, whatever Markdown would make of it."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+-!|<>" else letter for letter in printable(name))


def _code(text: object) -> str:
    return printable(str(text)).replace("`", "'")
