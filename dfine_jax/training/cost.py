"""What a training step takes, in operations and bytes, guessed from a model's shapes alone, without compiling it.

A guess decides what is compiled; what the compiled program needs and how long it takes is measured then.
"""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dfine_jax.config import DFineConfig
from dfine_jax.model_shapes import model_shapes

FORWARD_AND_BACKWARD = 3
"""Operations of a step over those of the forward pass: each product has two gradients, as large."""
KEPT = 12.0
"""Bytes kept for the backward pass for each number that a convolution or a product gives (measured)."""
STATE = 5
"""Copies of every parameter: itself, two averages of AdamW's, the moving average and the gradient."""
PROGRAM = 100e6
"""Bytes of a compiled step besides."""
PRODUCT = 1024
"""Side of the matrices by which a device's speed is measured."""
SHARE_OF_PRODUCTS = 0.4
"""How fast a step is, in operations a second, over such products (measured on CPUs)."""


class Cost(NamedTuple):
    """Of one picture in the forward pass."""

    operations: float
    numbers: float
    """That convolutions and products give, all of them together."""


class Shape(NamedTuple):
    """What of a training decides what a step takes."""

    image_size: int
    queries: int
    copies: int
    """Of the denoising part."""
    most_boxes: int


def strides(config: DFineConfig) -> tuple[int, ...]:
    """Pixels, along a side, in a cell of each map that the decoder sees, the finest first."""
    halvings = [stage.downsample for stage in config.backbone.stages]
    found = [4 * 2 ** sum(halvings[:stage]) for stage in config.backbone.out_stages]
    while len(found) < config.decoder.levels:
        found.append(2 * found[-1])
    return tuple(found)


def forward_cost(config: DFineConfig, shape: Shape) -> Cost:
    """The cost of one picture, in training."""
    params, _ = model_shapes(config)
    cells = [math.ceil(shape.image_size / stride) ** 2 for stride in strides(config)]
    queries = shape.queries + 2 * max(shape.copies, shape.most_boxes) * (shape.copies > 0)
    operations = numbers = 0.0
    for name, kernel in params.items():
        if name.endswith("kernel"):
            places = _places(name.split("."), config, shape.image_size, cells, queries)
            operations += 2 * math.prod(kernel) * places
            numbers += kernel[-1] * places
    decoder = config.decoder
    seen = queries * (decoder.heads * queries + 2 * decoder.width * sum(decoder.points))
    tokens = max(cells[level] for level in config.encoder.attention_levels) if config.encoder.attention_levels else 0
    numbers += decoder.layers * seen + config.encoder.heads * tokens**2
    operations += 4 * decoder.layers * queries**2 * decoder.width + 4 * tokens**2 * config.encoder.width
    return Cost(operations, numbers)


def _places(name: list[str], config: DFineConfig, size: int, cells: list[int], queries: int) -> int:
    """How many places a kernel is applied at: cells of the map that it makes, or queries."""
    room, part, *rest = name
    if room == "backbone":
        if part == "stem":
            stride = 4 if rest[0] in ("stem3", "stem4") else 2
        else:
            stride = 4 * 2 ** sum(stage.downsample for stage in config.backbone.stages[: int(rest[0]) + 1])
        return math.ceil(size / stride) ** 2
    if room == "encoder":
        number = int(rest[0])
        last = len(cells) - 1
        level = {
            "input_proj": number,
            "attention": config.encoder.attention_levels[number] if part == "attention" else 0,
            "lateral": last - number,
            "fpn": last - 1 - number,
        }.get(part, number + 1)
        return cells[min(max(level, 0), last)]
    return sum(cells) if part.startswith(("encoder_", "input_proj")) and part != "encoder_box" else queries


def step_memory(config: DFineConfig, shape: Shape, pictures: int) -> int:
    """Bytes that a step needs beside nothing else, with so many pictures at a time on each device."""
    params, _ = model_shapes(config)
    state = 4 * STATE * sum(math.prod(array) for array in params.values())
    return round(state + PROGRAM + KEPT * pictures * forward_cost(config, shape).numbers)


def step_seconds(config: DFineConfig, shape: Shape, pictures: int, speed: float) -> float:
    """Seconds of a step with so many pictures on each device, whose speed is given in operations a second."""
    return FORWARD_AND_BACKWARD * pictures * forward_cost(config, shape).operations / speed


def training_speed(device: jax.Device) -> float:
    """Operations a second in which a step will probably do, by how fast a product is; takes a fraction of a second."""
    matrix = jax.device_put(jnp.ones((PRODUCT, PRODUCT), jnp.float32), device)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    fastest = math.inf
    for _ in range(5):
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        fastest = min(fastest, time.perf_counter() - began)
    return SHARE_OF_PRODUCTS * 2 * PRODUCT**3 / fastest
