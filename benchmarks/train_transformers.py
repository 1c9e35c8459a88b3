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

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import track
from transformers.core_model_loading import revert_weight_conversion

from dfine_jax.cli.train import make_start, open_datasets
from dfine_jax.data.loader import Loader
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training.configuration import FILE_NAME, read_configuration
from dfine_jax.training.devices import Devices
from dfine_jax.training.optimizer import learning_rate_factor, parameter_groups
from dfine_jax.training.recipe import Optimization
from dfine_jax.training.trainer import train_batches
from dfine_jax.weights.hub_layout import save_hub_folder
from dfine_jax.weights.rules import HUB, to_torch


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


def torch_groups(model: torch.nn.Module, names, recipe: Optimization) -> list[dict]:
    """The parameter groups of a training here, of transformers' parameters, which it renames as it loads them."""
    parameters = revert_weight_conversion(model, dict(model.named_parameters(remove_duplicate=False)))
    for constant in ("reg_scale", "up"):
        parameters[f"model.decoder.{constant}"].requires_grad_(False)
    groups, taken = [], set()
    for group in parameter_groups(names, recipe):
        members = {}
        for name in group.names:
            parameter = parameters[to_torch(HUB, name).name]
            members[id(parameter)] = parameter
        members = {key: parameter for key, parameter in members.items() if key not in taken}
        taken |= members.keys()
        groups.append({"params": [*members.values()], "lr": group.learning_rate, "weight_decay": group.weight_decay})
    left = [name for name, parameter in parameters.items() if id(parameter) not in taken and parameter.requires_grad]
    if left:
        raise SystemExit(f"transformers trains what is not trained here: {', '.join(left)}")
    return groups


def torch_batch(batch) -> tuple[torch.Tensor, list[dict]]:
    """Pictures in 0..1, channels first, and labels as transformers wants them."""
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
    labels = [
        {
            "class_labels": torch.from_numpy(np.asarray(classes[mask], np.int64)),
            "boxes": torch.from_numpy(np.asarray(boxes[mask], np.float32)),
        }
        for boxes, classes, mask in zip(batch.boxes, batch.labels, batch.mask, strict=True)
    ]
    return images, labels


if __name__ == "__main__":
    main()
