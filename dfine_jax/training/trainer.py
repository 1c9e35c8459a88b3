"""The training loop: batches to devices, updates, evaluations, checkpoints. It reads from top to bottom."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import jax
import numpy as np
from rich.console import Console

from dfine_jax.config import DFineConfig
from dfine_jax.data.batches import Batch, places_for
from dfine_jax.data.loader import Loader, Position, TrainBatches
from dfine_jax.data.samples import Dataset
from dfine_jax.data.sampling import repeat_factors
from dfine_jax.machine import Arithmetic
from dfine_jax.model.dfine import DFine, functional
from dfine_jax.training.checkpoint import Checkpoints, Standing, on_host
from dfine_jax.training.criterion import Criterion, criterion
from dfine_jax.training.devices import Devices
from dfine_jax.training.errors import WriteError
from dfine_jax.training.folder import CHECKPOINTS, LOG, claimed, require_ours, writing
from dfine_jax.training.journal import Journal, duration
from dfine_jax.training.length import Clock, Length
from dfine_jax.training.memory import memory_errors
from dfine_jax.training.mending import Average, SavedModel, mend_model
from dfine_jax.training.optimizer import group_table, make_optimizer, parameter_groups
from dfine_jax.training.packing import Values
from dfine_jax.training.recipe import Recipe, model_config
from dfine_jax.training.start import Start
from dfine_jax.training.step import Metrics, TrainState, layout_of, make_update, start_state
from dfine_jax.training.stopping import NotFiniteError, SkippedBatches, stop_signals


@dataclass(frozen=True)
class RunOptions:
    """How a training runs; none of this but ``seed`` and ``dtype`` changes what comes out."""

    seed: int = 0
    """Of fresh weights, the order of pictures, augmentation and denoising."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What products are computed in; a CPU takes float32 where that is faster. Weights, sums, norms and losses are
    float32 always."""
    workers: int = 2
    """Processes that prepare pictures; 0: none."""
    log_every: int = 10
    """Steps between lines of ``log.jsonl``."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is one after each evaluation and at the end, too."""
    keep: int = 2
    """Checkpoints that stay, besides the best."""
    evaluate_every: int = 1
    """Epochs between evaluations; there is one at the end, too."""
    evaluations: int = 0
    """So many evaluations in all, at equal distances, whatever ``evaluate_every`` says; 0: as that says."""
    patience: int = 0
    """Stop after so many evaluations in a row with an AP below the best; 0: never."""
    most_skipped: int = 5
    """Stop after so many batches in a row whose loss or gradient is not finite."""


class Figures(Protocol):
    """An evaluation's numbers."""

    ap: float
    """COCO's average precision, 0..1; NaN where there is nothing to measure."""


class Evaluated(Protocol):
    """What an evaluation gives."""

    figures: Figures


Evaluate = Callable[[Values, Values], Evaluated]
"""From parameters and batch statistics (``dfine_jax.evaluation.held_out.HeldOut`` is one)."""
OnEvaluation = Callable[[int, Evaluated], None]
"""Is given the step and what was found, to draw or report."""


class Trained(NamedTuple):
    """How a training ended."""

    config: DFineConfig
    params: Values
    """The average's, which is what one wants to use."""
    batch_stats: Values
    standing: Standing
    finished: bool
    """False where it was stopped from outside, and can be gone on with."""


