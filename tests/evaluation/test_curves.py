import json

import numpy as np
import pytest

from dfine_jax.evaluation.curves import training_curves


def write_log(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def curves(axes):
    return [np.array(line.get_xydata()) for line in axes.lines]


def test_losses_and_aps(tmp_path):
    losses = [{"step": 10 * i, "loss": 30.0 - i} for i in range(1, 6)]
    aps = [{"step": 25, "ap": 0.25}, {"step": 50, "ap": 0.5}, {"step": 75, "ap": 0.375}]
    unusable = [{"step": 60, "loss": float("nan")}]
    figure = training_curves(write_log(tmp_path / "log.jsonl", *losses, *aps, *unusable))
    left, right = figure.axes
    np.testing.assert_array_equal(curves(left)[0], [[10 * i, 30 - i] for i in range(1, 6)])
    np.testing.assert_array_equal(curves(right)[0], [[25, 0.25], [50, 0.5], [75, 0.375]])
    np.testing.assert_array_equal(curves(right)[1], [[50, 0.5]])  # the best
    assert [t.get_text() for t in right.texts] == ["0.500 at step 50"]


def test_a_spike_neither_flattens_nor_bends_the_curve(tmp_path):
    lines = [{"step": i, "loss": 1e6 if i == 50 else 10.0} for i in range(200)]
    left, _ = training_curves(write_log(tmp_path / "log.jsonl", *lines)).axes
    assert left.get_ylim()[1] < 20
    np.testing.assert_array_equal(curves(left)[1][:, 1], 10.0)


def test_half_a_log(tmp_path):
    figure = training_curves(write_log(tmp_path / "log.jsonl", {"step": 1, "loss": 2.0}))
    figure.savefig(tmp_path / "curves.png")
    assert [t.get_text() for t in figure.axes[1].texts] == ["not measured yet"]
    training_curves(write_log(tmp_path / "log.jsonl", {"step": 1, "ap": 0.0})).savefig(tmp_path / "curves.png")


def test_no_log(tmp_path):
    with pytest.raises(ValueError, match="neither a loss nor an AP"):
        training_curves(write_log(tmp_path / "log.jsonl", {"step": 3}))
