"""The base model within an adapted one: the same bits as without any adapter, and only for the thread that asks."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, save_for_task
from torch import nn

from hortus.learning.methods.base import Method
from hortus.learning.methods.dora import DoRA
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.switch import adapter_off
from hortus.learning.tasks.chat import Chat
from hortus.runtime.errors import UsageError

TOKENS = torch.tensor([[4, 5, 6, 7, 8]])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


@pytest.mark.parametrize("method", [LoRA, DoRA])
def test_without_its_adapter_a_model_is_its_base_in_this_thread_alone(
    tmp_path: Path, method: Callable[..., Method]
) -> None:
    path = save_for_task("llama", tmp_path)
    kind = method(rank=2, targets=ARCHITECTURES["llama"].targets)
    base = kind.attach(Chat(max_length=16).load(path), 1)  # an adapter starts at the base model
    model = kind.attach(Chat(max_length=16).load(path), 1)
    space = AdapterSpace(model)
    space.write(model, np.random.default_rng(0).normal(size=space.dimension).astype(np.float32))
    adapted = logits(model)
    elsewhere: list[torch.Tensor] = []
    with adapter_off(model):
        other = threading.Thread(target=lambda: elsewhere.append(logits(model)))
        other.start()
        other.join()
        alone = logits(model)
    with adapter_off(base):
        assert torch.equal(alone, logits(base))
    assert torch.allclose(alone, logits(base), atol=1e-6)
    assert torch.equal(elsewhere[0], adapted)
    assert torch.equal(logits(model), adapted)
    assert not torch.allclose(alone, adapted, atol=1e-3)


def test_an_adapter_that_is_in_no_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be switched off"), adapter_off(nn.Linear(2, 2)):
        pass
