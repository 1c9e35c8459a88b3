"""What can go wrong with a training."""

from dfine_jax.errors import InputError


class TrainingError(InputError):
    """A training that can't start or go on; one line that says why and what to do."""
