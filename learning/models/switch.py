"""The base model without its adapter, for one thread at a time, while others compute with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from hortus.runtime.errors import UsageError

_off: ContextVar[bool] = ContextVar("adapter off", default=False)


def let_switch_off(model: nn.Module) -> None:
    """Lets `adapter_off` switch off the adapter of a PEFT model.

    PEFT's own `disable_adapter` changes the layers, and so the passes that other threads compute meanwhile.

    Args:
        model: Changed in place.
    """
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.forward = partial(_forward, layer, layer.forward)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within the block, this thread computes with the base model alone.

    Raises:
        UsageError: The adapter is not within layers of the base model, so that it cannot be left out.
    """
    if not any(isinstance(layer, BaseTunerLayer) for layer in model.modules()):
        raise UsageError(
            "what it adds cannot be switched off, so that there is no base model to compare with",
            where="adapter.kind",
            remedy="Use `kind: lora`.",
        )
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def _forward(layer: Any, with_adapter: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any layer's
    return (layer.base_layer if _off.get() else with_adapter)(*args, **kwargs)
