"""D-FINE, a real-time object detector, in JAX and Flax.

Names are imported when they are first used, so that ``import dfine_jax`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfine_jax.config import DFineConfig
    from dfine_jax.explain.explainer import Explainer
    from dfine_jax.explain.explanation import Explanation
    from dfine_jax.explain.figure import explain_figure
    from dfine_jax.inference.detections import Detection, Detections
    from dfine_jax.inference.detector import Detector
    from dfine_jax.inference.draw import draw
    from dfine_jax.inference.fuse import fuse
    from dfine_jax.inference.memory import keep_freed_memory
    from dfine_jax.model.dfine import DFine, Functional, functional
    from dfine_jax.ops.compute import Compute
    from dfine_jax.pretrained import Pretrained, load_pretrained

_HOMES = {
    "Compute": "dfine_jax.ops.compute",
    "DFine": "dfine_jax.model.dfine",
    "DFineConfig": "dfine_jax.config",
    "Detection": "dfine_jax.inference.detections",
    "Detections": "dfine_jax.inference.detections",
    "Detector": "dfine_jax.inference.detector",
    "Explainer": "dfine_jax.explain.explainer",
    "Explanation": "dfine_jax.explain.explanation",
    "Functional": "dfine_jax.model.dfine",
    "Pretrained": "dfine_jax.pretrained",
    "draw": "dfine_jax.inference.draw",
    "explain_figure": "dfine_jax.explain.figure",
    "functional": "dfine_jax.model.dfine",
    "fuse": "dfine_jax.inference.fuse",
    "keep_freed_memory": "dfine_jax.inference.memory",
    "load_pretrained": "dfine_jax.pretrained",
}

__all__ = [
    "Compute",
    "DFine",
    "DFineConfig",
    "Detection",
    "Detections",
    "Detector",
    "Explainer",
    "Explanation",
    "Functional",
    "Pretrained",
    "draw",
    "explain_figure",
    "functional",
    "fuse",
    "keep_freed_memory",
    "load_pretrained",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dfine_jax' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
