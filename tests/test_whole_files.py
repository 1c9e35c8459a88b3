import errno
import os
import threading

import pytest

from dfine_jax.errors import InputError
from dfine_jax.whole_files import require_writable, require_writable_folder, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_and_its_folders(tmp_path):
    write_whole(tmp_path / "a" / "b" / "c.json", b"[1]")
    assert (tmp_path / "a" / "b" / "c.json").read_bytes() == b"[1]"
    assert names(tmp_path / "a" / "b") == ["c.json"]


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_permissions_stay(tmp_path, mode):
    path = tmp_path / "a.json"
    path.touch()
    path.chmod(mode)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == mode


def test_a_new_file_has_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_whole(tmp_path / "a.json", b"")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, is_there):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a.json", tmp_path / "link.json"
    if is_there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    require_writable(link, "--json")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(tmp_path / "elsewhere") == ["a.json"]


def test_the_other_name_of_a_file_keeps_its_content(tmp_path):
    (tmp_path / "original").write_bytes(b"old")
    os.link(tmp_path / "original", tmp_path / "name")
    write_whole(tmp_path / "name", b"new")
    assert (tmp_path / "original").read_bytes() == b"old"


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    require_writable(pipe, "--json")
    write_whole(pipe, b"new")
    reader.join(10)
    assert received == [b"new"]
    assert pipe.is_fifo()


def test_a_device_is_written_to_and_stays(tmp_path):
    require_writable(os.devnull, "--json")
    write_whole(os.devnull, b"new")
    assert not os.path.isfile(os.devnull)
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    write_whole(link, b"new")
    assert link.is_symlink()


def test_a_file_that_the_process_has_open_is_written_to(tmp_path):
    with open(tmp_path / "a", "w+b") as file:
        write_whole(f"/dev/fd/{file.fileno()}", b"new")
        assert file.read() == b"new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_names_the_file():
    with pytest.raises(OSError, match="/dev/full") as caught:
        write_whole("/dev/full", b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_nothing_is_left_of_a_file_that_can_not_be_finished(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("", "a folder; give the name of a file"),
        ("file/a.json", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("a\0b", "null"),
        ("x" * 300 + "/a.json", "File name too long"),
        ("/dev/loop0", "a disk or a socket"),
    ],
)
def test_what_can_not_be_written_is_known_before(tmp_path, place, says):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    if place.startswith("/dev") and not os.path.exists(place):
        pytest.skip("no such device")
    with pytest.raises(InputError, match=says) as caught:
        require_writable(tmp_path / place, "--json")
    assert str(caught.value).startswith("--json ")
    assert str(caught.value).isprintable()


def test_trying_leaves_nothing(tmp_path):
    require_writable(tmp_path / "new" / "a.json", "--json")
    require_writable_folder(tmp_path / "new", "--save")
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.access("/proc/version", os.R_OK), reason="no /proc")
def test_a_file_system_on_which_nothing_can_be_written():
    with pytest.raises(InputError, match="--save /proc/new: can't be written"):
        require_writable_folder("/proc/new", "--save")
    with pytest.raises(InputError, match=r"may not be written to|can't be written"):
        require_writable("/proc/version/a.json", "--json")


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/inside"):
        with pytest.raises(InputError, match=r"file is no folder|Not a directory"):
            require_writable_folder(tmp_path / place, "--save")
