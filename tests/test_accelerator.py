"""The benchmark for a borrowed accelerator: whatever goes wrong, the report tells what was seen by then."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator.report import MEANS_NOTHING, Report, shown, table
from benchmarks.accelerator.scale import SMALLEST, Task
from benchmarks.accelerator.worker import PartError, rows_of

ROOT = Path(__file__).parents[1]
ABSENT = ("tyro", "tensorboardX", "faster_coco_eval", "matplotlib", "hypothesis", "pytest", "beartype")
"""Packages that a borrowed machine need not have. rich is not one of them: Flax imports it."""


def seen(part: str, tmp_path: Path, seconds: float = 60) -> tuple[list[dict], str]:
    """The rows of a part of ``accelerator_parts``, and how it ended badly."""
    task, rows = Task(SMALLEST, tmp_path, {"before": [{"ms": 7.0}]}), []
    try:
        for row in rows_of(f"accelerator_parts:{part}", task, seconds, GIVEN="so"):
            rows.append(row)
    except PartError as error:
        return rows, str(error)
    return rows, ""


def test_a_case_that_fails_is_a_row_and_the_next_is_measured(tmp_path):
    rows, error = seen("goes_well", tmp_path)
    assert not error
    assert rows[0] == {"given": 7.0, "variable": "so"}
    assert rows[1:] == [
        {"n": 1, "inverse": 1.0},
        {"n": 0, "failed": "ZeroDivisionError: division by zero"},
        {"n": 2, "inverse": 0.5},
    ]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("fails", "RuntimeError: out of memory"),
        ("crashes", "its process ended with 3"),
        ("not_there", "AttributeError: module 'accelerator_parts' has no attribute 'not_there'"),
    ],
)
def test_a_part_that_fails_is_one_line(part, said, tmp_path):
    rows, error = seen(part, tmp_path)
    assert error == said
    assert len(rows) == (part != "not_there")


def test_a_part_that_hangs_is_cut_short_and_its_rows_stay(tmp_path):
    rows, error = seen("hangs", tmp_path, seconds=3)
    assert error == "cut short after 3 s"
    assert len(rows) <= 1  # a busy machine may not come that far


def test_what_fails_does_not_stop_what_follows_and_every_row_is_written_at_once(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Report, "write", lambda self: written.append(json.dumps(self.parts)))

    def rows(where, task, seconds, **variables):
        yield {"size": "n", "ms": 1.5}
        if "bad" in where:
            raise PartError("its process ended with -11")

    monkeypatch.setattr(command, "rows_of", rows)
    monkeypatch.setattr(command, "PARTS", {name: command.Part(name, name, 1.0) for name in ("bad", "good", "late")})
    report = Report(tmp_path)
    for name, left in (("bad", 60), ("good", 60), ("late", 1)):
        command.run(name, report, Task(SMALLEST, tmp_path, report.rows()), left, 60)
    assert [part["state"] for part in report.parts] == ["its process ended with -11", "done", "left out: no time"]
    assert any('"running"' in text and "1.5" in text for text in written)  # before its part has ended


def test_the_report_says_what_was_measured_and_whether_it_means_anything(tmp_path):
    report = Report(tmp_path)
    report.about = {"meaningful": False, "device": "a CPU"}
    part = report.begin("speed", "How fast")
    part["rows"] += [{"size": "n", "ms": 12.345}, {"size": "l", "failed": "Error: a|b\nc"}]
    part["state"] = "cut short after 3 s"
    report.write()
    text = (tmp_path / "accelerator.md").read_text()
    assert MEANS_NOTHING in text
    assert "- device: a CPU" in text
    assert "**cut short after 3 s**" in text
    assert "| n | 12.3 |  |" in text
    assert "| l |  | Error: a\\|b c |" in text
    assert json.loads((tmp_path / "accelerator.json").read_text())["parts"][0]["rows"][0]["ms"] == 12.345
    report.about["meaningful"] = True
    assert MEANS_NOTHING not in report.markdown()


@pytest.mark.parametrize(
    ("value", "cell"),
    [(0.0, "0.00"), (1234.5, "1,234"), (0.1234, "0.123"), (2e-6, "2.0e-06"), (math.nan, "nan"), (None, ""), (3, "3")],
)
def test_numbers_have_three_digits_that_count(value, cell):
    assert shown(value) == cell
    assert table([{"x": value}]).splitlines()[-1] == f"| {cell} |"


def test_time_on_a_gpu_is_that_of_its_streams():
    from benchmarks.accelerator.kernels import kernel_milliseconds

    def event(name, nanoseconds, **stats):
        return SimpleNamespace(name=name, duration_ns=nanoseconds, stats=list(stats.items()))

    def line(name, *events):
        return SimpleNamespace(name=name, events=events)

    gemm = event("sm90_gemm", 2e6, hlo_op="gemm.1")
    planes = [
        SimpleNamespace(name="/host:CPU", lines=[line("python", event("wait", 9e9, hlo_op="x"))]),
        SimpleNamespace(
            name="/device:GPU:0",
            lines=[line("Stream #13(Compute)", gemm, gemm, event("copy", 1e6)), line("XLA Ops", event("gemm.1", 4e6))],
        ),
    ]
    assert kernel_milliseconds(SimpleNamespace(planes=planes)) == {
        ("sm90_gemm", "gemm.1"): (4, 2),
        ("copy", ""): (1, 1),
    }
    on_cpu = kernel_milliseconds(SimpleNamespace(planes=[SimpleNamespace(name="/host:CPU", lines=[line("t", gemm)])]))
    assert on_cpu == {("sm90_gemm", "gemm.1"): (2, 1)}


def test_parity_is_judged_by_the_queries_that_both_chose():
    from benchmarks.accelerator.parity import BOUNDS, compare

    rng = np.random.default_rng(0)
    selected = rng.permutation(1000)[:300]
    logits, boxes = rng.standard_normal((300, 80)), rng.random((300, 4))
    reference = {"selected": selected, "logits": logits, "boxes": boxes}
    order = rng.permutation(300)
    same = compare("float32", logits[order], boxes[order], selected[order], reference)
    assert same["within_bounds"] == "yes"
    assert same["logits"] == same["boxes"] == 0
    assert same["correlation"] == pytest.approx(1)

    apart = compare("float32", logits[order] + 1.1 * BOUNDS["float32"].logits, boxes[order], selected[order], reference)
    assert apart["within_bounds"] == "no"
    assert compare("tf32", logits + 1e-3, boxes, selected, reference)["within_bounds"] == "yes"
    other = selected.copy()
    other[0] = 1001
    found = compare("float32", logits, boxes, other, reference)
    assert (found["within_bounds"], found["same_queries"]) == ("no", 299 / 300)
    assert compare("bfloat16", logits, boxes, selected + 2000, reference)["within_bounds"] == "no"


@pytest.fixture
def without_absent(tmp_path) -> dict[str, str]:
    """Variables for a Python, and all that it starts, in which those packages can't be imported."""
    folder = tmp_path / "absent"
    folder.mkdir()
    for name in ABSENT:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name!r}', name={name!r})\n")
    return {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.mark.slow
def test_nothing_is_imported_that_a_borrowed_machine_may_lack(without_absent):
    modules = ("__main__", "device", "speed", "parity", "training", "detector", "kernels", "weights")
    # A training step imports what it needs when it is made.
    inside = "dfine_jax.training.recipe, dfine_jax.training.devices, dfine_jax.training.step, dfine_jax.data.batches"
    code = f"import {', '.join(f'benchmarks.accelerator.{name}' for name in modules)}, {inside}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=without_absent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(without_absent, tmp_path):
    line = [sys.executable, "-m", "benchmarks.accelerator", "--minutes", "20", "--output", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, env=without_absent, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "accelerator.json").read_text())
    assert report["about"]["meaningful"] is False
    assert MEANS_NOTHING in done.stdout
    there_is_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    for part in report["parts"]:
        if command.PARTS[part["name"]].is_torch and not there_is_torch:
            assert part["state"].startswith("ModuleNotFoundError: No module named"), part
        else:
            assert part["state"] == "done", part
            assert part["rows"], part
            # What PyTorch compiles with is no part of it.
            assert part["name"] == "torch-compile" or not any("failed" in row for row in part["rows"]), part
    rows = {part["name"]: part["rows"] for part in report["parts"]}
    assert [row["within_bounds"] for row in rows["parity"]] == ["yes"]
    assert [row.get("found_in_cache") for row in rows["again"]][-1] == "yes"
