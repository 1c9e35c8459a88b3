"""What a stream has the device and the host do at the same time."""

import numpy as np
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.inference.detector import Detector
from dfine_jax.inference.postprocess import TopDetections
from dfine_jax.preprocessing import Preprocessing


class OnDevice:
    """An array that tells what is asked of it."""

    def __init__(self, values: np.ndarray, events: list[str], batch: int):
        self.values, self.events, self.batch = values, events, batch

    def copy_to_host_async(self) -> None:
        self.events.append(f"copy {self.batch}")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self.events.append(f"wait {self.batch}")
        return self.values


def test_results_are_on_their_way_before_anybody_waits_for_them(monkeypatch):
    events: list[str] = []
    shapes = {"scores": (1, 3), "labels": (1, 3), "boxes": (1, 3, 4)}

    def run(self, images, sizes):
        batch = sum(event.startswith("run") for event in events)
        events.append(f"run {batch}")
        return TopDetections(**{name: OnDevice(np.zeros(shape), events, batch) for name, shape in shapes.items()})

    monkeypatch.setattr(Detector, "run", run)
    detector = Detector(tiny_model(), Preprocessing(HEIGHT, WIDTH))
    assert len(list(detector.stream([np.zeros((8, 8, 3), np.uint8)] * 3))) == 3
    started = [f"{what} {batch}" for batch in (0, 1) for what in ("run", "copy", "copy", "copy")]
    assert events[:8] == started  # the first is waited for when the second computes
    assert events[8:11] == ["wait 0"] * 3
