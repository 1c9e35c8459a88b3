"""Whether those that are timed give the same answer: each is compared with the library's in exact float32."""

from typing import Any

import numpy as np

from benchmarks.accelerator.scale import Row, Task
from benchmarks.inference import difference
from benchmarks.peers import Answer


def keep_answer(task: Task, size: str, logits: Any, boxes: Any) -> None:
    """Writes that to the first picture, for other parts."""
    np.savez(task.scratch / f"answer-{size}.npz", **_first(logits, boxes)._asdict())


def compared(task: Task, size: str, logits: Any, boxes: Any) -> Row:
    """How far an answer to the first picture is from that which was kept; nothing where none was.

    The correlation is of logits of queries that were paired by their boxes: differences are large where rounding chose
    another query. ``ValueError`` for values that are not finite.
    """
    answer, kept = _first(logits, boxes), task.scratch / f"answer-{size}.npz"
    if not all(np.isfinite(part).all() for part in answer):
        raise ValueError("its answer has values that are not finite")
    if not kept.exists():
        return {}
    with np.load(kept) as stored:
        apart = difference(answer, Answer(stored["logits"], stored["boxes"]))
    return {"correlation": apart.correlation, "logits_apart": apart.logits, "boxes_apart": apart.boxes}


def _first(logits: Any, boxes: Any) -> Answer:
    return Answer(*(np.asarray(x[:1], np.float32) for x in (logits, boxes)))
