"""The flat vector of a model's trainable parameters."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class AdapterSpace:
    """The flat vector of a model's trainable parameters, in the order of their sorted names.

    Args:
        model: Fixes names and shapes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.shapes = {name: tuple(parameter.shape) for name, parameter in trainable(model)}
        self.dimension = sum(int(np.prod(shape)) for shape in self.shapes.values())

    def read(self, model: nn.Module) -> NDArray[np.float32]:
        """Returns the adapter, float32[d]."""
        parameters = [parameter.detach().reshape(-1) for _, parameter in trainable(model)]
        vector: NDArray[np.float32] = torch.cat(parameters).to(torch.float32).cpu().numpy()
        return vector

    def write(self, model: nn.Module, vector: NDArray[np.float32]) -> None:
        """Puts an adapter, float32[d], into the model."""
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise ValueError(
                f"an adapter is float32[{self.dimension}], not {vector.dtype}{list(vector.shape)}"
            )
        start = 0
        with torch.no_grad():
            for _, parameter in trainable(model):
                piece = vector[start : start + parameter.numel()]
                parameter.copy_(torch.from_numpy(piece).reshape(parameter.shape))
                start += parameter.numel()


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the parameters that are trained, sorted by name."""
    named = ((name, parameter) for name, parameter in model.named_parameters())
    yield from sorted((item for item in named if item[1].requires_grad), key=lambda item: item[0])
