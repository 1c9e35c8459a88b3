"""What D-FINE does on this machine's accelerator: exactness, speed beside PyTorch, memory, training, kernels.

    $ python -m benchmarks.accelerator [--minutes 8] [--output FOLDER] [--parts NAME ...]

Made for a machine that is lent for minutes, with one GPU and no network: nothing is fetched, weights are random and
made by a rule, the numbers to compare with lie in ``tests/reference_numbers/synthetic``. ``accelerator.json`` and
``accelerator.md`` are written after every row, so that a run which is cut short still tells. Parts run in the order of
their worth, each in a process of its own: one that fails, hangs or crashes is a line in the report, and the next
begins. What has no time left is named. Without an accelerator every part runs at the smallest size on the CPU, to see
that it runs: those numbers mean nothing.

Needs what a detector and a training step need. Without PyTorch and transformers their parts are a line each.
"""
