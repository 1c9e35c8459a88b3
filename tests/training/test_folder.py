"""The folder of a training: one training's at a time, and what can't be written is one line."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dfine_jax.training import folder
from dfine_jax.training.errors import TrainingError, WriteError
from dfine_jax.training.folder import claimed, require_ours, writing

HOLDER = """
import sys, time
from pathlib import Path
from dfine_jax.training.folder import claimed
with claimed(Path(sys.argv[1]), resume=True):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / "out"."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_training_is_refused_and_the_first_one_named(holder, tmp_path):
    for resume in (True, False):
        with pytest.raises(TrainingError) as refused, claimed(tmp_path / "out", resume=resume):
            pass
        assert f"out is in use by another training (process {holder.pid} on " in str(refused.value)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out")
    with pytest.raises(TrainingError, match="in use"), claimed(link, resume=True):
        pass


def test_the_lock_of_a_killed_process_is_none(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "out/training.lock").read_text().startswith(f"process {holder.pid} on ")
    with claimed(tmp_path / "out", resume=True):
        assert (tmp_path / "out/training.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "out/training.lock").exists()


def no_locks(monkeypatch):
    """As on file systems that know none."""

    class Without:
        LOCK_EX = LOCK_NB = 0

        def flock(self, *_):
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder, "fcntl", Without())


def test_without_locks_the_named_process_counts(holder, tmp_path, monkeypatch):
    no_locks(monkeypatch)
    with pytest.raises(TrainingError, match=f"process {holder.pid} on "), claimed(tmp_path / "out", resume=True):
        pass
    holder.kill()
    holder.wait()
    with claimed(tmp_path / "out", resume=True):
        pass


@pytest.mark.parametrize("left", ["", "\0\0\0\0", "process", "process many on nowhere"])
def test_without_locks_a_damaged_file_blocks_nothing(tmp_path, monkeypatch, left):
    no_locks(monkeypatch)
    (tmp_path / "training.lock").write_text(left)
    with claimed(tmp_path, resume=True):
        pass


def test_without_locks_another_machines_training_counts_as_running(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    (tmp_path / "training.lock").write_text("process 1 on elsewhere\n")
    with pytest.raises(TrainingError, match="process 1 on elsewhere"), claimed(tmp_path, resume=True):
        pass


def test_the_holder_may_claim_again_and_another_thread_may_not(tmp_path):
    refused = []

    def other():
        try:
            with claimed(tmp_path, resume=True):
                pass
        except TrainingError as error:
            refused.append(str(error))

    with claimed(tmp_path, resume=True):
        with claimed(tmp_path, resume=True):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        require_ours(tmp_path)
    assert len(refused) == 1
    assert f"process {os.getpid()} on " in refused[0]


def test_a_training_that_is_there_must_be_gone_on_with(tmp_path):
    (tmp_path / "checkpoints/12").mkdir(parents=True)
    with pytest.raises(TrainingError, match="holds a training already: go on with it"), claimed(tmp_path, resume=False):
        pass
    with claimed(tmp_path, resume=True):
        pass


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    inside = tmp_path / "out" / "in"
    with pytest.raises(TrainingError, match="out is a file: give"), claimed(tmp_path / "out", resume=False):
        pass
    with pytest.raises(WriteError, match=r"can't write to .*out/in: Not a directory"), claimed(inside, resume=False):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_a_new_folder_in_which_nothing_was_written_is_gone_again(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with claimed(tmp_path / name, resume=False):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_folder_that_was_removed_or_replaced_is_said(tmp_path):
    with claimed(tmp_path / "out", resume=False):
        require_ours(tmp_path / "out")
        os.rename(tmp_path / "out", tmp_path / "moved")
        with pytest.raises(WriteError, match="out: it was removed or replaced while training"):
            require_ours(tmp_path / "out")
        os.rename(tmp_path / "moved", tmp_path / "out")
        require_ours(tmp_path / "out")
        (tmp_path / "out/training.lock").write_text("process 1 on elsewhere\n")
        with pytest.raises(WriteError, match="removed or replaced"):
            require_ours(tmp_path / "out")
    assert (tmp_path / "out/training.lock").read_text() == "process 1 on elsewhere\n"


def test_what_goes_wrong_with_writing_is_one_line():
    with (
        pytest.raises(WriteError, match=r"^can't write to runs: No space left on device$"),
        writing("to", Path("runs")),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(MemoryError), writing("to", Path("runs")):
        raise MemoryError
