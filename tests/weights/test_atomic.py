"""Folders that take their place in one step: killed in between, on a full disk, over links, sources and strangers."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfine_jax.pretrained import open_pretrained
from dfine_jax.weights import atomic
from dfine_jax.weights.atomic import check_target, new_folder, recover
from dfine_jax.weights.fill import CheckpointError


def model(path, text):
    """A folder that may be replaced, with ``text`` in it."""
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"format": "dfine-jax"}')
    (path / "README.md").write_text(text)
    return path


def text_of(path):
    return (path / "README.md").read_text()


def write(target, text, **options):
    with new_folder(target, **options) as folder:
        (folder / "config.json").write_text('{"format": "dfine-jax"}')
        (folder / "README.md").write_text(text)


def names(path):
    return sorted(entry.name for entry in path.iterdir())


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def either(request, monkeypatch):
    """With the system's exchange of names, and as without."""
    if not request.param:
        monkeypatch.setattr(atomic, "_exchanged", lambda one, other: False)


@pytest.mark.usefixtures("either")
def test_an_older_one_gives_way(tmp_path):
    write(model(tmp_path / "out", "old"), "new", replace=True)
    assert text_of(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("error", [OSError("no more"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_the_older_one(tmp_path, error):
    target = model(tmp_path / "out", "old")
    with pytest.raises(type(error)), new_folder(target, replace=True):
        raise error
    assert text_of(target) == "old"
    assert names(tmp_path) == ["out"]


def test_the_exchange_is_one_step_where_the_system_has_it(tmp_path):
    one, other = model(tmp_path / "one", "1"), model(tmp_path / "other", "2")
    if not atomic._exchanged(one, other):
        pytest.skip("this file system has no exchange of names")
    assert (text_of(one), text_of(other)) == ("2", "1")


def test_an_exchange_that_fails_for_another_reason_says_so(tmp_path):
    if not atomic._exchanged(model(tmp_path / "one", "1"), model(tmp_path / "other", "2")):
        pytest.skip("this file system has no exchange of names")
    with pytest.raises(FileNotFoundError):
        atomic._exchanged(tmp_path / "one", tmp_path / "nothing")


def test_a_folder_that_can_not_take_its_name_gives_the_old_one_back(tmp_path, monkeypatch):
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError("no more")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "rename", second_fails)
    target = model(tmp_path / "out", "old")
    with pytest.raises(OSError, match="no more"):
        write(target, "new", replace=True)
    assert text_of(target) == "old"
    assert names(tmp_path) == ["out"]


KILLED = """
import os, pathlib, shutil, signal
from dfine_jax.weights import atomic

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

target = pathlib.Path({target!r})
{before}
with atomic.new_folder(target, replace=True) as folder:
    (folder / "config.json").write_text('{{"format": "dfine-jax"}}')
    (folder / "README.md").write_text("new")
    {inside}
"""
FALLBACK = "atomic._exchanged = lambda one, other: False\n"
SECOND_RENAME = """
rename, calls = os.rename, []
def second(*names):
    calls.append(names)
    die() if len(calls) == 2 else rename(*names)
os.rename = second
"""


def killed(target, before="", inside=""):
    """Writes the folder in a process of its own, which is killed on the way."""
    code = KILLED.format(target=str(target), before=before, inside=inside)
    finished = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert finished.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("before", "inside", "left"),
    [
        ("", "die()", "old"),
        (FALLBACK + "os.rename = die", "", "old"),
        (FALLBACK + SECOND_RENAME, "", "new"),
        ("shutil.rmtree = die", "", "new"),
        (FALLBACK + "shutil.rmtree = die", "", "new"),
    ],
    ids=["writing", "before the first rename", "between the renames", "after", "after the renames"],
)
def test_after_a_kill_there_is_one_of_the_two_and_the_next_write_clears_up(tmp_path, before, inside, left):
    target = model(tmp_path / "out", "old")
    killed(target, before, inside)
    assert any(name.startswith(".out.") for name in names(tmp_path))
    recover(target)
    assert text_of(target) == left
    write(target, "newer", replace=True)
    assert text_of(target) == "newer"
    assert names(tmp_path) == ["out"]


def test_a_first_write_that_is_killed_leaves_nothing_by_that_name(tmp_path):
    killed(tmp_path / "out", inside="die()")
    recover(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


def test_a_model_is_found_after_a_kill_between_the_renames(tmp_path):
    killed(model(tmp_path / "out", "old"), FALLBACK + SECOND_RENAME)
    assert "out" not in names(tmp_path)
    with pytest.raises(CheckpointError, match=r"out: format version None"):
        open_pretrained(tmp_path / "out")
    assert text_of(tmp_path / "out") == "new"


def left_over(parent, process, *, host=None, role="new", age=0.0, name="out"):
    path = model(parent / f".{name}.{host or atomic._host()}.{process}.0123abcd.{role}", "half")
    os.utime(path, (time.time() - age,) * 2)
    return path


GONE = 2**22 + 1
"""No process has this number."""


def test_only_what_is_surely_dead_is_swept(tmp_path):
    dead = [left_over(tmp_path, GONE), left_over(tmp_path, 1, host="0" * 8, age=2 * atomic.OLD)]
    dead += [left_over(tmp_path, os.getpid(), role="old"), left_over(tmp_path, os.getppid(), age=2 * atomic.OLD)]
    alive = [left_over(tmp_path, os.getppid(), role="old"), left_over(tmp_path, GONE, host="0" * 7 + "1")]
    others = [model(tmp_path / ".out.new", ""), left_over(tmp_path, GONE, name="outer"), tmp_path / ".out.txt"]
    others[-1].touch()
    link = tmp_path / f".out.{atomic._host()}.{GONE}.89abcdef.old"
    link.symlink_to(others[0])
    write(model(tmp_path / "out", "old"), "new", replace=True)
    assert [path.exists() for path in dead] == [False] * 4
    assert all(path.exists() for path in (*alive, *others, link))


def test_two_at_a_time_in_one_process_leave_each_other_alone(tmp_path):
    target = model(tmp_path / "out", "old")
    with new_folder(target, replace=True) as first:
        (first / "config.json").write_text('{"format": "dfine-jax"}')
        (first / "README.md").write_text("first")
        write(target, "second", replace=True)
        assert text_of(target) == "second"
        assert text_of(first) == "first"
    assert text_of(target) == "first"
    assert names(tmp_path) == ["out"]


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path):
    model(tmp_path / "models" / "v1", "old")
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "models" / "v1")
    with pytest.raises(CheckpointError, match=r"latest exists"):
        write(link, "new")
    write(link, "new", replace=True)
    assert link.is_symlink()
    assert text_of(tmp_path / "models" / "v1") == "new"
    assert names(tmp_path) == ["latest", "models"]
    assert names(tmp_path / "models") == ["v1"]


def test_a_link_to_nothing_is_filled_where_it_leads(tmp_path):
    (tmp_path / "latest").symlink_to(tmp_path / "v1")
    write(tmp_path / "latest", "new", replace=True)
    assert text_of(tmp_path / "v1") == "new"


@pytest.mark.parametrize("source", ["out", "out/weights.pth", "out/inner/model", "linked", "blobs"])
def test_a_source_is_not_replaced(tmp_path, source):
    target = model(tmp_path / "out", "old")
    model(target / "inner" / "model", "")
    (target / "weights.pth").touch()
    (tmp_path / "linked").symlink_to(target)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "model.safetensors").symlink_to(target / "weights.pth")
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(target))} is or holds .*{source}, which is read from"):
        check_target(target, replace=True, source=tmp_path / source)
    shutil.rmtree(target / "inner")
    (target / "weights.pth").unlink()
    check_target(target, replace=True, source=target / "a name on the Hub")
    check_target(target, replace=True, source=tmp_path / "elsewhere")
    check_target(tmp_path / "out" / "jax", replace=True, source=target)


