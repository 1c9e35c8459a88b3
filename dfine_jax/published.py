"""The published models by their short names: where they are, what their projects say of them, under which licence.

AP is that on COCO's val2017 at 640x640 as the projects publish it: github.com/Peterande/D-FINE,
github.com/Intellindust-AI-Lab/DEIM, github.com/RT-DETRs/RT-DETRv4 (whose first README has 49.7 for S and 53.5 for M).
The last two give their files out through Google Drive; on the Hub the same weights are LibreYOLO's, by whose rule of
names the repositories are found: not each of them was seen.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """A published model."""

    repo: str
    """On the Hugging Face Hub."""
    family: str
    size: str
    trained_on: str
    ap: float | None
    """On COCO, where the project states it."""
    licence: str = "Apache-2.0"


_SIZES = {"nano": "n", "small": "s", "medium": "m", "large": "l", "xlarge": "x"}
_COCO = {"nano": 42.8, "small": 48.5, "medium": 52.3, "large": 54.0, "xlarge": 55.8}
_BOTH = {"small": 50.7, "medium": 55.1, "large": 57.3, "xlarge": 59.3}
_BOTH_REPOS = {"large": "ustc-community/dfine-large-obj2coco-e25"}
_DEIM = {"nano": 43.0, "small": 49.0, "medium": 52.7, "large": 54.7, "xlarge": 56.5}
_RTDETRV4 = {"small": 49.8, "medium": 53.7, "large": 55.4, "xlarge": 57.0}


def _of_dfine(size: str, data: str, trained_on: str, ap: float | None) -> Published:
    repo = f"ustc-community/dfine-{size}-{data}"
    return Published(
        _BOTH_REPOS.get(size, repo) if data == "obj2coco" else repo, "D-FINE", _SIZES[size], trained_on, ap
    )


PUBLISHED: dict[str, Published] = {
    **{f"{size}-coco": _of_dfine(size, "coco", "COCO", ap) for size, ap in _COCO.items()},
    **{f"{size}-obj2coco": _of_dfine(size, "obj2coco", "Objects365, then COCO", ap) for size, ap in _BOTH.items()},
    **{f"{size}-obj365": _of_dfine(size, "obj365", "Objects365", None) for size in _BOTH},
    **{
        f"deim-{size}-coco": Published(f"LibreYOLO/LibreDEIM{_SIZES[size]}", "DEIM", _SIZES[size], "COCO", ap)
        for size, ap in _DEIM.items()
    },
    **{
        f"rtdetrv4-{size}-coco": Published(
            f"LibreYOLO/LibreRTDETRv4{_SIZES[size]}", "RT-DETRv4", _SIZES[size], "COCO", ap
        )
        for size, ap in _RTDETRV4.items()
    },
}
"""By the names that ``--model`` takes."""
