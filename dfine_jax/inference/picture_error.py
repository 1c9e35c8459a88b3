"""What is wrong with a picture."""

from dfine_jax.display import printable
from dfine_jax.errors import InputError

LONGEST_REASON = 120
"""Characters; some repeat what a server sent."""


class PictureError(InputError):
    """A picture that can't be found or read. One line: which, what is wrong with it, what to do."""


def reason(error: Exception) -> str:
    """An exception of a library as part of a line."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    text = printable(" ".join(str(text).split())) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."
