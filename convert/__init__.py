"""``python -m convert SOURCE OUT`` in a clone of the repository: what ``dfine convert`` is where the package is installed.

All that it does is in the package, ``dfine_jax.weights`` above all: nothing but ``dfine_jax`` is installed.
"""
