"""How a size is trained: the published settings of each, as frozen values of which every field can be replaced.

Numbers are those of the original release for COCO, from an ImageNet backbone or from Objects365 (``fine_tune``).
"""

from dataclasses import dataclass, replace
from typing import Literal

from dfine_jax.config import SIZES, DFineConfig
from dfine_jax.data.augmentation import Augmentation
from dfine_jax.data.sampling import Sampling
from dfine_jax.errors import InputError
from dfine_jax.training.criterion import LossWeights
from dfine_jax.training.denoising import COPIES
from dfine_jax.training.matching import MatchWeights

Size = Literal["n", "s", "m", "l", "x"]
STRONG_SHARE = 0.8
"""Of all steps where their number is given; the rest only flip and stretch."""
Kind = Literal["norms", "biases", "affines"]
"""What may be spared from weight decay: everything of a normalisation; biases; HGNetV2's learnable affine blocks."""


@dataclass(frozen=True)
class Optimization:
    """AdamW and what surrounds it."""

    learning_rate: float = 2e-4
    """Of encoder and decoder, for the recipe's batch size."""
    backbone_learning_rate: float = 1e-4
    """Of the backbone."""
    weight_decay: float = 1e-4
    """Decoupled: a step takes learning rate times this off each decayed weight."""
    no_decay: tuple[Kind, ...] = ("norms", "biases")
    """What does not decay in encoder and decoder."""
    backbone_no_decay: tuple[Kind, ...] = ()
    """What does not decay in the backbone. (The release's pattern for its norms matches none of them.)"""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two averages."""
    clip_norm: float = 0.1
    """The norm of all gradients together is brought down to this."""
    warmup_steps: int = 500
    """The learning rates rise linearly from zero over so many steps."""
    cooldown: float = 0.0
    """Share of all steps, at the end, in which they fall to zero along a cosine; 0, the release's way, never."""
    accumulate: int = 1
    """Each batch goes through the network in so many parts, to save memory."""
    freeze_stem: bool = False
    """Keep the backbone's stem as loaded."""
    freeze_backbone_norms: bool = False
    """Keep the backbone's batch norms, statistics included, as loaded."""


