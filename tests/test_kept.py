import dataclasses
import os
import pickle
import socket

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from PIL import Image

from dfine_jax import kept as module
from dfine_jax.config import SIZES, DFineConfig
from dfine_jax.kept import UntrustedFolderError, keep_in, kept, spelled
from dfine_jax.machine import Arithmetic
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "values"
    keep_in(folder)
    yield folder
    keep_in(None)


def keep(kind, key, make, load=pickle.loads):
    return kept(kind, key, make, dump=pickle.dumps, load=load)


def never():
    raise AssertionError("made again")


def entries(folder):
    return sorted(folder.glob(f"*{module.SUFFIX}"))


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path):
    assert keep("number", 1, lambda: 2) == 2
    assert keep("number", 1, lambda: 3) == 3


def test_a_value_is_made_once(folder):
    assert keep("number", (1, "a"), lambda: 2) == 2
    assert keep("number", (1, "a"), never) == 2
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_key_or_kind_is_another_value(folder):
    keep("number", 1, lambda: 2)
    assert keep("number", 2, lambda: 3) == 3
    assert keep("other", 1, lambda: 4) == 4
    assert keep("number", 1, never) == 2


# What programs are keyed by: changing any field of any of these has to change the key.
KEYS = [
    *(make() for make in SIZES.values()),
    Arithmetic(),
    Arithmetic(Compute(jnp.dtype("bfloat16"), None), jnp.dtype("int16")),
    Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
]
OTHERS = {
    jnp.dtype("float32"): jnp.dtype("bfloat16"),
    jnp.dtype("bfloat16"): jnp.dtype("float32"),
    jnp.dtype("int16"): jnp.dtype("float16"),
    lax.Precision.HIGHEST: lax.Precision.HIGH,
    Image.Resampling.BILINEAR: Image.Resampling.BICUBIC,
    None: 1,
    "relu": "silu",
}