def train(
    start: Start,
    dataset: Dataset,
    recipe: Recipe,
    options: RunOptions = RunOptions(),
    *,
    output: Path,
    resume: bool = False,
    clock: Clock | None = None,
    make_evaluate: Callable[[object, Devices], Evaluate] | None = None,
    on_evaluation: OnEvaluation | None = None,
    save: SavedModel | None = None,
    criterion: Criterion = criterion,
    console: Console | None = None,
) -> Trained:
    """Trains until the recipe's last epoch.

    Args:
        start: the values to begin with.
        dataset: what to learn from; its classes are the model's.
        recipe: everything that decides the outcome.
        options: everything that does not.
        output: folder for ``checkpoints`` and ``log.jsonl``.
        resume: go on from the last checkpoint there, exactly as if the training had not been interrupted.
        clock: when it has to end and how its steps are laid, where the recipe has minutes and no steps yet.
        make_evaluate: makes the evaluation from the model's pure function and the devices; without it there is none.
        on_evaluation: called after each evaluation, in the first process.
        save: is given, in the first process, the average whenever its AP is the best so far, or, without an
            evaluation, at the end; and once more when a training is gone on with and it is not there.
        criterion: a loss of your own in place of the paper's.
        console: where to print; nowhere if not given.

    Raises:
        TrainingError: the loss is not finite again and again, no checkpoint is whole, something can't be written,
            another training uses the folder, memory is too small.
        DataError: a picture can't be prepared, or the data set is smaller than a batch.
    """
    config = model_config(start.config, recipe)
    devices, parts = Devices(), recipe.optimization.accumulate
    devices.check(recipe.batch_size, parts)
    batches = train_batches(dataset, recipe, options, devices)
    epoch_steps = batches.steps_per_epoch

    compute = devices.compute(options.dtype)
    apply = functional(DFine(config, compute=compute, rng=np.random.default_rng(0))).apply
    groups = parameter_groups(start.params, recipe.optimization)
    layout = layout_of(start.params, start.batch_stats, groups)
    optimizer = make_optimizer(groups, recipe.optimization, len(batches))
    update = devices.fitting(make_update(apply, config, recipe, layout, optimizer, criterion), recipe)
    evaluate = make_evaluate(apply, devices) if make_evaluate else None
    save = save if devices.first_process else None

    def average_of(state: TrainState) -> Average:
        return Average(config, *layout.variables(*on_host((state.ema.params, state.ema.batch_stats))))

    with (
        claimed(output, resume=resume) if devices.first_process else nullcontext(),
        memory_errors(devices.first, recipe),
        naming_the_last(output, options.keep) as checkpoints,
    ):
        state = devices.replicate(start_state(start.params, start.batch_stats, layout, optimizer, options.seed))
        standing, told = Standing(), []
        if restored := checkpoints.restore(state):
            state, standing, damaged = restored
            told += [damaged] if damaged else []
            whole = recipe.steps or len(batches)
            best = standing.best_step if evaluate is not None else whole if standing.step == whole else None
            if best is not None:
                standing, mended = mend_model(save, best, state, standing, checkpoints, average_of)
                told += [mended] if mended else []

        counted = dict(done=standing.step, per_epoch=epoch_steps)
        length = Length(recipe, clock, **counted, evaluations=options.evaluations, every=options.evaluate_every)
        journal = Journal(
            output / LOG,
            length.total,
            every=options.log_every,
            first_step=standing.step,
            console=console or Console(quiet=True),
            writes=devices.first_process,
        )
        for line in told:
            journal.say(line)
        journal.say(f"{start.report}\n{group_table(groups, start.params)}")
        journal.say(
            f"{len(dataset):,} pictures, {epoch_steps:,} steps of {recipe.batch_size} an epoch, "
            + (f"{recipe.minutes:g} minutes, " if length.is_open else f"{length.total:,} steps, ")
            + f"on {devices.count} device(s)"
            + (f"; going on from step {standing.step:,}" if standing.step else "")
        )
        if slower := Arithmetic(compute).instead_of(options.dtype):
            journal.say(slower)
        skipped = SkippedBatches(dataset, options.most_skipped)
        in_flight: InFlight | None = None

        def keep_last_good() -> None:
            checkpoints.save(state, standing._replace(step=step), forget=False)

        with (
            Loader(length.batches(batches), options.workers) as loader,
            journal,
            stop_signals(journal.say) as stop,
            keeping_what_was_learned(keep_last_good),
        ):
            loader.restore(Position(*divmod(standing.step, epoch_steps)))
            step = standing.step
            while step < length.total:
                step += 1
                batch = next(loader)
                state, metrics = update(state, *devices.share(batch), *length.pace)
                # The step before is looked at while this one is computed.
                if in_flight is not None:
                    report(in_flight, journal, skipped, epoch_steps)
                in_flight = InFlight(step, batch, metrics)
                if length.is_open and length.laid_after(step, metrics):
                    journal.lay(step, length.total, length.recipe.flat_steps)
                    loader.batches = length.batches(batches)
                    loader.restore(Position(*divmod(step, epoch_steps)))
                if left := length.left_after(step, metrics):
                    journal.say(f"about {duration(left)} more, by the time that those so far took")

                checkpoints.check()
                evaluates = length.evaluates(step)
                last = step == length.total or stop.is_set()
                if not (last or evaluates or step % options.checkpoint_every == 0):
                    continue
                report(in_flight, journal, skipped, epoch_steps)
                in_flight = None
                paused = time.monotonic()
                standing = standing._replace(step=step)
                average = average_of(state)
                if evaluates and evaluate is not None:
                    evaluation = evaluate(average.params, average.batch_stats)
                    ap = float(np.nan_to_num(evaluation.figures.ap))
                    standing = judged(standing, ap)
                    journal.write({"step": step, "epoch": step // epoch_steps, "ap": ap})
                    journal.say(f"step {step:,}, epoch {step // epoch_steps}: AP {ap:.4f}, best {standing.best_ap:.4f}")
                    if devices.first_process and on_evaluation is not None:
                        with writing("to", output):
                            on_evaluation(step, evaluation)
                if devices.first_process:
                    require_ours(output)
                checkpoints.save(state, standing)
                is_best = standing.best_step == step if evaluate is not None else step == length.total
                if is_best and save is not None:
                    save.write(*average, step)
                if evaluates:
                    length.evaluated(time.monotonic() - paused)
                journal.restart_clock()
                if stop.is_set() or (options.patience and standing.worse_since >= options.patience):
                    break
    for problem in loader.problems:
        journal.say(f"left out: {problem}")
    return Trained(*average_of(state), standing, finished=standing.step == length.total or not stop.is_set())


@contextmanager
def keeping_what_was_learned(keep: Callable[[], None]) -> Iterator[None]:
    """Where losses are not finite any more the state, which those steps have not changed, is kept before the end."""
    try:
        yield
    except NotFiniteError as error:
        keep()
        raise NotFiniteError(f"{error}; what was learned before is kept, --resume goes on from it") from error


@contextmanager
def naming_the_last(output: Path, keep: int) -> Iterator[Checkpoints]:
    """The checkpoints of a folder; where something can't be written, the error says which of them is whole."""
    checkpoints = Checkpoints(output / CHECKPOINTS, keep)
    try:
        with checkpoints:
            yield checkpoints
    except WriteError as error:
        raise WriteError(f"{error}; {checkpoints.kept()}") from error


def train_batches(dataset: Dataset, recipe: Recipe, options: RunOptions, devices: Devices) -> TrainBatches:
    """All batches of the training, or this process's part of them."""
    return TrainBatches(
        dataset,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=options.seed,
        size=recipe.image_size,
        max_boxes=places_for(dataset.most_boxes * recipe.augmentation.crowding),
        augmentation=recipe.augmentation,
        strong_epochs=recipe.strong_epochs,
        scale_repeats=recipe.scale_repeats,
        steps=recipe.steps,
        strong_steps=recipe.steps_with_strong_augmentation or 0,
        repeat_factors=repeat_factors(dataset) if recipe.sampling == "repeat-factor" else None,
        shard=devices.shard,
    )


def judged(standing: Standing, ap: float) -> Standing:
    """The standing after an evaluation."""
    if standing.best_ap is None or ap >= standing.best_ap:
        return standing._replace(best_ap=ap, best_step=standing.step, worse_since=0)
    return standing._replace(worse_since=standing.worse_since + 1)


class InFlight(NamedTuple):
    """A step whose numbers may still be being computed."""

    step: int
    batch: Batch
    metrics: Metrics


def report(done: InFlight, journal: Journal, skipped: SkippedBatches, epoch_steps: int) -> None:
    """Waits for a step and hands its numbers on."""
    metrics = jax.device_get(done.metrics)
    epoch = (done.step - 1) // epoch_steps + 1
    skipped.look_at(done.step, done.batch, bool(metrics.finite))
    numbers = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm, "terms": metrics.terms}
    journal.step(done.step, epoch, len(done.batch.images) * jax.process_count(), numbers)
