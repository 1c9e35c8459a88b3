"""What went on in the network for some detections, as arrays in pixels of the original picture."""

import dataclasses
import io
import os

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dfine_jax.errors import InputError
from dfine_jax.explain.watched import CellAttention, attention_rows
from dfine_jax.inference.detections import Detections
from dfine_jax.whole_files import write_whole

EDGES = ("left", "top", "right", "bottom")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """How each of N detections in one picture came about.

    I decoder layers, W values of an edge's distribution, M heads with P sampling points each, K classes, L levels of
    feature maps. Pixels are those of the original picture.
    """

    detections: Detections
    """What is explained, best first; the same that a ``Detector`` finds."""
    ranks: Int[np.ndarray, " N"]
    """Place of the detection's query in the selection, which takes the cells with the best scores: 0 was the best."""
    levels: Int[np.ndarray, " N"]
    """Level of the feature map that the query was chosen from; 0 is the finest."""
    cells: Int[np.ndarray, "N 2"]
    """Row and column of the cell in that map."""
    boxes: Float[np.ndarray, "N I+2 4"]
    """x0, y0, x1, y1 on the way: chosen with the cell, as moved by the first layer's plain head, which all
    distributions refer to, and then after each layer. The last is the detection's."""
    offsets: Float[np.ndarray, " W"]
    """W(n), what each bin stands for, in widths or heights of the box over the model's ``reg_scale``."""
    distributions: Float[np.ndarray, "N I 4 W"]
    """After each layer and for each edge (left, top, right, bottom): the probability of every bin."""
    positions: Float[np.ndarray, "N 4 W"]
    """Where each bin would put the edge: x of left and right, y of top and bottom."""
    points: Float[np.ndarray, "N I M P 2"]
    """x, y of each point at which the layer reads the feature maps."""
    weights: Float[np.ndarray, "N I M P"]
    """Share of each point in what its head reads; a head's sum is one."""
    point_levels: Int[np.ndarray, " P"]
    """Level of the map that each point is read from."""
    quality: Float[np.ndarray, "N I"]
    """Location quality after each layer: what it adds to the logit of every class."""
    quality_inputs: Float[np.ndarray, "N I 4 S"]
    """What quality is told: of each edge the largest probabilities, and last their mean."""
    logits: Float[np.ndarray, "N I K"]
    """Of each class after each layer, quality included."""
    score_maps: tuple[Float[np.ndarray, "H W"], ...]
    """Level by level, the best class score, 0 to 1, that the encoder gives to each cell. The best become queries."""
    attention: Float[np.ndarray, "N M h w"] | None
    """AIFI's attention from the cell at each box's centre, see ``attention_from``; None for a model without AIFI."""
    cell_attention: CellAttention | None
    """The vectors by which AIFI's last layer compares all cells, a row a cell."""

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        return f"Explanation of {self.detections!r}"

    @property
    def edges(self) -> Float[np.ndarray, "N I 4"]:
        """Mean of each distribution, in pixels: x0, y0, x1, y1 after each layer, as in ``boxes``."""
        return np.einsum("niew,new->nie", self.distributions, self.positions)

    @property
    def spreads(self) -> Float[np.ndarray, "N I 4"]:
        """Standard deviation of each distribution, in pixels."""
        distances = self.positions[:, None] - self.edges[..., None]
        return np.sqrt(np.einsum("niew,niew->nie", self.distributions, distances**2))

    @property
    def cell_centres(self) -> Float[np.ndarray, "N 2"]:
        """x, y of the middle of the cell that each query was chosen from, in pixels."""
        width, height = self.detections.size
        shapes = np.array([self.score_maps[level].shape for level in self.levels]).reshape(-1, 2)
        return ((self.cells + 0.5) / shapes * [height, width])[:, ::-1]

    def attention_from(self, x: float, y: float) -> Float[np.ndarray, "M h w"]:
        """How much of every cell each head of AIFI's last layer takes into the cell at pixel (x, y).

        A head's sum is one. ``InputError`` for a place outside of the picture or a model without AIFI.
        """
        if self.attention is None:
            raise InputError("this model has no attention within a map (AIFI): look at points and weights instead")
        width, height = self.detections.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise InputError(f"({x}, {y}) lies outside of the picture: give x from 0 to {width}, y from 0 to {height}")
        return attention_at(self.cell_attention, self.attention.shape[1:], (x / width, y / height))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, as ``save`` writes it; ``score_map_0`` is the finest level's."""
        detections = self.detections
        named = {
            "image": np.array(detections.image),
            "size": np.array(detections.size),
            "labels": np.array(detections.names, dtype=str),
            "label_ids": detections.label_ids,
            "scores": detections.scores,
        }
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                named[field.name] = value
        return named | {f"score_map_{level}": scores for level, scores in enumerate(self.score_maps)}

    def save(self, path: str | os.PathLike) -> None:
        """Writes ``arrays`` as one ``.npz``, which ``numpy.load`` reads."""
        content = io.BytesIO()
        np.savez_compressed(content, **self.arrays())
        write_whole(path, content.getvalue())


def attention_at(
    compared: CellAttention, shape: tuple[int, int, int], place: tuple[float, float]
) -> Float[np.ndarray, "M h w"]:
    """AIFI's attention from the cell at ``place``, x and y in 0..1; ``shape`` is (heads, rows, columns)."""
    heads, rows, columns = shape
    column, row = (min(int(max(share, 0) * size), size - 1) for share, size in zip(place, (columns, rows), strict=True))
    found = attention_rows(jnp.asarray(compared.query[row * columns + column]), jnp.asarray(compared.key), heads)
    return np.asarray(found).reshape(shape)
