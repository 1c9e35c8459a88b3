"""The pages on research run as they stand there and print what they say, and what they start with is right."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.research_pages import pages, run
from dfine_jax import functional, load_pretrained
from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.data.samples import Dataset
from dfine_jax.data.shapes import shapes
from dfine_jax.errors import InputError
from dfine_jax.inference.pictures import load_picture
from dfine_jax.inference.preprocess import preprocess
from dfine_jax.research import images_of, labelled_images, training_loss
from dfine_jax.training.criterion import Losses, criterion
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.step import make_loss
from dfine_jax.training.targets import Targets
from tests.support.tiny import TINY, tiny_model

NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
PAGES = pages()


@pytest.fixture(scope="module")
def loaded():
    return load_pretrained("shapes")


def test_there_is_a_page_for_each_subject():
    assert len(PAGES) == 11


@pytest.mark.parametrize("name", PAGES)
def test_code_is_short_and_is_all_there_is_to_read(name):
    assert len(PAGES[name].code.splitlines()) < 60
    assert all(len(line) <= 120 for line in PAGES[name].code.splitlines())
    assert PAGES[name].printed.strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_code_prints_what_the_page_says(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # which compiles in half the time
    printed, said = (
        "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# time"))
        for text in (run(PAGES[name], tmp_path), PAGES[name].printed)
    )
    spaces = re.compile(" +")
    assert spaces.sub(" ", NUMBER.sub("#", printed)) == spaces.sub(" ", NUMBER.sub("#", said))
    # Trainings go apart where a processor rounds otherwise: what is compared is the size of numbers.
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(said), strict=True):
        last_digit = 10.0 ** -len(theirs.partition(".")[2]) if "e" not in theirs else 0.0
        ours, theirs = (float(number.replace(",", "")) for number in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0.3, atol=3 * last_digit)
    for picture in PAGES[name].pictures:
        with Image.open(tmp_path / picture) as ours, Image.open(PAGES[name].file.parent / picture) as theirs:
            assert ours.size == theirs.size


def test_images_are_the_detectors_input(loaded):
    images = images_of(loaded, SHAPES_PICTURE, load_picture(SHAPES_PICTURE))
    assert images.shape == (2, 192, 192, 3)
    np.testing.assert_array_equal(images[0], preprocess(load_picture(SHAPES_PICTURE), loaded.preprocessing))
    np.testing.assert_array_equal(images[0], images[1])


def test_labelled_images_have_the_models_labels(loaded):
    drawn = shapes(3)
    order = (7, 6, 5, 4, 3, 2, 1, 0)
    renamed = Dataset(tuple(drawn.class_names[k] for k in order), tuple(order), drawn.records, drawn.most_boxes)
    images, targets = labelled_images(loaded, renamed, [2, 0])
    for row, index in enumerate((2, 0)):
        record = drawn.records[index]
        count = len(record.labels)
        assert targets.mask[row].sum() == count
        np.testing.assert_array_equal(targets.labels[row, :count], [order[k] for k in record.labels])
        corners = targets.boxes[row, :count] * 192
        np.testing.assert_allclose(corners[:, 2:], record.boxes[:, 2:] - record.boxes[:, :2], rtol=1e-5)
        np.testing.assert_allclose(images[row] * 255, record.picture, atol=1e-4)


def test_a_class_that_the_model_lacks_is_named(loaded):
    drawn = shapes(3)
    renamed = Dataset((*drawn.class_names[:-1], "comet"), drawn.category_ids, DrawnAsLast(drawn), drawn.most_boxes)
    with pytest.raises(InputError, match="doesn't know comet"):
        labelled_images(loaded, renamed, [0])


class DrawnAsLast:
    """The pictures of a data set, each with the last class for every box."""

    def __init__(self, dataset):
        self.records = dataset.records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        return replace(record, labels=np.full_like(record.labels, 7))


@pytest.mark.slow
def test_training_loss_is_that_of_a_step():
    model = tiny_model()
    apply, params, batch_stats = functional(model)
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    boxes = jnp.asarray(rng.uniform(0.2, 0.5, (2, 3, 4)), jnp.float32)
    targets = Targets(boxes, jnp.asarray([[0, 1, 2], [1, 0, 0]]), jnp.asarray([[True] * 3, [True, False, False]]))
    recipe = Recipe(batch_size=2, image_size=64)
    step, _ = jax.jit(make_loss(apply, TINY, recipe))({}, params, batch_stats, levels, targets, jax.random.key(3))
    inputs = (params, batch_stats, levels / np.float32(255), targets)
    loss = training_loss(model, recipe)
    np.testing.assert_allclose(jax.jit(loss)(*inputs, jax.random.key(3)), step, rtol=1e-6)
    plain = jax.jit(loss)(*inputs)
    assert plain < step  # no denoising terms

    def doubled(*inputs):
        losses = criterion(*inputs)
        return Losses(2 * losses.total, losses.terms)

    np.testing.assert_allclose(jax.jit(training_loss(model, recipe, doubled))(*inputs), 2 * plain, rtol=1e-6)
