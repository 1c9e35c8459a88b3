"""Names and shapes of a model's arrays, without its arrays."""

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from dfine_jax.config import DFineConfig
from dfine_jax.kept import kept

Shape = tuple[int, ...]


@lru_cache(maxsize=8)
def model_shapes(config: DFineConfig) -> tuple[Mapping[str, Shape], Mapping[str, Shape]]:
    """Names and shapes of the parameters and of the batch statistics that a model of this configuration has."""

    def shapes() -> tuple[dict[str, Shape], dict[str, Shape]]:
        from dfine_jax.model.dfine import DFine, variables

        params, batch_stats = variables(DFine(config))
        return tuple({name: value.shape for name, value in kind.items()} for kind in (params, batch_stats))

    params, batch_stats = kept("shapes", config, shapes, dump=_as_json, load=_from_json)
    return MappingProxyType(params), MappingProxyType(batch_stats)


def _as_json(shapes: tuple[dict[str, Shape], ...]) -> bytes:
    return json.dumps(shapes).encode()


def _from_json(text: bytes) -> tuple[dict[str, Shape], ...]:
    return tuple({name: tuple(shape) for name, shape in kind.items()} for kind in json.loads(text))
