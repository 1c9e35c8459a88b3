"""The log: whatever a crash leaves of it is read, and it is JSON."""

import json

import pytest

from dfine_jax.evaluation.curves import training_curves
from dfine_jax.training.log import append_line, forget_after, read_log

WHOLE = [{"step": step, "loss": 10.0 / step} for step in range(1, 6)]


@pytest.fixture
def path(tmp_path):
    for line in WHOLE:
        append_line(tmp_path / "log.jsonl", line)
    return tmp_path / "log.jsonl"


DAMAGED = {
    "half a last line": lambda content: content[:-9],
    "half a line in the middle": lambda content: content.replace(b'2, "loss": 5.0}\n', b"2, "),
    "zeros at the end": lambda content: content + b"\0" * 4096,
    "zeros in a line": lambda content: content.replace(b'"loss": 5.0', b"\0" * 11),
    "no text": lambda content: content + b"\xff\xfe\x80\n",
    "a list": lambda content: content + b"[1, 2]\n",
    "no step": lambda content: content + b'{"loss": 1.0}\n',
    "a step that is none": lambda content: content + b'{"step": "six", "loss": 1.0}\n{"step": true}\n',
    "deep": lambda content: content + b"[" * 100_000 + b"\n",
    "empty lines": lambda content: b"\n\n" + content + b"\r\n\n",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_whole_is_read_and_kept(path, damage):
    path.write_bytes(DAMAGED[damage](path.read_bytes()))
    lines = read_log(path)
    assert len(lines) >= 3
    assert all(line in WHOLE for line in lines)
    training_curves(path)
    damaged = forget_after(path, 4)
    assert (damaged > 0) == (damage not in ("zeros at the end", "empty lines"))
    assert read_log(path) == [line for line in lines if line["step"] <= 4]
    append_line(path, {"step": 5, "loss": 3.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == read_log(path)
    assert read_log(path)[-1] == {"step": 5, "loss": 3.0}


def test_later_lines_are_cut(path):
    assert forget_after(path, 3) == 0
    assert read_log(path) == WHOLE[:3]
    assert [entry.name for entry in path.parent.iterdir()] == ["log.jsonl"]


def test_no_log_is_none_to_forget(tmp_path):
    assert forget_after(tmp_path / "log.jsonl", 3) == 0
    assert not (tmp_path / "log.jsonl").exists()


def strict(text: str) -> dict:
    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_none_are_null(path):
    append_line(path, {"step": 6, "loss": float("nan"), "terms": {"a": float("inf"), "b": [-float("inf"), 1.0]}})
    last = strict(path.read_text().splitlines()[-1])
    assert last == {"step": 6, "loss": None, "terms": {"a": None, "b": [None, 1.0]}}
    path.write_text(path.read_text() + '{"step": 7, "loss": NaN}\n')
    forget_after(path, 7)
    assert strict(path.read_text().splitlines()[-1]) == {"step": 7, "loss": None}
    left, _ = training_curves(path).axes
    assert left.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
