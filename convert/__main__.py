"""``python -m convert SOURCE OUT``: the same as ``dfine convert``."""

import sys

from dfine_jax.cli.main import main

sys.exit(main(["convert", *sys.argv[1:]]))
