"""What ends a training early."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dfine_jax.training.stopping import NotFiniteError, SkippedBatches

BLOCKED = """
import ctypes, sys
from dfine_jax.training.stopping import stop_signals
def say(text):  # in one piece: two threads do
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
with stop_signals(say) as stop:
    say("ready")
    if sys.argv[1] == "long":
        for _ in range(9):  # native code, as XLA's, in which Python's own handlers of signals don't run
            ctypes.CDLL(None).sleep(30)
    say("stopped" if stop.wait(30) else "not stopped")
"""


def blocked(how: str) -> subprocess.Popen:
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-c", BLOCKED, how], **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_is_answered(number):
    process = blocked("once")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert sorted(out.splitlines()) == [
        "stopped",
        "stopping after this step, with a checkpoint; the same once more ends at once, without",
    ]
    assert (process.returncode, err) == (0, "")


def test_the_second_signal_ends_at_once_whatever_is_being_done():
    process = blocked("long")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().startswith("stopping after this step")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "dfine train: stopped at once\n")


def look(skipped: SkippedBatches, step: int, finite: bool, pictures: int = 2) -> None:
    indices = np.arange(pictures) + step * pictures
    skipped.look_at(step, SimpleNamespace(indices=indices), finite)


DATASET = SimpleNamespace(records=[SimpleNamespace(name=f"{number}.jpg") for number in range(100)])


def test_batches_in_a_row_count():
    skipped = SkippedBatches(DATASET, 3)
    for step, finite in enumerate([False, False, True, False, False, True]):
        look(skipped, step, finite)
    look(skipped, 6, False)
    look(skipped, 7, False)
    with pytest.raises(NotFiniteError) as told:
        look(skipped, 8, False)
    assert str(told.value) == (
        "the loss or its gradient was not finite in steps 6 to 8: lower the learning rate "
        "(--optimization.learning-rate, --optimization.backbone-learning-rate) and start again in another folder, or "
        "look at these pictures: 12.jpg, 13.jpg, 14.jpg, 15.jpg, 16.jpg, 17.jpg"
    )


def test_not_all_pictures_of_large_batches_are_named():
    with pytest.raises(NotFiniteError, match=r"7\.jpg and 42 more$"):
        look(SkippedBatches(DATASET, 1), 0, False, pictures=50)
