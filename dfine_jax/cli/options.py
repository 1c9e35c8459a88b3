"""Options that several verbs take, from text to values."""

import re

DEFAULT_MODEL = "nano-coco"


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"480x640"`` to (height, width); ``ValueError`` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match:
        raise ValueError(f"size {text!r}: give HEIGHTxWIDTH, such as 640x640")
    return int(match[1]), int(match[2])
