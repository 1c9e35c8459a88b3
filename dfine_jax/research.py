"""What research on a model starts with: a picture as its input, labelled pictures, the training loss as a function.

``functional(model)`` gives the network as a pure function; these give what it is applied to, as `docs/research` does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfine_jax.data.augmentation import plain
from dfine_jax.data.batches import collate, places_for
from dfine_jax.data.samples import Dataset
from dfine_jax.errors import InputError
from dfine_jax.evaluation.predictions import UNKNOWN, same_classes
from dfine_jax.inference.pictures import load_picture
from dfine_jax.inference.preprocess import normalise, preprocess
from dfine_jax.model.dfine import DFine, functional
from dfine_jax.pretrained import Pretrained
from dfine_jax.training.criterion import Criterion, criterion
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.step import make_loss
from dfine_jax.training.targets import Targets


def images_of(loaded: Pretrained, *pictures: Any) -> Float[Array, "B H W 3"]:
    """Reads pictures (paths, addresses, PIL images or arrays) as the model takes them: its size, levels from 0 to 1.

    Raises ``PictureError`` where one can't be read.
    """
    return jnp.stack([preprocess(load_picture(picture), loaded.preprocessing) for picture in pictures])


def labelled_images(
    loaded: Pretrained, dataset: Dataset, indices: Sequence[int]
) -> tuple[Float[Array, "B H W 3"], Targets]:
    """Reads labelled pictures as the model takes them, and their boxes, with the model's labels.

    ``dataset`` is what ``dfine_jax.data`` reads (``shapes(100)`` draws one); ``indices`` are places in it. Raises
    ``InputError`` where the model lacks a class that is labelled, ``DataError`` where a picture can't be read.
    """
    size = loaded.preprocessing.height
    if loaded.preprocessing.width != size:
        raise InputError(f"labelled pictures are square, the model's are {loaded.preprocessing.width} x {size} pixels")
    labels = np.full(len(dataset.class_names), UNKNOWN, np.int32)
    for label, theirs in enumerate(same_classes(loaded.config.class_names, dataset.class_names)):
        if theirs != UNKNOWN:
            labels[theirs] = label
    samples = [plain(dataset, index, size) for index in indices]
    batch = collate(samples, indices, size, places_for(dataset.most_boxes))
    lacking = sorted({dataset.class_names[k] for k in batch.labels[batch.mask] if labels[k] == UNKNOWN})
    if lacking:
        raise InputError(f"the model doesn't know {', '.join(lacking)}: train it on them, or leave their pictures out")
    targets = Targets(batch.boxes, labels[batch.labels] * batch.mask, batch.mask)
    return normalise(jax.device_put(batch.images), loaded.preprocessing), jax.device_put(targets)


def training_loss(model: DFine, recipe: Recipe | None = None, criterion: Criterion = criterion) -> Callable[..., Array]:
    """Gives the paper's loss as a pure function: ``loss(params, batch_stats, images, targets, key=None)``, a scalar.

    Norms use the batch's own statistics, as in training. With a ``key`` (``jax.random.key``) there are denoising
    queries as well. ``recipe`` has the weights of terms and of the matching; without one it is the published one of
    the model's size. ``criterion`` can be a function of your own in place of the paper's.
    """
    loss_of = make_loss(functional(model).apply, model.config, recipe or Recipe.for_config(model.config), criterion)

    def loss(params, batch_stats, images, targets, key=None):
        total, _ = loss_of({}, params, batch_stats, images, targets, key)
        return total

    return loss
