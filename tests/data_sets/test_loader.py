"""Batches are functions of seed and position: whoever computes them, from wherever one goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import make_record, write_coco, write_picture

import dfine_jax
from dfine_jax.data.augmentation import LAST_PHASE
from dfine_jax.data.batches import NO_PICTURE, collate, places_for
from dfine_jax.data.formats import open_dataset
from dfine_jax.data.loader import EvalBatches, Loader, Position, Shard, TrainBatches, multi_scale
from dfine_jax.data.samples import DataError, Dataset, Record, Sample
from dfine_jax.data.shapes import shapes

DATASET = shapes(11, size=32, seed=2)


def batches(**changes) -> TrainBatches:
    settings = dict(dataset=DATASET, batch_size=2, epochs=3, seed=4, size=32, max_boxes=8)
    return TrainBatches(**(settings | changes))


def assert_equal(one, other) -> None:
    for here, there in zip(one, other, strict=True):
        np.testing.assert_array_equal(here, there)


def test_worker_processes_change_nothing():
    with Loader(batches(), workers=0) as alone, Loader(batches(), workers=2) as helped:
        expected, found = list(alone), list(helped)
    assert len(expected) == len(found) == 3 * 5
    for one, other in zip(expected, found, strict=True):
        assert_equal(one, other)
    assert not np.array_equal(expected[0].images, expected[1].images)


def test_a_resumed_run_goes_on_exactly():
    whole = Loader(batches(), workers=0)
    for _ in range(7):
        next(whole)
    position = whole.state()
    assert position == Position(1, 2)
    rest = list(whole)
    assert whole.state() == Position(3, 0)
    with Loader(batches(), workers=1) as resumed:
        next(resumed)
        resumed.restore(Position(*position))
        for one, other in zip(rest, resumed, strict=True):
            assert_equal(one, other)


def test_a_position_that_is_not_there_is_refused():
    loader = Loader(batches(), workers=0)
    for position in (Position(0, 5), Position(4, 0), Position(3, 1), Position(-1, 0)):
        with pytest.raises(DataError, match=r"no batch at epoch.*was the data set"):
            loader.restore(position)
    loader.restore(Position(3, 0))
    with pytest.raises(StopIteration):
        next(loader)


def test_every_epoch_has_its_own_order_and_each_picture_once():
    loader = Loader(batches(batch_size=3), workers=0)
    epochs = [np.concatenate([next(loader).indices for _ in range(3)]) for _ in range(3)]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)  # two are left out each time
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = Loader(batches(batch_size=3, seed=5), workers=0)
    assert not np.array_equal(epochs[0], np.concatenate([next(other).indices for _ in range(3)]))


def test_shards_are_the_rows_of_one_batch():
    whole = batches(batch_size=4)
    parts = [batches(batch_size=4, shard=Shard(index, 2)) for index in range(2)]
    for number in range(len(whole)):
        halves = [part[number].batch for part in parts]
        joined = [np.concatenate(columns) for columns in zip(*halves, strict=True)]
        assert_equal(whole[number].batch, joined)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_covers_each_picture_once(count):
    seen = []
    for index in range(count):
        with Loader(EvalBatches(DATASET, 4, 32, 8, Shard(index, count)), workers=0) as loader:
            for batch in loader:
                assert batch.images.shape == (4 // count, 32, 32, 3)
                seen += batch.indices.tolist()
                padding = batch.indices == NO_PICTURE
                assert not batch.images[padding].any()
                assert not batch.mask[padding].any()
    assert sorted(seen) == [NO_PICTURE, *range(11)]


def test_evaluation_is_not_augmented():
    batch = EvalBatches(DATASET, 1, 32, 8)[3].batch
    record = DATASET.records[3]
    np.testing.assert_array_equal(batch.images[0], record.picture)
    count = len(record.boxes)
    assert batch.mask[0].tolist() == [True] * count + [False] * (8 - count)
    centres, sizes = np.split(batch.boxes[0, :count] * 32, 2, axis=1)
    np.testing.assert_allclose(np.concatenate([centres - sizes / 2, centres + sizes / 2], 1), record.boxes, atol=1e-4)
    assert not batch.boxes[0, count:].any()


def test_the_last_phase_is_plain():
    plain = batches(strong_epochs=1, scale_repeats=1, size=96)
    flipped = replace(plain, augmentation=LAST_PHASE, scale_repeats=0)
    sizes = {plain[number].batch.images.shape[1] for number in range(5)}
    assert len(sizes) > 1
    for number in range(5, 15):
        assert_equal(plain[number].batch, flipped[number].batch)


def test_sizes_are_those_of_the_recipe():
    sizes = multi_scale(640, 4)
    assert sorted(set(sizes)) == list(range(480, 801, 32))
    assert sizes.count(640) == 4
    assert len(sizes) == 14
    assert multi_scale(640, 0) == (640,)
    source = batches(scale_repeats=1, size=96)
    drawn = [source[number].batch.images.shape[1] for number in range(15)]
    assert drawn == [source[number].batch.images.shape[1] for number in range(15)]
    assert set(drawn) == {64, 96}


def test_collate_pads_and_keeps_the_largest():
    boxes = np.array([[0, 0, 2, 2], [4, 8, 12, 16], [0, 0, 16, 8]], np.float32)
    sample = Sample(np.full((16, 16, 3), 9, np.uint8), boxes, np.array([5, 6, 7], np.int32))
    empty = Sample(sample.picture, boxes[:0], np.zeros(0, np.int32))
    batch = collate([sample, empty, None], [4, 5, 6], 16, 2)
    np.testing.assert_allclose(batch.boxes[0], [[0.5, 0.75, 0.5, 0.5], [0.5, 0.25, 1.0, 0.5]])
    assert batch.labels.tolist() == [[6, 7], [0, 0], [0, 0]]
    assert batch.mask.tolist() == [[True, True], [False, False], [False, False]]
    assert batch.left_out.tolist() == [1, 0, 0]
    assert batch.indices.tolist() == [4, 5, NO_PICTURE]
    assert [array.dtype for array in batch] == [np.uint8, np.float32, np.int32, bool, np.int32, np.int32]
    assert [places_for(most) for most in (0, 1, 8, 9)] == [8, 8, 8, 16]


def test_boxes_without_a_place_are_counted():
    with Loader(batches(max_boxes=1, epochs=1), workers=0) as loader:
        left_out = sum(int(batch.left_out.sum()) for batch in loader)
    assert left_out == loader.boxes_left_out > 5


@pytest.fixture
def broken(tmp_path) -> Dataset:
    """Six pictures, of which the third breaks off."""
    for number in range(6):
        write_picture(tmp_path / f"{number}.png", (40, 40), (number, 0, 0))
    dataset = open_dataset(
        write_coco(tmp_path / "x.json", images=[{"id": n, "file_name": f"{n}.png"} for n in range(6)]), None
    )
    path = tmp_path / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    return dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_replaced_and_reported_once(broken, workers):
    with Loader(batches(dataset=broken, epochs=2), workers=workers) as loader:
        seen = np.concatenate([batch.indices for batch in loader]).tolist()
    assert sorted(seen) == [0, 0, 1, 1, 3, 3, 3, 3, 4, 4, 5, 5]
    assert len(loader.problems) == 1
    assert "2.png: unreadable picture: " in str(loader.problems[0])
    with Loader(EvalBatches(broken, 4, 32, 8), workers=0) as evaluation:
        indices = np.concatenate([batch.indices for batch in evaluation]).tolist()
    assert indices == [0, 1, NO_PICTURE, 3, 4, 5, NO_PICTURE, NO_PICTURE]
    assert str(evaluation.problems[0]).endswith("; not evaluated")


def test_nothing_readable_is_an_error(broken):
    only = replace(broken, records=[broken.records[2]] * 3)
    with pytest.raises(DataError, match="20 pictures in a row can't be read"):
        next(Loader(batches(dataset=only), workers=0))


class Failing(Record):
    """A picture that fails in a way nobody thought of."""

    def pixels(self):
        raise KeyError("colour")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_picture_is_named_in_one_line(workers):
    records = [make_record(number, [[1, 2, 9, 9]], [0]) for number in range(4)]
    good = records[2]
    records[2] = Failing(good.picture, "the-third", good.width, good.height, good.boxes, good.labels, good.areas)
    source = batches(dataset=Dataset(("ant",), (1,), records, 1))
    message = "drawn picture the-third can't be prepared: KeyError: 'colour'"
    with Loader(source, workers) as loader, pytest.raises(DataError, match=message) as caught:
        list(loader)
    with pytest.raises(DataError, match=message):
        list(loader)
    assert "\n" not in str(caught.value)
    assert "Traceback" in caught.value.__notes__[0]


def test_bad_settings_are_refused():
    with pytest.raises(DataError, match="11 pictures don't fill a batch of 12"):
        batches(batch_size=12)
    with pytest.raises(DataError, match="batch of 3 can't be shared as part 0 of 2"):
        batches(batch_size=3, shard=Shard(0, 2))
    with pytest.raises(DataError, match="part 2 of 2"):
        EvalBatches(DATASET, 4, 32, 8, Shard(2, 2))


@dataclass
class Dying:
    """A source whose process disappears."""

    steps_per_epoch: int = 4

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error_not_a_hang():
    with (
        Loader(Dying(), workers=1) as loader,
        pytest.raises(DataError, match="a data worker ended with code -9: killed"),
    ):
        next(loader)


SCRIPT = """
import sys, time
from dfine_jax.data.loader import Loader, TrainBatches
from dfine_jax.data.shapes import shapes
loader = Loader(TrainBatches(shapes(50, size=32), 4, 1000, 0, 32, 8), workers=2)
next(loader)
print(*[worker.process.pid for worker in loader._prefetch._workers], "jax" in sys.modules, flush=True)
{ending}
"""


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)", "time.sleep(60)"])
def test_nothing_outlives_the_program(ending):
    """A script without a main guard that doesn't close its loader: it ends at once, or is killed; no worker stays."""
    root = Path(dfine_jax.__file__).parents[1]
    command = [sys.executable, "-c", SCRIPT.format(ending=ending)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        *pids, jax_loaded = process.stdout.readline().split()
        assert jax_loaded == "False"
        if "sleep" in ending:
            process.kill()
        _, errors = process.communicate(timeout=20)
        assert errors == ""
        deadline = time.monotonic() + 20
        while any(alive(int(pid)) for pid in pids):
            assert time.monotonic() < deadline, "workers are still there"
            time.sleep(0.05)
