import os
import subprocess
import sys

import pytest

from dfine_jax.cli import large_pages, main
from dfine_jax.cli.large_pages import with_large_pages

GIVEN_TO_WHO_ASKS = "always [madvise] never\n"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A stand-in for what the kernel says; returns a function that sets it."""
    path = tmp_path / "enabled"
    monkeypatch.setattr(large_pages, "_KERNEL", path)
    monkeypatch.setattr(large_pages, "_glibc", lambda: (2, 36))
    return path.write_text


def test_the_setting_is_added_to_what_is_there(kernel):
    kernel(GIVEN_TO_WHO_ASKS)
    assert with_large_pages({"HOME": "/"}) == {"HOME": "/", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    others = "glibc.malloc.arena_max=2"
    assert with_large_pages({"GLIBC_TUNABLES": others})["GLIBC_TUNABLES"] == f"{others}:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("setting", ["glibc.malloc.hugetlb=0", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=2"])
def test_a_users_own_setting_stays(kernel, setting):
    kernel(GIVEN_TO_WHO_ASKS)
    assert with_large_pages({"GLIBC_TUNABLES": setting}) is None


@pytest.mark.parametrize("said", ["[always] madvise never\n", "always madvise [never]\n"])
def test_nothing_is_set_where_asking_changes_nothing(kernel, said):
    kernel(said)
    assert with_large_pages({}) is None


def test_nothing_is_set_on_other_systems(kernel, monkeypatch):
    assert with_large_pages({}) is None  # no such file
    kernel(GIVEN_TO_WHO_ASKS)
    for version in ((), (2, 31)):
        monkeypatch.setattr(large_pages, "_glibc", lambda version=version: version)
        assert with_large_pages({}) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows starts no process in the place of another")
@pytest.mark.parametrize("lost", [False, True])
def test_a_process_starts_again_once_with_the_same_arguments(lost):
    """Even if the setting is lost on the way."""
    code = f"""
import os, sys
from dfine_jax.cli import large_pages, main
large_pages._asked_for = lambda: True
large_pages._glibc = lambda: (2, 36)
print(os.getpid(), flush=True)
if {lost}:
    os.environ.pop("GLIBC_TUNABLES", None)
large_pages.start_again_with_large_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""
    ours = ("GLIBC_TUNABLES", large_pages.STARTED_AGAIN)
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", code, "a b", "--c"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
    first, second, seen = done.stdout.splitlines()
    assert first == second
    assert seen == f"{None if lost else 'glibc.malloc.hugetlb=1'} ['a b', '--c']"


def test_a_process_that_can_not_start_again_goes_on(kernel, monkeypatch):
    kernel(GIVEN_TO_WHO_ASKS)
    tried = []

    def refuse(*arguments):
        tried.append(arguments)
        raise PermissionError

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv(large_pages.STARTED_AGAIN, raising=False)
    monkeypatch.setattr(os, "execve", refuse)
    large_pages.start_again_with_large_pages()
    assert len(tried) == 1


@pytest.mark.parametrize(("verb", "wanted"), [("train", 1), ("detect", 0)])
def test_a_training_starts_again(verb, wanted, monkeypatch):
    started = []
    monkeypatch.setattr(main, "start_again_with_large_pages", lambda: started.append(verb))
    monkeypatch.setattr(main, "main", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["dfine", verb, "--help"])
    assert main.console() == 0
    assert len(started) == wanted
