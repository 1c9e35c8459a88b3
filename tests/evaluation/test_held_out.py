import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_data import CLASS_NAMES, dataset, record

from dfine_jax.evaluation.held_out import HeldOut

SIZE = 32


def grey(level, box, label, **options):
    """A picture of one level of grey with one box."""
    shown = record([box], [label], **options)
    shown.picture[:] = level
    return shown


class Applied:
    """A stand-in for a model: one query a class, each on the box `params` has for the picture's level of grey."""

    def __init__(self):
        self.traced = 0

    def __call__(self, params, batch_stats, images, denoising=None, train=False):
        self.traced += 1
        assert images.shape[1:] == (SIZE, SIZE, 3)
        level = jnp.round(images.mean(axis=(1, 2, 3)) * 255).astype(jnp.int32)
        boxes = jnp.repeat(params["boxes"][level][:, None], 2, axis=1)
        logits = jnp.stack([params["logits"][level], batch_stats["logits"][level]], axis=1)
        return SimpleNamespace(logits=logits, boxes=boxes)


def values(boxes, logits):
    params = {"boxes": jnp.zeros((256, 4)), "logits": jnp.full((256, 4), -9.0)}
    for level, (box, label) in boxes.items():
        params["boxes"] = params["boxes"].at[level].set(jnp.array(box))
        params["logits"] = params["logits"].at[level, label].set(logits)
    return params, {"logits": jnp.full((256, 4), -10.0)}


DATA = dataset(
    grey(50, (20, 10, 60, 90), 0, width=200, height=100),
    grey(90, (0, 0, 40, 40), 2, width=80, height=80),
    grey(200, (30, 20, 60, 40), 1, width=60, height=40),
)
RIGHT = {50: ((0.2, 0.5, 0.2, 0.8), 0), 90: ((0.25, 0.25, 0.5, 0.5), 2), 200: ((0.75, 0.75, 0.5, 0.5), 1)}


def test_values_are_evaluated_again_without_compiling():
    apply = Applied()
    held_out = HeldOut(apply, CLASS_NAMES, DATA, size=SIZE, batch_size=2, workers=0)
    assert held_out(*values(RIGHT, 3.0)).ap == pytest.approx(1.0)
    traced = apply.traced
    elsewhere = {**RIGHT, 50: ((0.8, 0.8, 0.1, 0.1), 0)}
    result = held_out(*values(elsewhere, 3.0))
    assert result.ap == pytest.approx(2 / 3)  # of three classes with boxes
    assert result.classes[0].ap == 0.0
    assert apply.traced == traced > 0


def test_predictions_are_in_pixels_of_each_picture_and_in_order():
    held_out = HeldOut(Applied(), CLASS_NAMES, DATA, size=SIZE, batch_size=2, workers=0)
    predicted = held_out.predict(*values(RIGHT, 0.0))
    assert [p.picture for p in predicted] == [0, 1, 2]  # the last batch's second row is no picture
    for p, r in zip(predicted, DATA.records, strict=True):
        np.testing.assert_allclose(p.boxes[0], r.boxes[0], atol=1e-3)
        assert p.scores[0] == pytest.approx(0.5)
        assert p.labels[0] == r.labels[0]


def test_labels_of_the_model_become_those_of_the_data_set():
    reordered = HeldOut(Applied(), CLASS_NAMES[::-1], DATA, size=SIZE, batch_size=3, workers=0)
    assert reordered(*values(RIGHT, 3.0)).ap == 0.0
    backwards = {level: (box, 3 - label) for level, (box, label) in RIGHT.items()}
    assert reordered(*values(backwards, 3.0)).ap == pytest.approx(1.0)


def test_pictures_that_can_not_be_read_are_named_and_left_out(tmp_path):
    lost = replace(DATA.records[1], picture=tmp_path / "lost.png")
    held_out = HeldOut(
        Applied(), CLASS_NAMES, dataset(DATA.records[0], lost, DATA.records[2]), size=SIZE, batch_size=2, workers=0
    )
    result = held_out(*values(RIGHT, 3.0))
    assert [p.picture for p in result.predicted] == [0, 2]
    assert result.ap == pytest.approx(1.0)
    assert [problem.file.name for problem in held_out.problems] == ["lost.png"]


def test_no_class_in_common():
    with pytest.raises(ValueError, match="no class in common"):
        HeldOut(Applied(), ("car",), DATA, size=SIZE, batch_size=2)


def together(processes, devices):
    """What each of several processes, with so many devices each, prints of the same evaluations."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(here.parents[1]),
    }
    running = [
        subprocess.Popen(
            [sys.executable, here / "evaluate_together.py", str(rank), str(processes), str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    return [[line for line in output.splitlines() if line.startswith("evaluated")] for output in outputs]


@pytest.mark.slow
def test_devices_and_processes_share_the_work_and_agree():
    (alone,) = together(1, 1)
    assert len(alone) == 2
    assert "AP 1.0 of pictures [0, 1, 2]" in alone[0]
    assert "AP 0.666667" in alone[1]
    assert together(1, 4) == [alone]
    assert together(2, 2) == [alone, alone]
