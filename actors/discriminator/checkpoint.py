"""Files of a discriminator's trained weights and optimizer; other weights are the model's."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actors.errors import InvalidInputError

Parameters = dict[str, nn.Parameter]


def save_training(folder: Path, parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Write the trained parameters, by name, and the optimizer's moments, without pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    moments = {
        f"{name}.{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }
    save_file(weights, folder / "weights.safetensors")
    save_file(moments, folder / "optimizer.safetensors")


def load_training(
    folder: Path,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> None:
    """Set the parameters and the optimizer's moments to those that save_training wrote.

    Raises:
        InvalidInputError: if names or shapes are not those of the folder.
    """
    weights = load_file(folder / "weights.safetensors", device=str(device))
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise InvalidInputError(
            f"{folder} holds another discriminator; continue with the model, the "
            f"discriminator.num_layers and the discriminator.tuning that it was trained with"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    optimizer.state.clear()
    for key, value in load_file(folder / "optimizer.safetensors").items():
        name, _, moment = key.rpartition(".")
        optimizer.state[parameters[name]][moment] = value.to(device)
