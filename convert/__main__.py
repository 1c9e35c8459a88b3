"""The same as ``dfine convert``; ``--verify`` compares with transformers."""

import sys

from dfine_jax.cli.main import main

sys.exit(main(["convert", *sys.argv[1:]]))
