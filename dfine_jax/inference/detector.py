"""Pictures in, detections out: load once, compile once, call."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Int, UInt8
from PIL import Image

from dfine_jax.calibration import Calibration, read_calibration
from dfine_jax.config import DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.inference.arguments import of_packed, pack
from dfine_jax.inference.compiled import compile_lowered, lower_detection
from dfine_jax.inference.decoding import LARGE, Wanted
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.edges import Edges
from dfine_jax.inference.pictures import PictureError, loaded, picture_name
from dfine_jax.inference.postprocess import DetectionsWithEdges, TopDetections
from dfine_jax.inference.preprocess import resize
from dfine_jax.inference.program import detection_program
from dfine_jax.machine import arithmetic
from dfine_jax.preprocessing import Preprocessing

if TYPE_CHECKING:
    from dfine_jax.explain.explainer import Explainer
    from dfine_jax.explain.explanation import Explanation
    from dfine_jax.model.dfine import DFine
    from dfine_jax.weights.folder import StoredModel


MOST_AT_A_TIME = 4096
"""Largest batch."""
MOST_PIXELS = 4096 * 4096
"""Of what the model is given: attention takes memory by the square of it, gigabytes here."""


def require_size(preprocessing: Preprocessing) -> None:
    """``InputError`` for a size that no model takes."""
    height, width = preprocessing.height, preprocessing.width
    if height % 32 or width % 32:
        raise InputError(f"size {height}x{width} (height x width): both must be divisible by 32")
    if height * width > MOST_PIXELS:
        raise InputError(f"size {height}x{width} (height x width): more than {MOST_PIXELS:,} pixels; give less")


def _read_again(stored: "StoredModel") -> "DFine":
    from dfine_jax.pretrained import read_stored  # brings the converter

    return read_stored(stored).model


class Found(NamedTuple):
    """What came of one source: its detections, or the error that says why there are none."""

    source: Any
    outcome: Detections | PictureError
    picture: Image.Image | None
    """The upright RGB picture, where it was asked for."""


class _Prepared(NamedTuple):
    source: Any
    picture: Callable[[], Image.Image] | None
    """Gives all of it, where it was asked for."""
    size: tuple[int, int]
    """Width and height."""
    pixels: UInt8[np.ndarray, "H W 3"]


class Detector:
    """Finds things in pictures with a trained model.

    The program is compiled once, with ``from_pretrained`` when the model is loaded and else at the first use, for
    ``batch_size`` pictures of the size in ``preprocessing``: pictures of any size are stretched to it, a last batch
    that isn't full is filled up, so nothing is compiled twice.
    """

    def __init__(
        self,
        model: "DFine",
        preprocessing: Preprocessing | None = None,
        *,
        batch_size: int = 1,
        edges: bool = False,
        operands: np.dtype | None = None,
    ):
        """``InputError`` for a batch size or a picture size that is out of range, or not divisible by 32.

        With ``edges``, ``Detections.edges`` says how sure each edge's place is; for ``operands`` see
        ``dfine_jax.fuse``.
        """
        from dfine_jax.inference.fuse import fuse
        from dfine_jax.model.dfine import functional  # Flax takes a while to load, see ``from_stored``

        self._set(model.config, preprocessing or Preprocessing(), batch_size, edges)
        apply, params, batch_stats = functional(fuse(model, operands=operands))
        self._apply, _ = of_packed(apply, params)
        self._variables = jax.device_put((pack(params), batch_stats))
        self._unfolded = lambda: model

    def _set(self, config: DFineConfig, preprocessing: Preprocessing, batch_size: int, edges: bool) -> None:
        if not 1 <= batch_size <= MOST_AT_A_TIME:
            raise InputError(f"batch size {batch_size}: give 1 to {MOST_AT_A_TIME:,}")
        require_size(preprocessing)
        self.config = config
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.edges = edges
        self.calibration: Calibration | None = None
        """By which intervals of edges are corrected."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        size: tuple[int, int] | None = None,
        dtype: str = "float32",
        batch_size: int = 1,
        edges: bool = False,
        revision: str | None = None,
        token: str | None = None,
        family: str | None = None,
    ) -> "Detector":
        """Loads a model by name, see ``load_pretrained``.

        ``size`` (height, width) replaces the model's own input size, ``dtype`` is float32 or bfloat16,
        see ``dfine_jax.machine.arithmetic``. With ``edges``, ``Detections.edges`` says how sure each edge's place is,
        corrected by the model's ``calibration.json`` where there is one; without, nothing is computed for it.
        """
        from dfine_jax.pretrained import open_pretrained, warn_of  # brings the converter, which a Detector doesn't need

        stored = open_pretrained(name, revision=revision, token=token, family=family)
        warn_of(stored)
        calibration = read_calibration(stored.place) if edges and stored.place is not None else None
        detector = cls.from_stored(stored, size=size, dtype=dtype, batch_size=batch_size, edges=edges)
        detector.calibration = calibration
        return detector

    @classmethod
    def from_stored(
        cls,
        stored: "StoredModel",
        *,
        size: tuple[int, int] | None = None,
        dtype: str = "float32",
        batch_size: int = 1,
        edges: bool = False,
        quick: bool = False,
    ) -> "Detector":
        """Loads a model that ``open_pretrained`` found; the options are those of ``from_pretrained``.

        ``quick`` is for a single picture: on a CPU it compiles in a third of the time and in less memory, to a program
        that is two to three times slower.

        The program comes first and then the weights, one by one: compiling is what takes most memory. Where the program
        was kept, Flax is not even imported.
        """
        preprocessing = stored.preprocessing
        if size is not None:
            preprocessing = replace(preprocessing, height=size[0], width=size[1])
        detector = cls.__new__(cls)
        detector._set(stored.config, preprocessing, batch_size, edges)
        how = dict(quick=quick, edges=edges)
        program = detection_program(stored.config, arithmetic(dtype), preprocessing, batch_size, **how)
        params, batch_stats = {}, {}
        for variable, value in program.fusion.variables(stored.arrays()):
            kind = batch_stats if variable in program.batch_stats else params
            kind[variable] = value if value.ndim == 1 else jax.device_put(value)  # short ones are packed first
        detector.compiled = program.compiled
        detector._unfolded = lambda: _read_again(stored)
        detector._variables = jax.device_put((pack(params), batch_stats))
        return detector

    @cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The compiled program, from resized pictures to their best detections."""
        lowered = lower_detection(self._apply, *self._variables, self.preprocessing, self.batch_size, edges=self.edges)
        return compile_lowered(lowered)

    def run(
        self, images: UInt8[ArrayLike, "B H W 3"], sizes: Int[ArrayLike, "B 2"]
    ) -> TopDetections | DetectionsWithEdges:
        """What the device computes: the best detections of resized pictures, given their original (height, width)."""
        return self.compiled(*self._variables, images, sizes)

    def __call__(self, pictures: Any, threshold: float = 0.5) -> Detections | list[Detections]:
        """Detections that score more than ``threshold`` (0 to 1), best first; a list of them for a list of pictures.

        A picture is a path, an address, a PIL image or an array (see ``load_picture``). Raises ``PictureError`` for
        the first that can't be read.
        """
        if not isinstance(pictures, list | tuple):
            return self([pictures], threshold)[0]
        results = []
        for found in self.stream(pictures, threshold):
            if isinstance(found.outcome, PictureError):
                raise found.outcome
            results.append(found.outcome)
        return results

    def explain(self, picture: Any, detections: int | Iterable[int] = 3, *, name: str | None = None) -> "Explanation":
        """Tells how the model comes to its best detections of a picture, so many or those of the given places.

        The first call compiles a program for it, of the weights as they were before norms were folded. See
        ``dfine_jax.Explainer`` for what it takes and raises.
        """
        return self._explainer(picture, detections, name=name)

    @cached_property
    def _explainer(self) -> "Explainer":
        from dfine_jax.explain.explainer import Explainer  # whoever only detects needs none of it

        return Explainer(self._unfolded(), self.preprocessing)

    def stream(self, sources: Iterable[Any], threshold: float = 0.5, *, keep_pictures: bool = False) -> Iterator[Found]:
        """Detections of many pictures, in their order, as they come; unreadable ones don't stop the others.

        Pictures are decoded and stretched in other threads while the model computes; only a few are held at a time.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold}: expected a score from 0 to 1")
        waiting: list[_Prepared | Found] = []
        running: deque[tuple[list[_Prepared | Found], TopDetections | DetectionsWithEdges]] = deque()
        with _pool() as (pool, stopped):
            for prepared in self._prepared(pool, sources, keep_pictures, stopped):
                waiting.append(prepared)
                if sum(isinstance(entry, _Prepared) for entry in waiting) == self.batch_size:
                    running.append((waiting, self._run(waiting)))
                    waiting = []
                if len(running) > 1:  # one batch computes while the next is prepared
                    yield from self._finish(*running.popleft(), threshold)
            running.append((waiting, self._run(waiting)))
            for batch in running:
                yield from self._finish(*batch, threshold)

    def _prepared(
        self, pool: ThreadPoolExecutor, sources: Iterable[Any], keep_pictures: bool, stopped: Event
    ) -> Iterator[_Prepared | Found]:
        """Decoded and stretched pictures in order, no more than a batch or two ahead."""
        ahead: deque[Future] = deque()
        for source in sources:
            ahead.append(pool.submit(self._prepare, source, keep_pictures, stopped))
            if len(ahead) > self.batch_size + 4:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _prepare(self, source: Any, keep_picture: bool, stopped: Event) -> _Prepared | Found:
        wanted = Wanted(self.preprocessing.width, self.preprocessing.height, self.preprocessing.resample)
        try:
            with loaded(source, wanted=wanted, stopped=stopped) as (picture, size, again):
                pixels = resize(picture, self.preprocessing)
        except PictureError as error:
            return Found(source, error, None)
        if not keep_picture:
            return _Prepared(source, None, size, pixels)
        # A large one is decoded again when its turn comes, rather than kept.
        return _Prepared(source, again if size[0] * size[1] > LARGE else lambda: picture, size, pixels)

    def _run(self, entries: list[_Prepared | Found]) -> TopDetections | DetectionsWithEdges | None:
        """Starts the computation for the readable ones among ``entries``, without waiting for it."""
        pictures = [entry for entry in entries if isinstance(entry, _Prepared)]
        if not pictures:
            return None
        height, width = self.preprocessing.height, self.preprocessing.width
        images = np.zeros((self.batch_size, height, width, 3), np.uint8)
        sizes = np.ones((self.batch_size, 2), np.int32)
        for i, picture in enumerate(pictures):
            images[i] = picture.pixels
            sizes[i] = picture.size[::-1]
        top = self.run(images, sizes)
        for each in top:  # starts on its way to the host as soon as it is there, and not when somebody waits for it
            each.copy_to_host_async()
        return top

    def _finish(
        self, entries: list[_Prepared | Found], top: TopDetections | DetectionsWithEdges | None, threshold: float
    ) -> Iterator[Found]:
        rows = iter(zip(*map(np.asarray, top), strict=True)) if top is not None else iter(())
        for entry in entries:
            if isinstance(entry, Found):
                yield entry
                continue
            scores, labels, boxes, *edges = next(rows)
            try:
                picture = entry.picture and entry.picture()
            except PictureError as error:  # it has gone in the meantime
                yield Found(entry.source, error, None)
                continue
            detections = Detections.above(
                threshold,
                scores,
                labels,
                boxes,
                class_names=self.config.class_names,
                size=entry.size,
                image=picture_name(entry.source),
                edges=Edges.of(*edges, calibration=self.calibration) if edges else None,
            )
            yield Found(entry.source, detections, picture)


@contextmanager
def _pool() -> Iterator[tuple[ThreadPoolExecutor, Event]]:
    """Threads that begin nothing new once the block has ended, also where it ends by an exception.

    They are waited for, and what is set then tells those that wait for something.
    """
    pool, stopped = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)), Event()
    try:
        yield pool, stopped
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
