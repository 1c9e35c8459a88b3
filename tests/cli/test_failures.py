"""What a command says and ends with when something goes wrong; whole processes only where nothing less shows it."""

import errno
import os
import subprocess
import sys

import pytest

from dfine_jax.cli import detect
from dfine_jax.cli.failures import explained
from dfine_jax.cli.main import VERBS, main
from dfine_jax.errors import InputError


class JaxRuntimeError(RuntimeError):
    """Called as XLA's is."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.json: no list; give one"), 2, "a.json: no list; give one"),
        (InputError("two tensors:\n  a\n  b\x1b"), 2, "two tensors:\n  a\n  b\\x1b"),
        (InputError("one\nline \x1b[31m"), 2, "one\\nline \\x1b[31m"),
        (FileNotFoundError(2, "No such file or directory", "a\n.json"), 2, "a\\n.json: No such file or directory"),
        (PermissionError(13, "Permission denied", b"a\xff"), 2, "a\\xff: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device; make room and try again"),
        (OSError("strange"), 70, "OSError: strange (a fault of this program; --traceback shows where)"),
        (ValueError("a\nb"), 70, "ValueError: a b (a fault of this program; --traceback shows where)"),
        (KeyError("k"), 70, "KeyError: 'k' (a fault of this program; --traceback shows where)"),
        (AssertionError(), 70, "AssertionError: AssertionError (a fault of this program; --traceback shows where)"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "the package torch is needed and not installed",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, None),
    ],
)
def test_each_kind_of_error(error, code, line):
    assert explained(error, "detect") == (code, line)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore"),
    ],
)
def test_lack_of_memory(error):
    for verb, advice in (("detect", "lower --batch-size or --size"), ("train", "--workers"), ("data", "end other")):
        code, line = explained(error, verb)
        assert code == 2
        assert "\n" not in line
        assert line.startswith("not enough memory (")
        assert advice in line


def test_an_error_of_xla_that_is_none_of_memory_is_a_fault():
    assert explained(JaxRuntimeError("INTERNAL: no"), "detect")[0] == 70


def test_a_long_message_of_others_is_cut():
    assert len(explained(RuntimeError("x" * 10**6), "detect")[1]) < 700
    assert len(explained(InputError("x" * 10**6), "detect")[1]) == 4000


def test_a_fault_is_one_line_and_its_trace_is_shown_when_asked_for(monkeypatch, capsys):
    def broken(paths):
        raise ValueError("no such thing")

    monkeypatch.setattr(detect, "find_pictures", broken)
    assert main(["detect", "a.jpg", "--model", "shapes"]) == 70
    assert capsys.readouterr().err == (
        "dfine detect: ValueError: no such thing (a fault of this program; --traceback shows where)\n"
    )
    for arguments in (["--traceback", "detect", "a.jpg"], ["detect", "--traceback", "a.jpg"]):
        assert main(arguments) == 70
        error = capsys.readouterr().err
        assert "in broken" in error
        assert error.endswith("--traceback shows where)\n")


def test_after_two_hyphens_everything_is_a_name(capsys):
    assert main(["detect", "--", "--traceback"]) == 2
    assert capsys.readouterr().err == "dfine detect: --traceback: no such file or folder; check the spelling\n"


def test_misspelt_verbs(capsys):
    assert main(["Detekt"]) == 2
    assert capsys.readouterr().err == "dfine: no verb 'Detekt'; did you mean detect?\n"
    assert main(["\x1b[31m\udcff"]) == 2
    assert capsys.readouterr().err.startswith("dfine: no verb '\\x1b[31m\\udcff'; choose one of detect, ")


def test_version(capsys):
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "dfine_jax"
    assert version[0].isdigit()


def dfine(*arguments, stdout=subprocess.PIPE, **environment):
    """The whole process, with its own standard output."""
    command = [sys.executable, "-m", "dfine_jax.cli.main", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=variables, timeout=100)


@pytest.mark.parametrize("arguments", [["--help"], ["detect", "--help"]])
def test_nobody_reads_what_is_printed(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = dfine(*arguments, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_under_standard_output():
    with open("/dev/full", "wb") as full:
        done = dfine("--help", stdout=full)
    assert (done.returncode, done.stderr) == (2, b"dfine: No space left on device; make room and try again\n")


def test_a_terminal_that_knows_few_letters():
    """And no letter at all of one byte in the name."""
    done = dfine("detect", "décran\u202e.jpg", os.fsdecode(b"\xff.jpg"), PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2
    assert done.stderr == rb"dfine detect: d\xe9cran\u202e.jpg: no such file or folder; check the spelling" + b"\n"


def test_interrupted_while_modules_are_loaded(tmp_path):
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    done = dfine("detect", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (130, b"dfine detect: stopped\n")


@pytest.mark.parametrize("verb", VERBS)
def test_a_current_folder_that_was_removed_is_one_line(verb, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main([verb, "."]) == 2
    reason = os.strerror(errno.ENOENT)
    assert capsys.readouterr().err == (
        f"dfine {verb}: the current folder can't be found ({reason}): cd to one that is there\n"
    )
    assert main(["--version"]) == 0