@dataclass(frozen=True)
class Averaging:
    """The exponential moving average (EMA) of parameters and batch statistics, which is what gets evaluated and saved.

    After t updates the decay is ``decay * (1 - exp(-t / time_constant))``.
    """

    decay: float = 0.9999
    """Where it ends: the average looks back over about 1 / (1 - decay) steps. Short trainings need less, say 0.999."""
    time_constant: float = 1000.0
    """Updates in which it gets there."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a training does, besides model and data."""

    epochs: int = 132
    """How often every picture is seen."""
    strong_epochs: int = 120
    """How many of these have the strong augmentation; the rest only flip and stretch, at one size. Follows ``epochs``
    on the command line."""
    batch_size: int = 32
    """Pictures a step, over all devices."""
    image_size: int = 640
    """Height and width in pixels that pictures are stretched to; divisible by 32."""
    scale_repeats: int = 0
    """How often ``image_size`` is in the list, 3/4 to 5/4 of it in steps of 32, that each batch's size is drawn from;
    0: always that size. Each size is compiled once."""
    augmentation: Augmentation = Augmentation()
    optimization: Optimization = Optimization()
    averaging: Averaging = Averaging()
    denoising_copies: int = COPIES
    """About how many noisy copies of a picture's boxes the decoder learns to repair; 0: none."""
    loss: LossWeights = LossWeights()
    matching: MatchWeights = MatchWeights()
    steps: int | None = None
    """Length in steps, instead of epochs."""
    strong_steps: int | None = None
    """How many of these have the strong augmentation; all but the last fifth if not given."""
    minutes: float | None = None
    """How long the training may take, evaluations and saving included. Steps are laid by it once the first ones have
    been measured, and written to training.json."""
    sampling: Sampling = "uniform"
    """Which pictures an epoch shows: each once; or those with rare classes more often, by LVIS's repeat factors."""

    def __post_init__(self) -> None:
        opt = self.optimization
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size), ("accumulate", opt.accumulate)):
            if value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        for name, value in (("strong_epochs", self.strong_epochs), ("scale_repeats", self.scale_repeats)):
            if value < 0:
                raise InputError(f"{name} is {value}: it must not be negative")
        for name, value in (("steps", self.steps), ("minutes", self.minutes)):
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}: it must be above 0")
        if self.image_size < 32 or self.image_size % 32:
            raise InputError(f"image_size is {self.image_size}: it must be a multiple of 32")
        if self.batch_size % opt.accumulate:
            raise InputError(f"batch_size {self.batch_size} can't be split into accumulate = {opt.accumulate} parts")
        if not 0 <= opt.cooldown <= 1:
            raise InputError(f"cooldown is {opt.cooldown}: it is a share of all steps, from 0 to 1")
        if not 0 <= self.averaging.decay < 1 or self.averaging.time_constant <= 0:
            raise InputError(
                f"averaging has decay {self.averaging.decay} and time_constant {self.averaging.time_constant}: "
                "the decay must be in 0..1 (below 1), the time constant above 0"
            )

    @classmethod
    def for_size(cls, size: Size, *, fine_tune: bool = False) -> "Recipe":
        """The published recipe of a size; ``fine_tune``: from a trained detector instead of a trained backbone."""
        if size not in _RECIPES:
            raise InputError(f"no recipe for size {size!r}: choose one of {', '.join(_RECIPES)}")
        recipe = _RECIPES[size]
        if fine_tune:
            epochs, strong = _FINE_TUNING[size]
            optimization = replace(recipe.optimization, warmup_steps=0)
            recipe = replace(recipe, epochs=epochs, strong_epochs=strong, optimization=optimization)
        return recipe

    @classmethod
    def for_config(cls, config: DFineConfig, *, fine_tune: bool = False) -> "Recipe":
        """The recipe of the published size with the same backbone; size N's for any other."""
        for size, make in SIZES.items():
            if replace(make().backbone, frozen_norms=config.backbone.frozen_norms) == config.backbone:
                return cls.for_size(size, fine_tune=fine_tune)
        return cls.for_size("n", fine_tune=fine_tune)

    @property
    def steps_with_strong_augmentation(self) -> int | None:
        """Where the length is one in steps: the first step of the last phase, counted from 0."""
        if self.steps is None:
            return None
        return round(STRONG_SHARE * self.steps) if self.strong_steps is None else self.strong_steps

    @property
    def flat_steps(self) -> int | None:
        """Where the length is one in steps: how many there are before learning rates fall; all, where they never do."""
        return None if self.steps is None else self.steps - round(self.optimization.cooldown * self.steps)

    @property
    def falling(self) -> str:
        """In words: from when on learning rates fall."""
        if not self.optimization.cooldown:
            return "then flat"
        if self.steps is None:
            return f"then flat, falling along a cosine in the last {self.optimization.cooldown:.0%} of all steps"
        return f"then flat, falling along a cosine after step {self.flat_steps:,}"

    def with_epochs(self, epochs: int) -> "Recipe":
        """The same recipe for a longer or shorter training: the last phase keeps its share."""
        return replace(self, epochs=epochs, strong_epochs=round(epochs * self.strong_epochs / self.epochs))


_RECIPES: dict[str, Recipe] = {
    "n": Recipe(160, 148, 128, optimization=Optimization(8e-4, 4e-4)),
    "s": Recipe(scale_repeats=20),
    "m": Recipe(scale_repeats=6, optimization=Optimization(2e-4, 2e-5)),
    "l": Recipe(
        80,
        72,
        scale_repeats=4,
        optimization=Optimization(
            2.5e-4, 1.25e-5, 1.25e-4, no_decay=("norms",), freeze_stem=True, freeze_backbone_norms=True
        ),
    ),
    "x": Recipe(
        80,
        72,
        scale_repeats=3,
        optimization=Optimization(
            2.5e-4, 2.5e-6, 1.25e-4, no_decay=("norms",), freeze_stem=True, freeze_backbone_norms=True
        ),
    ),
}
_FINE_TUNING = {"n": (64, 56), "s": (64, 56), "m": (56, 48), "l": (36, 30), "x": (36, 30)}


def model_config(config: DFineConfig, recipe: Recipe) -> DFineConfig:
    """The model's configuration with the backbone's norms frozen or not, as the recipe has it."""
    backbone = replace(config.backbone, frozen_norms=recipe.optimization.freeze_backbone_norms)
    return replace(config, backbone=backbone)
