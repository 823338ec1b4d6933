"""What frozen layers return is kept, and the head that comes after the others is none the wiser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import save_for_task

from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.base import Method
from hortus.learning.methods.head import Head
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import Task
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.extractive_qa import AskedText, ExtractiveQA
from hortus.learning.tasks.tagging import TaggedWords, TokenClassification
from hortus.learning.tasks.texts import LabelledText
from hortus.privacy.gradients.engine import PerUnitGradients

QA = (ExtractiveQA(max_length=32), AskedText("sky", "the sky is blue", 11, 15))
TAGS = (TokenClassification(entities=("A",), max_length=16), TaggedWords(("sky", "ice"), (0, 1)))
TEXT = (
    TextClassification(labels=("a", "b"), max_length=16, head="sequence", second="about"),
    LabelledText("sky", 1, "the sky is"),
)


@pytest.mark.parametrize("method", [LoRA(rank=2, targets=("query",), layers=(1,)), Head()])
@pytest.mark.parametrize(
    ("of", "model"), [(QA, "bert"), (TAGS, "bert"), (TEXT, "bert"), (TAGS, "roberta")]
)
def test_kept_states_change_no_gradient(
    tmp_path: Path, of: tuple[Task, Any], model: str, method: Method
) -> None:
    task, value = of
    path = save_for_task(model, tmp_path / "model")
    base = task.load(path)
    trained = method.attach(base, 1)
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    loader = Loader(task, load_tokenizer(path), base, method, 4)
    kept = loader.encode(Records((value,)))
    assert kept.states is not None
    again = type(kept)(kept.examples, kept.units)  # the frozen layers run in every pass
    engine, found = PerUnitGradients(trained), []
    for data in (kept, again):
        found += engine.each(loader.batches(data, np.arange(1), 4))
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-7)
    loader._depth = 0  # and a model that nothing is run ahead of
    assert torch.allclose(
        found[0], *engine.each(loader.batches(again, np.arange(1), 4)), rtol=1e-4, atol=1e-6
    )
    assert found[0].any()
