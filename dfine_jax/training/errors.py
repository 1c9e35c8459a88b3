"""What can go wrong with a training."""

from dfine_jax.errors import InputError


class TrainingError(InputError):
    """A training that can't start or go on; one line that says why and what to do."""


class WriteError(TrainingError):
    """Something of a training can't be written: a full disk, a folder that was removed, one without permission."""


def first_line(error: BaseException) -> str:
    """Gives what an exception says, without what libraries add below it; the reason alone of an error of the system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