def test_what_is_no_models_folder_is_not_replaced(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "thesis").mkdir()
    for name in ("file", "thesis"):
        with pytest.raises(CheckpointError, match="is not a model's folder"):
            check_target(tmp_path / name, replace=True)


@pytest.mark.parametrize("config", ['{"format": "dfine-jax"}', '{"model_type": "d_fine"}'])
@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([".git/", "thesis.txt"], r"\(\.git, thesis\.txt\)"),
        (["c", "b", "a", "e", "d"], r"\(a, b, c, \.\.\.\)"),
        (["README.md/"], r"\(README\.md\)"),
        (["weights/mine.txt", "weights/d/"], r"\(weights/mine\.txt\)"),
        (["weights/d/thesis.txt"], r"\(weights/d/thesis\.txt\)"),
        (["weights/d/0123456789abcdef0123456789abcdef/"], r"\(weights/d/0123456789abcdef0123456789abcdef\)"),
        (["weights/ocdbt.process_0/.git/config"], r"\(weights/ocdbt\.process_0/\.git\)"),
        (["weights"], r"\(weights\)"),
        (["data/model.safetensors"], r"\(data\)"),
        (["model.py"], r"\(model\.py\)"),
        (["checkpoints/"], r"\(checkpoints\)"),
        (["optimizer.pt", "model.safetensors"], r"\(optimizer\.pt\)"),
    ],
)
def test_what_lies_beside_a_model_is_not_deleted_with_it(tmp_path, config, entries, named):
    fill(tmp_path / "out", config, entries)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=rf"out holds what is no part of a model {named}, it won't be replaced:"):
        write(tmp_path / "out", "new", replace=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_all_that_models_folders_hold_gives_way(tmp_path):
    files = ["preprocessor_config.json", "thresholds.json", "calibration.json", "README.md", ".gitattributes"]
    files += ["SHA256SUMS"]
    parts = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "model.fp16.safetensors"]
    array = f"d/{'0123456789abcdef' * 2}"
    of_weights = ["_METADATA", "manifest.ocdbt", array, f"ocdbt.process_0/{array}", "d/.DS_Store"]
    weights = [f"weights/{name}" for name in of_weights]
    fill(tmp_path / "out", '{"model_type": "d_fine"}', [*files, *parts, "pytorch_model.bin", *weights])
    write(tmp_path / "out", "new", replace=True)
    assert names(tmp_path / "out") == ["README.md", "config.json"]


