"""How a model wants its pictures: ``preprocessor_config.json``, read and written."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dfine_jax.errors import InputError
from dfine_jax.json_file import read_object
from dfine_jax.limits import LARGEST_SIDE

# Whatever their backend, processors of this name are told apart by their settings only.
_PROCESSORS = ("RTDetrImageProcessor", "RTDetrImageProcessorFast", "RTDetrImageProcessorPil")
# Switches of a processor's settings that are honoured here, or that only concern annotations.
_KNOWN_SWITCHES = frozenset(
    {"do_resize", "do_rescale", "do_normalize", "do_pad", "do_convert_rgb", "do_convert_annotations"}
)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_LARGEST_NUMBER = 1e9
"""Of what pictures are scaled with: what is above overflows in float32 soon."""


class PreprocessingError(InputError):
    """Preprocessing settings that aren't supported. One line: the field, its value, what is."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input. Hashable, so it can be a static argument of `jax.jit`."""

    height: int = 640
    width: int = 640
    resample: Image.Resampling = Image.Resampling.BILINEAR
    """Pillow's filter, which always averages when it shrinks (antialias)."""
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] | None = None
    """Subtracted after rescaling, a number a channel; None, as published, for no normalisation."""
    std: tuple[float, float, float] | None = None
    """Divided by after `mean`; given exactly if `mean` is."""

    def __post_init__(self):
        for field in ("height", "width"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PreprocessingError(f"{field}={value!r:.40}: expected a positive whole number of pixels")
            if value > LARGEST_SIDE:
                raise PreprocessingError(f"{field}={value!r:.40}: expected at most {LARGEST_SIDE} pixels")
        if not (isinstance(self.rescale_factor, int | float) and 0 < self.rescale_factor <= _LARGEST_NUMBER):
            raise PreprocessingError(
                f"rescale_factor={self.rescale_factor!r:.40}: expected a positive number such as 1/255"
            )
        if (self.mean is None) != (self.std is None):
            raise PreprocessingError(f"mean={self.mean}, std={self.std}: give both or neither")
        if self.std is not None and 0.0 in self.std:
            raise PreprocessingError(f"std={self.std}: can't divide by 0")

    @classmethod
    def from_json(cls, source: str | os.PathLike | Mapping[str, Any]) -> "Preprocessing":
        """Reads a `preprocessor_config.json`, or the dict in it; fields left out have transformers' defaults.

        Raises PreprocessingError naming the file, the field and its value where the settings ask for something
        else than a stretch to one size, a rescaling and a normalisation.
        """
        if isinstance(source, Mapping):
            return cls._from_fields(source)
        fields = read_object(Path(source), PreprocessingError)
        try:
            return cls._from_fields(fields)
        except PreprocessingError as error:
            raise PreprocessingError(f"{os.fspath(source)}: {error}") from None
        except RecursionError:
            raise PreprocessingError(f"{os.fspath(source)}: a value is nested too deeply") from None

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        fields = {name: value for name, value in fields.items() if value is not None}
        processor = fields.get("image_processor_type", _PROCESSORS[0])
        if processor not in _PROCESSORS:
            raise PreprocessingError(
                f"image_processor_type={processor!r:.60} isn't supported; expected {_PROCESSORS[0]}"
            )
        if not fields.get("do_resize", True):
            raise PreprocessingError("do_resize=False isn't supported: the model runs at one size; set it to true")
        for name, value in fields.items():
            if name.startswith("do_") and name not in _KNOWN_SWITCHES and value:
                raise PreprocessingError(f"{name:.60}={value!r:.40} isn't supported; set it to false")

        size = fields.get("size", {"height": 640, "width": 640})
        if not isinstance(size, Mapping) or set(size) != {"height", "width"}:
            raise PreprocessingError(f"size={size!r:.60} isn't supported; expected a height and a width to stretch to")
        # All pictures have the same size once stretched, so padding to the largest changes nothing.
        if fields.get("do_pad", False) and fields.get("pad_size", size) != size:
            raise PreprocessingError(
                f"pad_size={fields['pad_size']!r:.60} isn't supported; leave it out or set do_pad=false"
            )

        factor = fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0
        normalises = fields.get("do_normalize", False)
        return cls(
            height=size["height"],
            width=size["width"],
            resample=_resampling(fields.get("resample", Image.Resampling.BILINEAR)),
            rescale_factor=_number("rescale_factor", factor),
            mean=_channels("image_mean", fields.get("image_mean", _IMAGENET_MEAN)) if normalises else None,
            std=_channels("image_std", fields.get("image_std", _IMAGENET_STD)) if normalises else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as transformers reads them from `preprocessor_config.json`."""
        return {
            "image_processor_type": _PROCESSORS[0],
            "do_resize": True,
            "size": {"height": self.height, "width": self.width},
            "resample": int(self.resample),
            "do_rescale": True,
            "rescale_factor": self.rescale_factor,
            "do_normalize": self.mean is not None,
            "image_mean": list(self.mean or _IMAGENET_MEAN),
            "image_std": list(self.std or _IMAGENET_STD),
            "do_pad": False,
            "do_convert_annotations": True,
            "format": "coco_detection",
        }


def _resampling(value: Any) -> Image.Resampling:
    try:
        return Image.Resampling(value)
    except (ValueError, TypeError):
        known = ", ".join(f"{r.value} ({r.name.lower()})" for r in Image.Resampling)
        raise PreprocessingError(f"resample={value!r:.40} isn't supported; expected one of {known}") from None


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PreprocessingError(f"{field}={value!r:.40} isn't supported; expected a number")
    if not (math.isfinite(value) if isinstance(value, float) else True) or abs(value) > _LARGEST_NUMBER:
        raise PreprocessingError(f"{field}={value!r:.40} isn't supported; expected a number within {_LARGEST_NUMBER:g}")
    return float(value)


def _channels(field: str, value: Any) -> tuple[float, float, float]:
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise PreprocessingError(f"{field}={value!r:.60} isn't supported; expected a number for each of the 3 channels")
    return tuple(_number(field, v) for v in values)
