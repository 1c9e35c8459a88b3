"""The names of classes in a Hub ``config.json``: ``id2label`` in any of its forms, ``label2id`` and ``num_labels``."""

import re
from collections.abc import Mapping
from typing import Any

from dfine_jax.json_fields import MOST, Fields, shown


def class_names(fields: Fields, classes: int | None) -> tuple[str, ...]:
    """Names by label; where there are none, or not as many as ``num_labels`` says, LABEL_0 and so on."""
    count = fields.integer("num_labels") if fields["num_labels"] is not None else None
    names = _named_labels(fields)
    if names is not None and (count in (None, len(names)) or classes == len(names)):
        return names
    return tuple(f"LABEL_{i}" for i in range(count or 2))


def _named_labels(fields: Fields) -> tuple[str, ...] | None:
    """The names in ``id2label``, an object or a list, or else in ``label2id``; None where there are none."""
    name = next((name for name in ("id2label", "label2id") if fields[name] is not None), None)
    if name is None:
        return None
    given = fields[name]
    if name == "id2label" and isinstance(given, list | tuple):
        pairs = list(enumerate(given))
    else:
        pairs = list(fields.object(name).items())
        pairs = pairs if name == "id2label" else [(label, text) for text, label in pairs]
    fields.require(0 < len(pairs) <= MOST, name, f"must name from 1 to {MOST:,} labels")
    by_label: dict[int, str] = {}
    for label, text in pairs:
        number = int(label) if re.fullmatch(r"\d{1,6}", str(label), re.ASCII) else None
        fields.require(number is not None, name, f"must have whole numbers for labels, not {label!r:.40}")
        fields.require(number not in by_label, name, f"must name each label once: {number} is there twice")
        is_name = isinstance(text, str | int | float) and not isinstance(text, bool)
        fields.require(is_name, name, f"must have text for names: that of label {number} is {shown(text)}")
        is_text = not any("\ud800" <= character <= "\udfff" for character in str(text))
        fields.require(is_text, name, f"must have text for names: that of label {number} has half a character")
        by_label[number] = str(text)
    missing = [label for label in range(len(pairs)) if label not in by_label]
    some = f"{', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
    are = "is" if len(missing) == 1 else "are"
    fields.require(not missing, name, f"must name labels 0, 1, 2, ... in full: {some} {are} missing")
    return tuple(by_label[label] for label in range(len(pairs)))


def labels_disagree(config: Mapping[str, Any]) -> str | None:
    """What ``num_labels`` and ``id2label`` say, where they don't say the same; None where they do."""
    count, names = config.get("num_labels"), config.get("id2label")
    if count is None or not isinstance(names, Mapping | list) or count == len(names):
        return None
    return f"config.json: num_labels = {count}, but id2label names {len(names)}"
