"""A data set kept from training, on which a model's changing values are evaluated again and again."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from dfine_jax.data.batches import NO_PICTURE, Batch, places_for
from dfine_jax.data.loader import EvalBatches, Loader, Shard
from dfine_jax.data.samples import Dataset, Problem
from dfine_jax.errors import InputError
from dfine_jax.evaluation.coco_metrics import Evaluation, evaluate
from dfine_jax.evaluation.predictions import Predicted, relabelled, same_classes
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.compiled import compile_lowered, picture_by_picture
from dfine_jax.inference.postprocess import TopDetections, postprocess
from dfine_jax.inference.preprocess import normalise
from dfine_jax.model.dfine import Apply, Variables
from dfine_jax.preprocessing import Preprocessing


class HeldOut:
    """Evaluates any values of one model on one data set; compiles at the first use and never again.

    The values stay on the devices of `mesh`, whole on each, and every batch is shared among these. Where the mesh
    reaches over several processes all must call together; each reads its part of the pictures and gets the same result.
    """

    def __init__(
        self,
        apply: Apply,
        class_names: Sequence[str],
        dataset: Dataset,
        *,
        size: int,
        batch_size: int,
        workers: int = 2,
        mesh: Mesh | None = None,
    ):
        """`size` in pixels and `batch_size` are those of the network's input; `class_names` the model's.

        Raises:
            ValueError: the batch can't be shared equally, or model and data set have no class in common.
        """
        self.truth = Truth.of(dataset)
        self.problems: tuple[Problem, ...] = ()
        """Pictures this process could not read for the last evaluation, which left them out."""
        self._apply = apply
        self._label_of = same_classes(class_names, dataset.class_names)
        self._settings = Preprocessing(height=size, width=size)
        self._workers = workers
        mesh = mesh or Mesh(jax.local_devices()[:1], "data")
        if batch_size % mesh.size:
            raise InputError(f"a batch of {batch_size} can't be shared by {mesh.size} devices: give a multiple")
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._shared = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        shard = Shard() if self._whole.is_fully_addressable else Shard(jax.process_index(), jax.process_count())
        self._batches = EvalBatches(dataset, batch_size, size, places_for(dataset.most_boxes), shard)
        self._compiled: jax.stages.Compiled | None = None

    def __call__(self, params: Variables, batch_stats: Variables) -> Evaluation:
        """The figures of a model with these values."""
        return evaluate(self.predict(params, batch_stats), self.truth)

    def predict(self, params: Variables, batch_stats: Variables) -> list[Predicted]:
        """What a model with these values finds, in the order of the pictures."""
        values = jax.device_put((dict(params), dict(batch_stats)), self._whole)
        predicted: list[Predicted] = []
        with Loader(self._batches, self._workers) as loader:
            for batch in loader:
                inputs = self._on_devices(batch)
                if self._compiled is None:
                    self._compiled = self._compile(values, inputs)
                predicted += self._predicted(*jax.device_get(self._compiled(*values, *inputs)))
            self.problems = tuple(loader.problems)
        return predicted

    def _compile(self, values: tuple[Variables, Variables], inputs: tuple[Array, ...]) -> jax.stages.Compiled:
        def detect(
            params: Variables,
            batch_stats: Variables,
            images: UInt8[Array, "B H W 3"],
            sizes: Int[Array, "B 2"],
            pictures: Int[Array, " B"],
        ) -> tuple[TopDetections, Int[Array, " B"]]:
            def in_batch(images, sizes):
                output = self._apply(params, batch_stats, normalise(images, self._settings))
                return postprocess(output.logits, output.boxes, sizes)

            return picture_by_picture(in_batch)(images, sizes), pictures

        whole, shared = self._whole.spec, self._shared.spec
        each = jax.shard_map(
            detect,
            mesh=self._whole.mesh,
            in_specs=(whole, whole, shared, shared, shared),
            out_specs=shared,
            check_vma=False,  # some loops start from constants, which the check would want marked as each device's own
        )
        return compile_lowered(jax.jit(each, out_shardings=self._whole).lower(*values, *inputs))

    def _on_devices(self, batch: Batch) -> tuple[Array, ...]:
        """Pictures, their original sizes, and which they are: what each process read of the batch, put together."""
        columns = (batch.images, self.truth.sizes[batch.indices], batch.indices)
        return tuple(jax.make_array_from_process_local_data(self._shared, column) for column in columns)

    def _predicted(self, top: TopDetections, pictures: Int[np.ndarray, " B"]) -> list[Predicted]:
        return [
            relabelled(int(picture), scores, labels, boxes, self._label_of)
            for picture, scores, labels, boxes in zip(pictures, *top, strict=True)
            if picture != NO_PICTURE
        ]
