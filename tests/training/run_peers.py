"""One of several processes that do nothing but meet again and again: ``python run_peers.py PORT INDEX COUNT HOW``.

``HOW`` is ``on`` (until it is ended), ``error`` (an input error in process 1), ``fault`` (another error there), or
``done`` (each ends well, process 1 later).
"""

import sys
import time

import numpy as np
from jax.experimental import multihost_utils

from dfine_jax.errors import InputError
from dfine_jax.training.processes import Processes, joined


def main() -> int:
    port, index, count, how = sys.argv[1:]
    processes = Processes(f"localhost:{port}", int(count), int(index))
    try:
        with joined(processes):
            for step in range(10**9):
                multihost_utils.broadcast_one_to_all(np.ones(2))
                sys.stdout.write(f"{step}\n")
                sys.stdout.flush()
                if step == 3 and how == "done":
                    break
                if step == 3 and index == "1" and how != "on":
                    raise InputError("this picture can't be read") if how == "error" else RuntimeError("a fault")
                time.sleep(0.02)
        time.sleep(3 * int(index))
    except InputError as error:
        sys.stderr.write(f"dfine train: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
