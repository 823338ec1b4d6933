"""DoRA against PEFT's own, which reaches the same by another way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES
from peft import PeftModel
from peft.tuners.lora.dora import DoraLinearLayer

from hortus.learning.methods.adapter_files import save_adapter
from hortus.learning.methods.dora import DoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.passes.isolation import keep_apart
from hortus.learning.tasks.classification import TextClassification

TASK = TextClassification(labels=("warm", "cool"), max_length=16)
TOKENS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 4, 3]])
INPUTS = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_peft_computes_the_same_of_what_was_saved(tmp_path: Path, name: str) -> None:
    architecture = ARCHITECTURES[name]
    path = architecture.save(tmp_path / "model")
    model = DoRA(rank=2, targets=architecture.targets).attach(TASK.load(path), 1)
    space = AdapterSpace(model)
    moved = space.read(model) + np.random.default_rng(0).normal(0, 0.3, space.dimension)
    space.write(model, moved.astype(np.float32))
    save_adapter(tmp_path / "adapter", model)
    loaded = PeftModel.from_pretrained(TASK.load(path).module, tmp_path / "adapter").eval()
    keep_apart(loaded)
    layers = [one for one in loaded.modules() if isinstance(one, DoraLinearLayer)]
    assert layers
    assert not any("forward" in vars(one) for one in layers)  # PEFT's own
    with torch.no_grad():
        theirs, ours = loaded(**INPUTS).logits, model.eval()(**INPUTS).logits
        assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_training_starts_at_the_base_model(tiny_model: Path) -> None:
    base = TASK.load(tiny_model)
    assert base.ahead is not None
    with torch.no_grad():
        before = base.ahead.embed(**INPUTS)
        DoRA(rank=2).attach(base, 1)
        assert torch.allclose(base.ahead.embed(**INPUTS), before, atol=1e-5)
