"""Runs with four devices and writes, as JSON, what the parts of a shared training step exchange and compute."""

import json
import sys
from functools import partial

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dfine_jax.export.hlo import count
from dfine_jax.ops import sampling
from dfine_jax.ops.compute import Compute
from dfine_jax.training.devices import AXIS, Devices
from dfine_jax.training.matching import match
from dfine_jax.training.targets import Targets

PICTURES, PLACES, BOXES, QUERIES, CLASSES = 8, 2, 3, 10, 4
SHAPES, POINTS, HEADS, CHANNELS = ((4, 5), (2, 3)), (2, 1), 2, 8


def main() -> None:
    devices = Devices()
    rng = np.random.default_rng(0)
    found = {"devices": devices.count}

    logits = rng.standard_normal((PLACES, PICTURES, QUERIES, CLASSES)).astype(np.float32)
    boxes = rng.uniform(0.2, 0.4, (PLACES, PICTURES, QUERIES, 4)).astype(np.float32)
    targets = Targets(
        rng.uniform(0.2, 0.4, (PICTURES, BOXES, 4)).astype(np.float32),
        rng.integers(0, CLASSES, (PICTURES, BOXES)).astype(np.int32),
        rng.random((PICTURES, BOXES)) < 0.7,
    )
    second = NamedSharding(devices.mesh, PartitionSpec(None, AXIS))

    def on_mesh(*given):
        with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
            return match(*given)

    shared = jax.jit(on_mesh, in_shardings=(second, second, devices.shared)).lower(logits, boxes, targets).compile()
    found["match"] = count(shared.as_text()).collectives
    alone, together = jax.jit(match)(logits, boxes, targets), shared(logits, boxes, targets)
    found["same"] = all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))

    cells, points = sum(height * width for height, width in SHAPES), sum(POINTS)
    shapes = [(cells, HEADS, CHANNELS), (QUERIES, HEADS, points, 2), (QUERIES, HEADS, points)]
    given = [rng.random((PICTURES, *shape), np.float32) for shape in shapes]
    static = dict(shares_of=sampling._bilinear, shapes=SHAPES, points=POINTS)
    forms = {
        "rows": partial(sampling._by_rows, of_points=sampling._at_once, add_up=sampling._sum_at_once, **static),
        "products": partial(sampling._by_products, compute=Compute(), **static),
    }
    for name, form in forms.items():

        def gradients(*given, form=form):
            return jax.grad(lambda *x: (form(*x) ** 2).sum(), argnums=(0, 1, 2))(*given)

        compiled = jax.jit(gradients, in_shardings=devices.shared).lower(*given).compile()
        found[name] = count(compiled.as_text()).collectives
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
