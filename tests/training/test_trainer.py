"""The training loop: it learns, stops and goes on exactly, and says what is wrong."""

import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import run_tiny
from rich.console import Console
from run_tiny import CONFIG, OPTIONS, RECIPE, STEPS, begin, digest, losses, pictures
from tensorboardX.proto.event_pb2 import Event

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.data.samples import DataError
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training import trainer
from dfine_jax.training.errors import TrainingError
from dfine_jax.training.journal import Journal
from dfine_jax.training.memory import OutOfMemoryError
from dfine_jax.training.optimizer import Optimization
from dfine_jax.training.saved_model import ModelFolder
from dfine_jax.training.trainer import train

PROGRAM = [sys.executable, run_tiny.__file__]


class Saved:
    """Keeps what is written, instead of a folder."""

    def __init__(self):
        self.written = []

    def write(self, *model):
        self.written.append(model)

    def holds(self, *model) -> bool:
        return False

    def step(self) -> int | None:
        return self.written[-1][-1] if self.written else None


class Whole(NamedTuple):
    """A training that nothing disturbed."""

    output: Path
    digest: str
    saved: list[tuple]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    output, saved = tmp_path_factory.mktemp("whole"), Saved()
    trained = train(begin(), pictures(), RECIPE, OPTIONS, output=output, save=saved)
    assert trained.finished
    assert trained.standing.step == STEPS
    return Whole(output, digest(trained), saved.written)


def test_the_loss_falls(whole):
    values = losses(whole.output)
    assert len(values) == STEPS
    assert np.mean(values[-3:]) < 0.9 * np.mean(values[:3])


def test_the_log_holds_all_terms_and_adds_up(whole):
    lines = [json.loads(line) for line in (whole.output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["epoch"] for line in lines] == sorted([1, 2, 3, 4] * 3)
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
        assert line["pictures_per_second"] > 0
        assert line["gradient_norm"] > 0


def events(output: Path) -> list[Event]:
    """What TensorBoard reads, in its order."""
    found = []
    for path in sorted((output / "tensorboard").iterdir()):
        rest = path.read_bytes()
        while rest:  # records: length, its checksum, content, its checksum
            end = 12 + int.from_bytes(rest[:8], "little")
            found.append(Event.FromString(rest[12:end]))
            rest = rest[end + 4 :]
    return found


def test_tensorboard_holds_what_the_log_holds(whole):
    found = {}
    for event in events(whole.output):
        found.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
    for line in map(json.loads, (whole.output / "log.jsonl").open()):
        assert found["loss", line["step"]] == pytest.approx(line["loss"])
        assert found["loss_vfl", line["step"]] == pytest.approx(line["terms"]["loss_vfl"])


def test_the_average_is_saved_once_without_evaluations(whole):
    ((config, params, batch_stats, step),) = whole.saved
    start = begin()
    assert config == CONFIG
    assert step == STEPS
    assert {name: value.shape for name, value in params.items()} == {n: v.shape for n, v in start.params.items()}
    assert batch_stats.keys() == start.batch_stats.keys()
    assert any(np.any(params[name] != start.params[name]) for name in params)
    assert float(batch_stats["decoder.reg_scale"][0]) == 4.0


def test_only_the_last_checkpoints_stay(whole):
    steps = sorted(int(path.name) for path in (whole.output / "checkpoints").iterdir() if path.name.isdigit())
    assert steps == [10, 12]


class PowerCut(BaseException):
    """Not an error that anything handles."""


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_had_happened(whole, tmp_path, monkeypatch):
    step = Journal.step

    def cut_at_five(self, number, *arguments):
        step(self, number, *arguments)
        if number == 5:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", cut_at_five)
        with pytest.raises(PowerCut):
            train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path)
    trained = train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path, resume=True)
    assert digest(trained) == whole.digest
    assert losses(tmp_path) == losses(whole.output)
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [1, 5]  # from where TensorBoard forgets what it read before
    assert not (tmp_path / "training.lock").exists()


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_named_and_the_one_before_taken(whole, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(whole.output, output)
    path = output / "checkpoints/12/state.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with (output / "log.jsonl").open("a") as log:
        log.write('{"step": 12, "lo')
    console = Console(file=io.StringIO(), width=300)
    trained = train(begin(), pictures(), RECIPE, OPTIONS, output=output, resume=True, console=console)
    told = console.file.getvalue().splitlines()
    assert (
        f"{path.parent} is damaged (state.npz is not what was written: its checksum in SHA256SUMS is another): "
        in "\n".join(told)
    )
    assert any(line.endswith("): going on from step 10") for line in told)
    assert f"{output / 'log.jsonl'}: left out 1 line(s) that a crash has damaged" in told
    assert digest(trained) == whole.digest
    assert losses(output) == losses(whole.output)
    kept = sorted(int(path.name) for path in (output / "checkpoints").iterdir())
    assert kept == [10, 12]


def model_folder(output: Path) -> ModelFolder:
    return ModelFolder(output / "model", Preprocessing(64, 64), "dfine train on shapes")


@pytest.mark.slow
def test_a_model_that_a_kill_kept_from_being_written_is_there_in_the_end(whole, tmp_path):
    class Cut(Saved):
        def write(self, *model):
            raise PowerCut

    with pytest.raises(PowerCut):
        train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path / "run", save=Cut())
    assert (tmp_path / "run/checkpoints/12").is_dir()
    model = model_folder(tmp_path / "run")
    trained = train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path / "run", save=model, resume=True)
    assert trained.finished
    assert model.holds(trained.config, trained.params, trained.batch_stats)
    shutil.rmtree(model.path)  # once more, of a training that has ended
    train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path / "run", save=model, resume=True)
    assert model.step() == STEPS
    assert model.holds(trained.config, trained.params, trained.batch_stats)


