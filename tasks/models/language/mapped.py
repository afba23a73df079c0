"""A checkpoint's weights as float32 files that are mapped into memory, one tensor at a time."""

import numpy as np
import torch
from torch import nn

from infra.settings import settings
from tasks.graphs.weights import SMALLEST


def map_weights(model: nn.Module) -> None:
    """Put files in the place of a model's large weights, in float32; tied ones stay tied.

    A matrix that its layer reads transposed is stored as the graph multiplies by it, so that the
    export writes the same file.
    """
    from transformers.pytorch_utils import Conv1D

    mapped: dict[tuple[int, bool], nn.Parameter] = {}
    for layer in model.modules():
        transposed = isinstance(layer, nn.Linear)
        for name, parameter in list(layer.named_parameters(recurse=False)):
            turned = transposed and parameter.dim() == 2 and not isinstance(layer, Conv1D)
            place = (parameter.data_ptr(), turned)
            if place not in mapped:
                mapped[place] = _mapped(parameter.detach(), turned)
            setattr(layer, name, mapped[place])


def _mapped(parameter: torch.Tensor, turned: bool) -> nn.Parameter:
    """Return a parameter of the same numbers in float32, in a file where they are many."""
    numbers = parameter.float()
    if numbers.nbytes < SMALLEST:
        return nn.Parameter(numbers, requires_grad=False)
    stored = (numbers.T if turned else numbers).numpy()
    weights = settings().weights()
    path = weights.path(weights.keep(stored))
    # Copied on write, which nobody does: torch takes no read-only memory.
    array = np.memmap(path, np.float32, "c", shape=stored.shape)
    tensor = torch.from_numpy(np.asarray(array))
    return nn.Parameter(tensor.T if turned else tensor, requires_grad=False)
