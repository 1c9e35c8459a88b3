"""What makes a training step of transformers' model one of this library's: parameter groups, and batches."""

import numpy as np
import torch
from transformers.core_model_loading import revert_weight_conversion

from dfine_jax.training.optimizer import parameter_groups
from dfine_jax.training.recipe import Optimization
from dfine_jax.weights.rules import HUB, to_torch


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


def torch_batch(batch, device: str = "cpu") -> tuple[torch.Tensor, list[dict]]:
    """Pictures in 0..1, channels first, and labels as transformers wants them, on a device."""
    images = torch.from_numpy(batch.images).to(device).permute(0, 3, 1, 2).float() / 255
    labels = [
        {
            "class_labels": torch.from_numpy(np.asarray(classes[mask], np.int64)).to(device),
            "boxes": torch.from_numpy(np.asarray(boxes[mask], np.float32)).to(device),
        }
        for boxes, classes, mask in zip(batch.boxes, batch.labels, batch.mask, strict=True)
    ]
    return images, labels