@pytest.mark.slow
def test_an_output_folder_that_is_removed_ends_with_one_line(tmp_path, monkeypatch):
    output = tmp_path / "run"

    def remove_at_five(self, number, *arguments, step=Journal.step):
        step(self, number, *arguments)
        if number == 5:
            shutil.rmtree(output)

    monkeypatch.setattr(Journal, "step", remove_at_five)
    with pytest.raises(TrainingError) as removed:
        train(begin(), pictures(), RECIPE, OPTIONS, output=output)
    assert str(removed.value) == (
        f"can't write to {output}: it was removed or replaced while training; there is no checkpoint yet"
    )
    assert not output.exists()


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_jax.training.memory.host_memory", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match=r"1000 bytes are free on this machine; lower the batch size \(now 4\)"):
        train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_a_cpu_that_is_faster_in_float32_takes_and_says_it(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_jax.training.devices.multiplies_tiles_of_bfloat16", lambda: False)
    console, options = Console(file=io.StringIO(), width=200), replace(OPTIONS, dtype="bfloat16")
    trained = train(begin(), pictures(), RECIPE, options, output=tmp_path / "run", console=console)
    assert digest(trained) == whole.digest
    assert "isn't fastest at bfloat16: products are float32" in console.file.getvalue()


@pytest.mark.slow
def test_a_full_disk_ends_with_one_line_and_loses_no_checkpoint(whole, tmp_path, monkeypatch):
    step, (_, most) = Journal.step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_at_five(self, number, *arguments):
        step(self, number, *arguments)
        if number == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, most))  # no file may grow beyond

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "step", fill_at_five)
            with pytest.raises(
                TrainingError, match=r"can't write a checkpoint to .*; the checkpoint of step 4 is whole"
            ) as full:
                train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert "\n" not in str(full.value)
    trained = train(begin(), pictures(), RECIPE, OPTIONS, output=tmp_path, resume=True)
    assert digest(trained) == whole.digest


def test_a_folder_with_a_training_is_not_begun_again(whole):
    with pytest.raises(TrainingError, match="holds a training already: go on with it"):
        train(begin(), pictures(), RECIPE, OPTIONS, output=whole.output)


class Figures(NamedTuple):
    ap: float


class Evaluation(NamedTuple):
    figures: Figures


