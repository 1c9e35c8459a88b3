"""PyTorch weights to dfine_jax's and back: names and layouts as data. ``python -m convert SOURCE OUT`` runs it."""
