"""What an operator is shown is what is trained, whatever the task."""

from pathlib import Path

import numpy as np
import pytest

from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import IGNORED
from hortus.simulation.data_checks import show
from tests.helpers.tiny_models import save_for_task
from tests.learning.test_every_task import SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_a_record_is_shown_as_the_task_encodes_it(name: str, tmp_path: Path) -> None:
    task, values, model = SAMPLES[name]
    tokenizer = load_tokenizer(save_for_task(model, tmp_path))
    for value in values:
        shown = list(show(task, tokenizer, value))
        encoded = task.encode(tokenizer, [value])
        assert len(shown) == len(encoded)
        for one, example in zip(shown, encoded, strict=True):
            text = "".join(piece.text for piece in one.pieces).replace(" ", "")
            assert text == tokenizer.decode(list(example.tokens)).replace(" ", "")
            masked = isinstance(example.target, tuple) and task.aligned
            learnt = masked and any(target != IGNORED for target in np.ravel(example.target))
            assert any(piece.learnt for piece in one.pieces) == learnt
            assert learnt or one.target