def changed(value):
    """The value with each of its parts changed in turn, as places and values."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            for place, other in changed(getattr(value, field.name)):
                yield f".{field.name}{place}", replaced(value, field.name, other)
    elif isinstance(value, tuple):
        yield "[+]", (*value, value[0])
        for i, part in enumerate(value):
            for place, other in changed(part):
                yield f"[{i}]{place}", (*value[:i], other, *value[i + 1 :])
    elif isinstance(value, bool):
        yield "", not value
    elif isinstance(value, int | float) and not isinstance(value, Image.Resampling):
        yield "", value + 1
        yield "", float(value) if isinstance(value, int) else value * (1 + 2**-50) + 2**-1000
    elif isinstance(value, str):
        yield "", value + "?"
    else:
        yield "", OTHERS[value]


def replaced(value, name, other):
    """Like ``dataclasses.replace``, without the checks of what a value may be."""
    copy = object.__new__(type(value))
    for field in dataclasses.fields(value):
        object.__setattr__(copy, field.name, getattr(value, field.name))
    object.__setattr__(copy, name, other)
    return copy


@pytest.mark.parametrize("value", KEYS, ids=lambda value: type(value).__name__)
def test_every_field_is_part_of_the_key(value):
    spellings = {repr(spelled(value)): "itself"}
    count = 1
    for place, other in changed(value):
        spelling = repr(spelled(other))
        assert spelling not in spellings, f"changing {place} spells the same as {spellings[spelling]}"
        if isinstance(other, type(value)):
            spellings[spelling] = place
            count += 1
    assert count > len(dataclasses.fields(value))


def test_the_number_and_the_names_of_classes_are_part_of_the_key(folder):
    names = DFineConfig.nano().class_names
    keep("number", DFineConfig.nano(), lambda: 80)
    assert keep("number", DFineConfig.nano().with_classes(names[:3]), lambda: 3) == 3
    assert keep("number", DFineConfig.nano().with_classes(names[::-1]), lambda: -80) == -80
    assert keep("number", DFineConfig.nano(), never) == 80


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 2), [1, 2]),
        (1, 1.0),
        (1, True),
        ("1", 1),
        (("a", "b"), ("a, b",)),
        ({1: 2}, {"1": 2}),
        (frozenset({1}), (1,)),
        (b"a", "a"),
        (np.dtype("<f4"), np.dtype(">f4")),
        (None, "None"),
    ],
)
def test_values_that_look_alike_are_spelled_differently(first, second):
    assert repr(spelled(first)) != repr(spelled(second))


def test_order_does_not_matter_where_there_is_none():
    assert spelled({"a": 1, "b": 2}) == spelled({"b": 2, "a": 1})
    assert spelled({"a", "b", "c"}) == spelled({"c", "a", "b"})


@pytest.mark.parametrize("value", [object(), np.zeros(2), lambda: 1, DFineConfig, {"a": object()}])
def test_a_value_that_can_not_be_told_apart_is_refused_as_a_key(folder, value):
    with pytest.raises(TypeError, match="can't be part of a key"):
        keep("number", value, lambda: 1)


def test_another_edition_of_the_package_makes_it_anew(folder, monkeypatch):
    keep("number", 1, lambda: 2)
    monkeypatch.setattr(module, "_edition", lambda: "another")
    assert keep("number", 1, lambda: 3) == 3


def test_the_edition_tells_sources_and_versions(tmp_path, monkeypatch):
    deep = tmp_path / "model" / "of" / "several"
    deep.mkdir(parents=True)
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    edition = module._edition.__wrapped__
    names = {edition()}
    (deep / "layers.py").write_text("a = 1")
    names.add(edition())
    (deep / "layers.py").write_text("a = 2")
    names.add(edition())
    (deep / "code.ll").write_text("; a")
    names.add(edition())
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "0.0")
    names.add(edition())
    assert len(names) == 5
    (deep / "notes.txt").write_text("no source")
    assert edition() in names


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
        lambda content: content[:20],
        lambda content: content[:40] + b"?" + content[41:],
        lambda content: content[:32] + b"\xff" * 8 + content[40:],
        lambda content: pickle.dumps("foreign"),
    ],
)
def test_a_damaged_entry_is_made_again_and_replaced(folder, damage):
    keep("number", 1, lambda: 2)
    (path,) = entries(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert keep("number", 1, lambda: 2) == 2
    assert keep("number", 1, never) == 2


def test_an_entry_of_another_key_is_not_taken(folder):
    keep("number", 1, lambda: 2)
    (first,) = entries(folder)
    keep("number", 2, lambda: 3)
    (second,) = set(entries(folder)) - {first}
    second.write_bytes(first.read_bytes())
    assert keep("number", 2, lambda: 3) == 3


def test_what_can_not_be_loaded_is_made_again(folder):
    def fail(dumped):
        raise RuntimeError("another machine's")

    keep("number", 1, lambda: 2)
    assert keep("number", 1, lambda: 5, load=fail) == 5


def test_what_can_not_be_dumped_is_not_kept(folder):
    unknown = lambda: 2  # noqa: E731
    assert keep("function", 1, lambda: unknown) is unknown
    assert list(folder.iterdir()) == []


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    for number in range(3):
        keep("text", number, lambda: "x" * 10_000)
    paths = entries(folder)
    for path in paths:
        os.utime(path, (1, 1))
    keep("text", 1, never)  # is used now
    monkeypatch.setattr(module, "LARGEST", 25_000)
    keep("text", 3, lambda: "x" * 10_000)
    assert len(entries(folder)) == 2
    assert keep("text", 1, never)
    assert keep("text", 3, never)


def test_a_folder_that_is_gone_is_no_error(folder):
    folder.rmdir()
    assert keep("number", 1, lambda: 2) == 2


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        keep_in(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, mode):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(UntrustedFolderError, match="others can write to it"):
        keep_in(tmp_path / "open")


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(UntrustedFolderError, match="another user"):
        keep_in(tmp_path)


def hostile():
    raise AssertionError("what others wrote was read")


def test_an_entry_that_others_can_write_to_is_not_read(folder):
    keep("number", 1, lambda: 2)
    (path,) = entries(folder)
    path.chmod(0o666)
    assert keep("number", 1, lambda: 3, load=lambda _: hostile()) == 3
    assert path.stat().st_mode & 0o777 == 0o600
    assert keep("number", 1, never) == 3


def test_an_entry_of_another_user_is_not_read(folder, monkeypatch):
    keep("number", 1, lambda: 2)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert keep("number", 1, lambda: 3, load=lambda _: hostile()) == 3


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder"])
def test_what_is_no_plain_file_is_passed_over_without_waiting(folder, kind):
    keep("number", 1, lambda: 2)
    (path,) = entries(folder)
    elsewhere = folder.parent / "elsewhere"
    path.rename(elsewhere)
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        where = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(where)
    assert keep("number", 1, lambda: 3, load=lambda _: hostile()) == 3
