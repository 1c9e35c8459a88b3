"""Orbax checkpoints written and read a few arrays at a time: as a whole they take the memory of the weights twice."""

import asyncio
import logging
import math
import os
import re
import tempfile
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dfine_jax.errors import InputError
from dfine_jax.weights.fill import CheckpointError, Shape

WRITE_BYTES, READ_BYTES = 8 * 2**20, 32 * 2**20
"""Arrays are committed to the disk, and read, in batches of about this size."""

Shapes = Mapping[str, Mapping[str, Shape]]
"""For each part of a checkpoint, the names and shapes of its arrays. Names are unique across parts."""


def save_streamed(path: Path, shapes: Shapes, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes dictionaries of arrays as any Orbax handler of PyTrees reads them.

    ``InputError`` unless ``arrays`` are exactly those of ``shapes``, in whatever order.
    """
    tree = {part: {name: _Place(name, shape) for name, shape in kind.items()} for part, kind in shapes.items()}
    registry = ocp.type_handlers.create_type_handler_registry(
        (_Place, _StreamHandler(arrays)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # none comes, but Orbax warns where it isn't there
    )
    with _plain(path) as plain, _checkpointer(type_handler_registry=registry) as checkpointer:
        try:
            checkpointer.save(plain, args=ocp.args.PyTreeSave(tree))
        except ValueError as error:
            if code := re.search(r"os_error_code='(\d+)'", str(error)):  # what the system says, within a long text
                raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
            raise


def stored_shapes(path: Path) -> Shapes:
    """What a checkpoint of ``save_streamed`` holds; ``CheckpointError`` where it is damaged or something else."""
    try:
        with _plain(path) as plain, _without_warnings(), _reader() as checkpointer:
            about = checkpointer.metadata(plain).item_metadata
        if about is None:
            raise ValueError("the names of its arrays can't be read: files are cut, changed or missing")
        tree = about.tree
        return {part: {name: tuple(leaf.shape) for name, leaf in kind.items()} for part, kind in tree.items()}
    except Exception as error:  # whatever its storage raises
        raise _damaged(path, error) from None


def read_streamed(path: Path, shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of a checkpoint that holds exactly ``shapes``; ``CheckpointError`` where it is damaged."""
    with _plain(path) as plain, _reader() as checkpointer:
        for batch in _batches(shapes):
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), batch)
            wanted = ocp.args.PyTreeRestore(item=batch, restore_args=as_numpy, partial_restore=True)
            try:
                with _without_warnings():
                    tree = checkpointer.restore(plain, args=wanted)
            except Exception as error:
                raise _damaged(path, error) from None
            for kind in tree.values():
                yield from kind.items()


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The same place by a plain name: Orbax takes brackets for patterns and can't store where bytes are no UTF-8."""
    path = path.absolute()
    if re.fullmatch(r"[\w./+=, -]+", str(path), re.ASCII):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model"
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


@contextmanager
def _without_warnings() -> Iterator[None]:
    """What Orbax warns of is in the exception that follows."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reader() -> ocp.Checkpointer:
    registry = ocp.type_handlers.create_type_handler_registry(
        (int, _ReadHandler()), (np.ndarray, _ReadHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    return _checkpointer(type_handler_registry=registry)


def _checkpointer(**options: Any) -> ocp.Checkpointer:
    """For this process alone: where several train together, one of them writes and reads without the others."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(own, active_processes={own}, barrier_sync_key_prefix=f"alone_{own}")
    handler = ocp.PyTreeCheckpointHandler(**options, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _batches(shapes: Shapes) -> Iterator[dict[str, dict[str, int]]]:
    batch: dict[str, dict[str, int]] = {}
    size = 0
    for part, kind in shapes.items():
        for name, shape in kind.items():
            batch.setdefault(part, {})[name] = 0
            size += 4 * math.prod(shape)
            if size >= READ_BYTES:
                yield batch
                batch, size = {}, 0
    if batch:
        yield batch


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{path} is damaged or no Orbax checkpoint ({reason:.200})")


class _ReadHandler(ocp.type_handlers.NumpyHandler):
    """Where reading one array fails it waits for the others: they would each complain that nobody does, at length."""

    async def deserialize(self, infos: Sequence[Any], args: Sequence[Any] | None = None) -> list[np.ndarray]:
        args = args or [ocp.RestoreArgs()] * len(infos)
        each = (super(_ReadHandler, self).deserialize([i], [a]) for i, a in zip(infos, args, strict=True))
        return await _all_of(each)

    async def metadata(self, infos: Sequence[Any]) -> list[Any]:
        return await _all_of(super(_ReadHandler, self).metadata([info]) for info in infos)


async def _all_of(each: Iterable[Awaitable[Sequence[Any]]]) -> list[Any]:
    outcomes = await asyncio.gather(*each, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [value for outcome in outcomes for value in outcome]


@dataclass(frozen=True)
class _Place:
    """Stands in the tree for an array that is yet to come."""

    name: str
    shape: Shape


class _StreamHandler(ocp.type_handlers.NumpyHandler):
    """Takes the arrays from the stream instead of from the tree."""

    def __init__(self, arrays: Iterable[tuple[str, np.ndarray]]):
        super().__init__()
        self.arrays = arrays
        self.failures: list[Exception] = []

    async def serialize(self, values: Sequence[_Place], infos: Sequence[Any], args: Sequence[Any] | None = None):
        args = args or [ocp.type_handlers.SaveArgs()] * len(values)
        waiting = {place.name: (place, *rest) for place, *rest in zip(values, infos, args, strict=True)}
        batch, size = [], 0
        for name, array in self.arrays:
            place, info, arg = waiting.pop(name, (None, None, None))
            if place is None or array.shape != place.shape:
                raise InputError(f"{name} of shape {array.shape} is not the model's, or is given twice")
            batch.append((array, info, arg))
            size += array.nbytes
            if size >= WRITE_BYTES:
                await self._commit(batch)
                batch, size = [], 0
        if waiting:
            raise InputError(f"arrays of the model are missing: {', '.join(sorted(waiting))}")
        await self._commit(batch)
        return []

    async def _commit(self, batch: list[tuple[np.ndarray, Any, Any]]) -> None:
        if batch:
            for commit in await super().serialize(*map(list, zip(*batch, strict=True))):
                commit.result()
        if self.failures:
            raise self.failures[0]

    async def _open_and_write(self, *args: Any, **options: Any) -> None:
        """Writes one array. An error waits until all have ended: else each of the others complains, at length."""
        try:
            await super()._open_and_write(*args, **options)
        except Exception as error:
            self.failures.append(error)

    def memory_size(self, values: Sequence[_Place]) -> Sequence[tuple[int, int]]:
        return [(0, 0)] * len(values)
