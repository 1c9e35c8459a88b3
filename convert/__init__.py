"""``python -m convert SOURCE OUT``, in a clone of the repository: what ``dfine convert`` does, without installing.

Its code is in ``dfine_jax``, above all in ``dfine_jax.weights``. This module is not installed.
"""
