"""One of several processes that evaluate together: `python evaluate_together.py RANK COUNT PORT`; prints the result."""

import sys

import jax
import numpy as np
from evaluation_data import CLASS_NAMES
from jax.sharding import Mesh
from test_held_out import DATA, RIGHT, SIZE, Applied, values

from dfine_jax.evaluation.held_out import HeldOut


def main(rank: int, count: int, port: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    held_out = HeldOut(Applied(), CLASS_NAMES, DATA, size=SIZE, batch_size=8, workers=0, mesh=mesh)
    for places in (RIGHT, {**RIGHT, 50: ((0.8, 0.8, 0.1, 0.1), 0)}):
        result = held_out(*values(places, 3.0))
        pictures = [p.picture for p in result.predicted]
        boxes = [p.boxes[0].round(3).tolist() for p in result.predicted]
        print(f"evaluated: AP {round(result.ap, 6)} of pictures {pictures}, first boxes {boxes}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
