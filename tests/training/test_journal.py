"""What is said while a training runs: its speed and the time left are those of steps, its terms have their names."""

import io
import json

import pytest
from rich.console import Console

from dfine_jax.training import journal as module
from dfine_jax.training.journal import Journal


@pytest.fixture
def said(tmp_path, monkeypatch) -> tuple[list[str], list[dict]]:
    """Of 20 steps of 8 pictures, a second each, of which the first takes a minute to compile; and lines of the log."""
    seconds = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds)
    screen, path = io.StringIO(), tmp_path / "log.jsonl"
    console = Console(file=screen, width=200)
    with Journal(path, 100, every=10, first_step=0, console=console, writes=True) as journal:
        for step in range(1, 21):
            seconds += 60.0 if step == 1 else 1.0
            journal.step(step, 1, 8, {"loss": 3.0, "gradient_norm": 1.0, "terms": terms(step)})
    return screen.getvalue().splitlines(), [json.loads(line) for line in path.read_text().splitlines()]


def terms(step: int) -> dict[str, float]:
    """Of one training that learns classes by MAL."""
    return {"loss_mal": 1.0 * step, "loss_mal_aux_0": 0.5, "loss_bbox": 1.5}


def test_compiling_counts_neither_for_the_speed_nor_for_the_time_that_is_left(said):
    lines, log = said
    assert [line["pictures_per_second"] for line in log] == [8.0, 8.0]
    assert "8.0 pictures/s, 2 min left" in lines[0]


def test_terms_have_the_names_of_their_losses(said):
    lines, log = said
    assert "loss 3.00 (mal 6.00 bbox 1.50)" in lines[0]
    assert log[0]["terms"] == {"loss_mal": 5.5, "loss_mal_aux_0": 0.5, "loss_bbox": 1.5}


@pytest.mark.parametrize(("step", "falls"), [(8, "fall after step 15"), (15, "are falling"), (17, "are falling")])
def test_learning_rates_fall_from_a_step_to_come_or_do_so_already(tmp_path, step, falls):
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    with Journal(tmp_path / "log.jsonl", 100, every=10, first_step=0, console=console, writes=True) as journal:
        journal.lay(step, 30, falls_after=15)
    assert f"30 steps in all, by the time that those so far took; learning rates {falls}\n" in screen.getvalue()