@pytest.mark.parametrize("config", ["{}", '{"model_type": "vit"}', '{"name": "my project"}', "", "[1]", '{"format'])
def test_a_config_of_something_else_is_no_models(tmp_path, config):
    fill(tmp_path / "out", config, [])
    with pytest.raises(CheckpointError, match=r"it won't be replaced$"):
        write(tmp_path / "out", "new", replace=True)
    assert (tmp_path / "out" / "config.json").read_text() == config


def fill(folder, config, entries):
    """A folder with a configuration and empty files, or folders where a name ends with a slash."""
    folder.mkdir()
    (folder / "config.json").write_text(config)
    for entry in entries:
        path = folder / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if entry.endswith("/") else path.touch()


def test_a_place_that_can_not_be_written_to_is_known_before(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"out/deep can't be made: .*file is no folder"):
        check_target(tmp_path / "file" / "out" / "deep", replace=False)
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests
    with pytest.raises(CheckpointError, match=r"can't be made: .* can't be written to"):
        check_target(tmp_path / "new" / "out", replace=False)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no room for it on the disk"),
        (errno.EDQUOT, "no room"),
        (errno.EROFS, "can't be written: Read-only"),
    ],
)
def test_what_the_disk_says_is_one_line(tmp_path, code, words):
    with pytest.raises(CheckpointError, match=words) as caught, new_folder(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
