"""Checkpoints: what was changed since it was written is found, and the one before is taken."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.training.checkpoint import Checkpoints, Standing
from dfine_jax.training.errors import TrainingError, WriteError
from dfine_jax.training.snapshot import DamagedError, read_snapshot, verify_snapshot, write_snapshot

FILES = ("state.npz", "standing.json", "SHA256SUMS")


class Part(NamedTuple):
    vector: jax.Array
    count: jax.Array


def state(value: float) -> dict:
    """A tree like a training's, with what is easily lost: negative zeros, NaN, whole numbers, scalars."""
    numbers = jnp.asarray([value, -0.0, jnp.nan, 1e-45], jnp.float32)
    return {
        "params": {"decoder, norms": numbers},
        "ema": Part(numbers * 2, jnp.asarray(7, jnp.int32)),
        "key": jnp.asarray([1, 2], jnp.uint32),
    }


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def three(tmp_path) -> Path:
    """A folder with checkpoints of the steps 10, 20 and 30."""
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(state(step), Standing(step, 0.5, 10, step // 10 - 1))
    return tmp_path / "checkpoints"


def restored(folder: Path, keep: int = 3):
    return Checkpoints(folder, keep).restore(state(0))


def test_the_last_one_comes_back_to_the_bit(three):
    found = restored(three)
    assert found.standing == Standing(30, 0.5, 10, 2)
    assert found.damaged == ""
    assert jax.tree.structure(found.state) == jax.tree.structure(state(30))
    assert bits(found.state) == bits(state(30))
    assert bits(Checkpoints(three, 3).read(20, state(0))) == bits(state(20))


def test_a_folder_without_any_has_none(tmp_path):
    assert restored(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_other_tools_can_check_the_sums(three):
    lines = (three / "30/SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["state.npz", "standing.json"]
    assert all(len(line.split("  ")[0]) == 64 for line in lines)


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit": lambda folder, name: flip(folder / name, 0.5),
    "the first bit": lambda folder, name: flip(folder / name, 0),
    "the last bit": lambda folder, name: flip(folder / name, 1),
    "cut": lambda folder, name: os.truncate(folder / name, (folder / name).stat().st_size // 2),
    "empty": lambda folder, name: os.truncate(folder / name, 0),
    "longer": lambda folder, name: (folder / name).open("ab").write(b"\0"),
    "missing": lambda folder, name: (folder / name).unlink(),
    "a folder": lambda folder, name: ((folder / name).unlink(), (folder / name).mkdir()),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_one_before_a_damaged_one_is_taken(three, damage, name):
    DAMAGE[damage](three / "30", name)
    found = restored(three)
    assert found.standing.step == 20
    assert bits(found.state) == bits(state(20))
    assert found.damaged.startswith(f"{three / '30'} is damaged (")
    assert found.damaged.endswith("): going on from step 20")
    assert "\n" not in found.damaged


def test_every_bit_of_a_checkpoint_counts(tmp_path):
    write_snapshot(tmp_path / "1", {"x": np.arange(3)}, {"step": 1})
    for name in FILES:
        content = (tmp_path / "1" / name).read_bytes()
        for place in range(0, len(content), 7):
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 8)
            (tmp_path / "1" / name).write_bytes(changed)
            with pytest.raises(DamagedError):
                verify_snapshot(tmp_path / "1")
        (tmp_path / "1" / name).write_bytes(content)
    verify_snapshot(tmp_path / "1")


def test_two_damaged_ones_are_both_named(three):
    flip(three / "30/state.npz", 0.5)
    (three / "20/state.npz").unlink()
    found = restored(three)
    assert found.standing.step == 10
    assert "30 is damaged (state.npz is not what was written" in found.damaged
    assert "20 is damaged (state.npz is missing)" in found.damaged


def test_none_that_is_whole_is_one_line(three):
    for step in (10, 20, 30):
        (three / str(step) / "SHA256SUMS").unlink()
    with pytest.raises(
        TrainingError, match=r"no checkpoint is whole: .*30 is damaged .*; start again in another"
    ) as error:
        restored(three)
    assert "\n" not in str(error.value)


def test_a_damaged_one_is_replaced_when_its_step_comes_again(three):
    flip(three / "30/state.npz", 0.5)
    with Checkpoints(three, 3) as checkpoints:
        checkpoints.restore(state(0))
        checkpoints.save(state(30), Standing(30, 0.5, 10, 2))
    assert restored(three).standing.step == 30
    assert bits(restored(three).state) == bits(state(30))
    assert {path.name for path in three.iterdir()} == {"10", "20", "30"}


def test_damaged_ones_are_gone_once_there_is_a_whole_one_after_going_back(three):
    flip(three / "30/state.npz", 0.5)
    with Checkpoints(three, 3) as checkpoints:
        checkpoints.restore(state(0))
        checkpoints.save(state(25), Standing(25, 0.5, 10, 2))
        assert checkpoints.kept().startswith("the checkpoint of step 25 is whole")
        assert checkpoints.steps == [10, 20, 25]


def test_a_checkpoint_of_another_model_is_not_taken(three):
    other = {**state(0), "key": jnp.zeros(5, jnp.uint32)}
    with pytest.raises(TrainingError, match="30 is a checkpoint of another model"):
        Checkpoints(three, 3).restore(other)


def test_the_last_and_the_best_stay(tmp_path):
    best = None
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 2)):
            checkpoints.save(state(step), Standing(step, best and 0.5, best))
    assert checkpoints.steps == [2, 4, 5]


def test_what_a_kill_left_is_swept_and_the_users_own_stays(three):
    (three / ".40.0123abcd.new").mkdir()
    (three / ".40.0123abcd.new/state.npz").write_bytes(b"half")
    (three / "notes.txt").write_text("mine")
    with Checkpoints(three, 1) as checkpoints:
        checkpoints.save(state(40), Standing(40))
    assert {path.name for path in three.iterdir()} == {"40", "notes.txt"}


def test_a_snapshot_that_can_not_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    write_snapshot(tmp_path / "1", {"x": np.arange(3)}, {"step": 1})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(tmp_path / "1", {"x": np.arange(4)}, {"step": 1})
    assert list(read_snapshot(tmp_path / "1").arrays["x"]) == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_failure_in_the_background_is_told_at_the_next_look(three, monkeypatch):
    checkpoints = Checkpoints(three, 3)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    checkpoints.save(state(40), Standing(40))
    assert checkpoints.kept() == "the checkpoint of step 30 is whole: go on from it with --resume"
    with pytest.raises(WriteError, match=f"^can't write a checkpoint to {three}: No space left on device$"):
        checkpoints.check()


def test_no_pickle_is_ever_loaded(tmp_path):
    write_snapshot(tmp_path / "1", {"x": np.array([{"a": 1}], object)}, {"step": 1})
    with pytest.raises(DamagedError, match="can't be read"):
        read_snapshot(tmp_path / "1")