@pytest.mark.slow
def test_it_stops_when_nothing_gets_better_and_keeps_the_best(tmp_path):
    aps, seen, saved = iter([0.1, 0.5, 0.4, 0.3]), [], Saved()

    def evaluate(params, batch_stats):
        assert params.keys() == begin().params.keys()
        return Evaluation(Figures(next(aps)))

    trained = train(
        begin(),
        pictures(),
        replace(RECIPE, epochs=9),
        replace(OPTIONS, patience=2, keep=1, checkpoint_every=100),
        output=tmp_path,
        make_evaluate=lambda apply, devices: evaluate,
        on_evaluation=lambda step, evaluation: seen.append((step, evaluation.figures.ap)),
        save=saved,
    )
    assert seen == [(3, 0.1), (6, 0.5), (9, 0.4), (12, 0.3)]
    assert trained.standing == (12, 0.5, 6, 2)
    assert [step for *_, step in saved.written] == [3, 6]
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert kept == [6, 12]
    assert [json.loads(line)["ap"] for line in (tmp_path / "log.jsonl").open() if '"ap"' in line] == [
        0.1,
        0.5,
        0.4,
        0.3,
    ]


@pytest.mark.slow
def test_batches_that_give_no_finite_loss_are_named(tmp_path):
    start = begin()
    broken = {**start.params, "decoder.pre_box.layers.0.bias": np.full(16, np.nan, np.float32)}
    with pytest.raises(TrainingError, match=r"not finite in steps 1 to 2: .* drawn picture \d+, drawn picture \d+"):
        train(start._replace(params=broken), pictures(), RECIPE, replace(OPTIONS, most_skipped=2), output=tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]  # what was learned before


@pytest.mark.slow
def test_a_stop_signal_ends_after_the_step(tmp_path, monkeypatch):
    step = Journal.step

    def ask_at_three(self, number, *arguments):
        step(self, number, *arguments)
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", ask_at_three)
        stopped = train(begin(), pictures(), RECIPE, replace(OPTIONS, checkpoint_every=100), output=tmp_path)
    assert not stopped.finished
    assert 3 <= stopped.standing.step < STEPS
    kept = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert stopped.standing.step in kept


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="12 pictures don't fill a batch of 16"):
        train(begin(), pictures(), replace(RECIPE, batch_size=16), OPTIONS, output=tmp_path)


def test_more_queries_than_cells_are_refused(tmp_path):
    start = begin()
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, queries=81))
    with pytest.raises(ValueError, match="the maps have 80 cells, too few for 81 queries"):
        train(start._replace(config=config), pictures(), RECIPE, OPTIONS, output=tmp_path)


def test_frozen_norms_reach_the_model():
    recipe = replace(RECIPE, optimization=Optimization(freeze_backbone_norms=True))
    assert trainer.model_config(CONFIG, recipe).backbone.frozen_norms
    assert not trainer.model_config(CONFIG, RECIPE).backbone.frozen_norms


def run(output: Path, *options: str, devices: int = 1) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir  # one program for all of them
    tests = Path(__file__).parents[1]
    folders = [str(tests / "support"), str(tests.parent)]
    environment["PYTHONPATH"] = os.pathsep.join([*folders, environment.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*PROGRAM, str(output), *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


# AdamW's first steps turn the rounding of gradients that are almost zero into differences of parameters. After three
# steps they are large enough for other cells to be chosen as queries, and from then on losses go their own ways.
ALIKE = 3


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """What a process on one device ends with, undisturbed."""
    ended = result(run(tmp_path_factory.mktemp("alone") / "run"))
    assert len(ended["losses"]) == STEPS
    return ended


@pytest.mark.slow
def test_more_devices_give_the_same_losses(alone, tmp_path):
    two, four = (result(run(tmp_path / str(n), devices=n))["losses"] for n in (2, 4))
    np.testing.assert_allclose(two[:ALIKE], alone["losses"][:ALIKE], rtol=2e-6)
    np.testing.assert_allclose(four[:ALIKE], alone["losses"][:ALIKE], rtol=2e-6)


@pytest.mark.slow
def test_two_processes_give_the_same_losses(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    both = [run(tmp_path / "two", "--processes", "2", "--process", str(i), "--port", port, devices=1) for i in range(2)]
    first, second = map(result, both)
    assert first["digest"] == second["digest"]
    np.testing.assert_allclose(first["losses"][:ALIKE], alone["losses"][:ALIKE], rtol=2e-6)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_bit_equal(alone, tmp_path):
    chance = random.Random(0)
    output = tmp_path / "killed"
    for _ in range(4):
        process = run(output, "--workers", "1")
        log = output / "log.jsonl"
        before = log.read_text() if log.exists() else ""
        while process.poll() is None and (log.read_text() if log.exists() else "") == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))  # saves take about half a second
        process.kill()
        process.communicate()
    assert result(run(output)) == alone
