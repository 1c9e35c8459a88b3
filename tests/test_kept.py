import os
import pickle

import pytest

from dfine_jax import kept as module
from dfine_jax.kept import keep_in, kept


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "values"
    keep_in(folder)
    yield folder
    keep_in(None)


def never():
    raise AssertionError("made again")


def entries(folder):
    return sorted(folder.glob(f"*{module.SUFFIX}"))


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path):
    assert kept("number", 1, lambda: 2) == 2
    assert kept("number", 1, lambda: 3) == 3


def test_a_value_is_made_once(folder):
    assert kept("number", (1, "a"), lambda: 2) == 2
    assert kept("number", (1, "a"), never) == 2
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_key_or_kind_is_another_value(folder):
    kept("number", 1, lambda: 2)
    assert kept("number", 2, lambda: 3) == 3
    assert kept("other", 1, lambda: 4) == 4
    assert kept("number", 1, never) == 2


def test_another_edition_of_the_package_makes_it_anew(folder, monkeypatch):
    kept("number", 1, lambda: 2)
    monkeypatch.setattr(module, "_edition", lambda: "another")
    assert kept("number", 1, lambda: 3) == 3


def test_the_edition_tells_sources_and_versions(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    source = tmp_path / "model" / "layers.py"
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    edition = module._edition.__wrapped__
    names = {edition()}
    source.write_text("a = 1")
    names.add(edition())
    source.write_text("a = 2")
    names.add(edition())
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "0.0")
    names.add(edition())
    assert len(names) == 4


def test_what_is_not_installed_has_no_version(monkeypatch):
    names = {module._edition.__wrapped__()}
    monkeypatch.setattr(module, "_DISTRIBUTIONS", (*module._DISTRIBUTIONS, "never-heard-of"))
    names.add(module._edition.__wrapped__())
    assert len(names) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:40] + b"?" + content[41:],
        lambda content: pickle.dumps("foreign"),
    ],
)
def test_a_damaged_entry_is_made_again_and_replaced(folder, damage):
    kept("number", 1, lambda: 2)
    (path,) = entries(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert kept("number", 1, lambda: 2) == 2
    assert kept("number", 1, never) == 2


def test_an_entry_of_another_key_is_not_taken(folder):
    kept("number", 1, lambda: 2)
    (first,) = entries(folder)
    kept("number", 2, lambda: 3)
    (second,) = set(entries(folder)) - {first}
    second.write_bytes(first.read_bytes())
    assert kept("number", 2, lambda: 3) == 3


def test_what_can_not_be_loaded_is_made_again(folder):
    def fail(dumped):
        raise RuntimeError("another machine's")

    kept("number", 1, lambda: 2)
    assert kept("number", 1, lambda: 5, load=fail) == 5


def test_what_can_not_be_dumped_is_not_kept(folder):
    unknown = lambda: 2  # noqa: E731
    assert kept("function", 1, lambda: unknown) is unknown
    assert list(folder.iterdir()) == []


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    for number in range(3):
        kept("text", number, lambda: "x" * 10_000)
    paths = entries(folder)
    for path in paths:
        os.utime(path, (1, 1))
    kept("text", 1, never)  # is used now
    monkeypatch.setattr(module, "LARGEST", 25_000)
    kept("text", 3, lambda: "x" * 10_000)
    assert len(entries(folder)) == 2
    assert kept("text", 1, never)
    assert kept("text", 3, never)


def test_a_folder_that_is_gone_is_no_error(folder):
    folder.rmdir()
    assert kept("number", 1, lambda: 2) == 2


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        keep_in(tmp_path / "file")
