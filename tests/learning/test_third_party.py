"""The task and the adapter that docs/tasks.md writes work once pip has installed them, and only where they are allowed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.documented import blocks, install

from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.kinds import METHODS
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.kinds import TASKS
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.runtime.errors import UsageError
from hortus.runtime.registry import allow_plug_ins

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
MODULES = ("yes_no", "norms")
ROWS = [
    {"question": "is the sky  blue", "text": "the sky is blue", "label": "yes"},
    {"question": "is grass red", "text": "grass is green", "label": "no"},
]


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(install(PAGE, MODULES, tmp_path)))
    allow_plug_ins(())
    for registry, name in ((TASKS, "yes-no"), (METHODS, "norms")):
        with pytest.raises(UsageError, match="hortus-two-kinds, which is not allowed here"):
            registry.complete({"kind": name})
    assert not set(MODULES) & set(sys.modules)
    allow_plug_ins(["hortus-two-kinds"])
    yield
    allow_plug_ins(())
    for name in MODULES:
        sys.modules.pop(name, None)


def test_each_is_short() -> None:
    assert all(len(code.splitlines()) <= 40 for code in blocks(PAGE, "python"))


@pytest.mark.usefixtures("allowed")
def test_each_does_what_the_page_says(tiny_model: Path) -> None:
    task = TASKS.complete({"kind": "yes-no", "max_length": 16})
    method = METHODS.complete({"kind": "norms"})
    assert TASKS.parse(task.section) == task
    assert METHODS.parse(method.section) == method
    values = tuple(task.read(row, "here") for row in ROWS)
    assert tuple(task.read(task.row(value), "here") for value in values) == values
    with pytest.raises(UsageError, match="column 'question'"):
        task.read(ROWS[0] | {"question": ""}, "here")
    base = task.load(tiny_model)
    model = method.attach(base, 1)
    space = AdapterSpace(model)
    assert space.dimension == (1 + 2 * 2) * 2 * 32 + 2 * 32 + 2  # five normalisations, and the head
    moved = space.read(model) + np.random.default_rng(0).normal(0, 0.3, space.dimension)
    space.write(model, moved.astype(np.float32))
    loader = Loader(task, load_tokenizer(tiny_model), base, method, 8)
    data, parameters = (
        loader.encode(Records(values)),
        [p for p in model.parameters() if p.requires_grad],
    )
    for batch in loader.batches(data, np.arange(2), 8):
        found = torch.cat(PerUnitGradients(model).each([batch]))
        whole = torch.autograd.grad(batch.losses(model).sum(), parameters)
        assert float(found.sum(0).norm()) == pytest.approx(
            float(torch.cat([one.flatten() for one in whole]).norm()), rel=1e-4
        )
