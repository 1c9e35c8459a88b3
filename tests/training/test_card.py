"""The model card says what the model is, how good, and how to use it, whatever the classes are called."""

from pathlib import Path

import numpy as np
import pytest

from dfine_jax.data.shapes import shapes
from dfine_jax.evaluation.best_threshold import best_thresholds
from dfine_jax.evaluation.coco_metrics import evaluate
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth
from dfine_jax.training.card import model_card
from dfine_jax.training.configuration import Configuration
from dfine_jax.training.recipe import Optimization, Recipe


def test_it_holds_the_runs_numbers():
    dataset = shapes(6, size=64)
    truth = Truth.of(dataset)
    predicted = [
        Predicted(
            picture,
            np.full((truth.pictures == picture).sum(), 0.9, np.float32),
            truth.labels[truth.pictures == picture],
            truth.boxes[truth.pictures == picture],
        )
        for picture in range(6)
    ]
    evaluation = evaluate(predicted, truth)
    configuration = Configuration(data="a|`b`", output=Path("o"), model="nano-coco")
    card = model_card(
        configuration, dataset, 1234, evaluation, best_thresholds(evaluation), "6 pictures of the val part"
    )
    assert "On 6 pictures of the val part" in card
    assert "AP 1.000, AP50 1.000" in card
    assert "1,234 steps of 128 pictures of 640 x 640 pixels, seed 0" in card
    assert "`a|'b'`, 6 pictures" in card
    assert "from `nano-coco`" in card
    assert "has the best F1 over all classes: 1.000" in card
    assert "| circle |" in card
    assert 'Detector.from_pretrained("THIS_FOLDER")("picture.jpg", threshold=0.45)' in card


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(steps=2000, optimization=Optimization(cooldown=0.25)), "flat, falling along a cosine after step 1,500"),
        (Recipe(optimization=Optimization(cooldown=0.25)), "flat, falling along a cosine in the last 25% of all steps"),
        (Recipe(steps=2000), "flat"),
    ],
)
def test_it_says_from_when_on_learning_rates_fell(recipe, words):
    configuration = Configuration(data="d", output=Path("o"), recipe=recipe)
    card = model_card(configuration, shapes(2, size=64), 5, None, None, "none")
    assert f"500 steps of warm-up, then {words}\n" in card


def test_names_stay_names():
    dataset = shapes(2, size=64)
    names = ("a|b", "<script>", "*star*", *dataset.class_names[3:])
    renamed = type(dataset)(names, dataset.category_ids, dataset.records, dataset.most_boxes)
    card = model_card(Configuration(data="d", output=Path("o")), renamed, 5, None, None, "none")
    assert r"a\|b, \<script\>, \*star\*" in card
    assert "Not measured" in card
    assert "new weights of size n" in card
