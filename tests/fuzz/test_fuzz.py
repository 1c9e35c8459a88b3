"""Whatever a file holds, reading it ends soon, in little memory, with a result or an error of ours, and no more.

``DFINE_FUZZ_INPUTS`` says how many inputs are tried where it isn't the usual number, and ``python tests/fuzz`` tries as
many as are asked for and tells what is wrong by kind.
"""

import contextlib
import json
import os
import shutil
import time

import fuzz_trial
import numpy as np
import pytest
from fuzz_hostile import HOSTILE, LONG
from fuzz_kinds import KINDS, open_data, open_weights, write_changed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfine_jax.errors import InputError

FEW, MANY = 60, 2000
"""Inputs in the usual suite and in the slow one."""

pytestmark = pytest.mark.skipif(not fuzz_trial.is_possible(), reason="needs Linux, and the main thread")


NOT_GOOD = ("pth",)
"""Of these kinds the unchanged input is refused too: it is a checkpoint, but none of D-FINE's."""


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory):
    """What is imported at the first use is no part of any trial; and every kind of good input is read."""
    for name, kind in KINDS.items():
        path = kind.write(tmp_path_factory.mktemp("good"))
        with contextlib.suppress(InputError) if name in NOT_GOOD else contextlib.nullcontext():
            kind.read(path)


def faults(folder, numbers, seed):
    """What is wrong with inputs of these numbers, by name."""
    found = {}
    names = list(KINDS)
    for number in numbers:
        name = names[number % len(names)]
        place = folder / str(number)
        place.mkdir()
        path = write_changed(np.random.default_rng([seed, number]), KINDS[name], place)
        if wrong := fuzz_trial.fault(KINDS[name].read, path):
            found[f"{name} {number}"] = wrong
        shutil.rmtree(place)
    return found


def test_changed_at_random(tmp_path):
    count = int(os.environ.get("DFINE_FUZZ_INPUTS", FEW))
    assert not faults(tmp_path, range(count), seed=0)


@pytest.mark.slow
def test_changed_at_random_many_times(tmp_path):
    count = int(os.environ.get("DFINE_FUZZ_INPUTS", MANY))
    assert not faults(tmp_path, range(count), seed=1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in HOSTILE]
)
def test_made_to_do_harm(name, tmp_path):
    kind_name, change = HOSTILE[name]
    kind = KINDS[kind_name]
    path = kind.write(tmp_path)
    change(tmp_path)
    assert fuzz_trial.fault(kind.read, path) is None


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
LABELS = st.fixed_dictionaries(
    {},
    optional={
        part: ANY_JSON | st.lists(st.dictionaries(st.sampled_from(keys), ANY_JSON, max_size=5), max_size=4)
        for part, keys in {
            "images": ["id", "file_name", "width", "height"],
            "annotations": ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"],
            "categories": ["id", "name", "supercategory"],
        }.items()
    },
)
TRIALS = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@TRIALS
@given(LABELS)
def test_any_json_for_labels(tmp_path, labels):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(labels))
    assert fuzz_trial.fault(open_data, path) is None


@TRIALS
@given(st.dictionaries(st.sampled_from(["decoder_layers", "num_queries", "id2label", "backbone_config"]), ANY_JSON))
def test_any_json_for_a_configuration(tmp_path, changed):
    folder = tmp_path / "model"
    if not folder.exists():
        KINDS["config"].write(tmp_path)
        (folder / "good.json").write_bytes((folder / "config.json").read_bytes())
    held = json.loads((folder / "good.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, **changed}))
    assert fuzz_trial.fault(open_weights, folder) is None


class TestTheTrialItself:
    """It notices what it is there to notice."""

    @pytest.mark.parametrize(
        ("read", "says"),
        [
            (lambda path: [][0], "IndexError"),
            (lambda path: path.with_name("new").write_text("x"), "writes to"),
            (lambda path: os.system("true"), "os.system"),
            (lambda path: path.unlink(), "os.remove"),
            (lambda path: bytearray(3 * 2**30), "bytes"),
        ],
    )
    def test_faults(self, tmp_path, read, says):
        (tmp_path / "a").touch()
        assert says in fuzz_trial.fault(read, tmp_path / "a")

    def test_a_hang(self, tmp_path, monkeypatch):
        monkeypatch.setattr(fuzz_trial, "SECONDS", 0.05)
        assert (
            fuzz_trial.fault(lambda path: [None for _ in iter(int, 1)], tmp_path) == "more than 0.05 s of the processor"
        )
        monkeypatch.setattr(fuzz_trial, "PATIENCE", 0.05)
        assert fuzz_trial.fault(lambda path: time.sleep(30), tmp_path) == "more than 0.05 s"

    def test_what_is_fine(self, tmp_path):
        def refuse(path):
            raise FileNotFoundError(2, "No such file", str(path))

        assert fuzz_trial.fault(refuse, tmp_path) is None
        assert fuzz_trial.fault(os.listdir, tmp_path) is None
