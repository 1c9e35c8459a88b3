"""The same training with transformers' D-FINE: its model and its own loss, everything else as a training here had it.

    $ dfine train --data bccd --model shapes --output runs/bccd
    $ python -m benchmarks.train_transformers runs/bccd runs/bccd-transformers
    $ dfine eval --data bccd --split test --model runs/bccd-transformers/model

The settings are read from the first folder's ``training.json``. Starting weights, pictures, their order, augmentation,
learning rates, weight decay, warm-up, clipping, number of denoising copies and the moving average are the same. The
average is saved in the Hub's layout, so that one evaluation measures both. Needs transformers 5 or newer:
``python -m pip install '.[parity]'``.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("USE_TF", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from rich.console import Console
from rich.progress import track

from benchmarks.torch_training import torch_batch, torch_groups
from dfine_jax.cli.train import make_start, open_datasets
from dfine_jax.data.loader import Loader
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training.configuration import FILE_NAME, read_configuration
from dfine_jax.training.devices import Devices
from dfine_jax.training.optimizer import learning_rate_factor
from dfine_jax.training.trainer import train_batches
from dfine_jax.weights.hub_layout import save_hub_folder


def main() -> None:
    """Trains, saves and says how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a training by dfine train")
    parser.add_argument("output", type=Path, help="folder to make")
    arguments = parser.parse_args()
    console = Console()
    configuration = read_configuration(arguments.run / FILE_NAME)
    recipe, options = configuration.recipe, configuration.run
    dataset = open_datasets(configuration, console).train
    start = make_start(configuration, dataset)
    batches = train_batches(dataset, recipe, options, Devices())

    first = arguments.output / "start"
    settings = Preprocessing(recipe.image_size, recipe.image_size)
    values = {**start.params, **start.batch_stats}
    save_hub_folder(first, start.config, settings, values.items(), replace=True)
    torch.manual_seed(options.seed)
    model = transformers.DFineForObjectDetection.from_pretrained(
        first, num_denoising=recipe.denoising_copies, dtype=torch.float32
    ).train()
    optimizer = torch.optim.AdamW(
        torch_groups(model, start.params, recipe.optimization), betas=recipe.optimization.betas
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    factor = learning_rate_factor(recipe.optimization, len(batches))
    average = {name: value.clone() for name, value in model.state_dict().items()}

    console.print(f"{len(batches):,} steps with transformers {transformers.__version__}, torch {torch.__version__}")
    log = (arguments.output / "log.jsonl").open("w")
    began = time.perf_counter()
    with Loader(batches, options.workers) as loader:
        for step in track(range(1, len(batches) + 1), "training"):
            images, labels = torch_batch(next(loader))
            loss = model(pixel_values=images, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimization.clip_norm)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * float(factor(step - 1))
            optimizer.step()
            decay = recipe.averaging.decay * (1 - math.exp(-step / recipe.averaging.time_constant))
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    if value.is_floating_point():
                        average[name].lerp_(value, 1 - decay)
            if step % options.log_every == 0:
                log.write(json.dumps({"step": step, "loss": loss.item()}) + "\n")
                log.flush()
    seconds = time.perf_counter() - began
    model.load_state_dict(average)
    model.save_pretrained(arguments.output / "model")
    (arguments.output / "model" / "preprocessor_config.json").write_text(json.dumps(settings.to_json()))
    console.print(f"{seconds / 60:.1f} minutes, {seconds / len(batches):.2f} s a step, pictures included")


if __name__ == "__main__":
    main()
