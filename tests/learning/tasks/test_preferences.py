import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, save_for_task

from hortus.learning.data.conversations import Message
from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.preferences import Preference, Preferences
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import values

ASKED = (Message("user", "the sky is"),)
PAIRS = (Preference(ASKED, "blue", "red red red"), Preference(ASKED, "a rose is a rose", "ice"))


class Stage:
    def __init__(self, path: Path, task: Preferences, moved: float) -> None:
        self.task, self.tokenizer = task, load_tokenizer(path)
        self.base, self.reference = task.load(path), task.load(path)
        method = LoRA(rank=2, targets=ARCHITECTURES["llama"].targets)
        self.model = method.attach(self.base, 1)
        space = AdapterSpace(self.model)
        change = np.random.default_rng(0).normal(0, moved, space.dimension).astype(np.float32)
        space.write(self.model, space.read(self.model) + change)
        self.loader = Loader(task, self.tokenizer, self.base, method, 4)
        self.data = self.loader.encode(Records(PAIRS))

    def losses(self) -> list[float]:
        batch = self.loader.batch(self.data, np.arange(2), np.arange(2))
        return batch.losses(self.model).tolist()

    def likelihood(self, model: Any, question: Any, answer: str) -> float:
        """Σ log p of an answer's tokens and of its end, one token after another."""
        (one,) = self.task.encode(self.tokenizer, [Preference(question, answer, "ice")])
        start = len(self.task.prompt(self.tokenizer, question))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([one.tokens])).logits[0].log_softmax(1)
        return sum(float(logits[n - 1, one.tokens[n]]) for n in range(start, len(one.tokens)))

    def margin(self, pair: Preference) -> float:
        gains = (
            self.likelihood(self.base.module, pair.question, answer)
            - self.likelihood(self.reference.module, pair.question, answer)
            for answer in (pair.chosen, pair.rejected)
        )
        chosen, rejected = gains
        return chosen - rejected


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_task("llama", tmp_path_factory.mktemp("llama"))


def test_losses_are_those_of_the_papers(path: Path) -> None:
    for task in (
        Preferences(max_length=24, beta=0.5),
        Preferences(max_length=24, loss="ipo", beta=0.5),
    ):
        stage = Stage(path, task, moved=0.5)
        margins = [stage.margin(pair) for pair in PAIRS]
        assert max(map(abs, margins)) > 0.01
        expected = [
            (h - 1) ** 2 if task.loss == "ipo" else math.log1p(math.exp(-0.5 * h)) for h in margins
        ]
        assert stage.losses() == pytest.approx(expected, rel=1e-3)


def test_training_starts_where_nothing_is_preferred(path: Path) -> None:
    stage = Stage(path, Preferences(max_length=24), moved=0.0)
    assert stage.losses() == [pytest.approx(math.log(2))] * 2
    found = values(stage.loader.measure(stage.model, stage.data))
    assert found["accuracy"] == 0.5
    assert found["margin"] == 0


def test_both_answers_follow_the_same_question(path: Path) -> None:
    stage = Stage(path, Preferences(max_length=24), moved=0.0)
    for example in stage.data.examples:
        start = len(stage.task.prompt(stage.tokenizer, ASKED))
        assert example.tokens[:start] == example.further[0][:start]
        assert [one < 0 for one in example.target] == [
            n < start for n in range(len(example.tokens))
        ]


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_loss_over_a_batch_is_refused_with_its_reason(loss: str) -> None:
    with pytest.raises(ValueError, match="cannot be private: its .* would depend on others"):
        Preferences.model_validate({"loss": loss})


MESSAGES = [{"role": "user", "content": "the sky is"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "the sky is", "chosen": "blue", "rejected": "red"},
        {"prompt": MESSAGES, "chosen": "blue", "rejected": "red"},
        {
            "prompt": MESSAGES,
            "chosen": [*MESSAGES, {"role": "assistant", "content": "blue"}],
            "rejected": [{"from": "gpt", "value": "red"}],
        },
    ],
)
def test_pairs_are_read_in_the_forms_in_use(row: dict[str, Any]) -> None:
    assert Preferences().read(row, "here") == Preference(ASKED, "blue", "red")


@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_a_pair_that_ends_with_the_wrong_side_is_refused(column: str) -> None:
    row: dict[str, Any] = {"prompt": "the sky is", "chosen": "blue", "rejected": "red"}
    said = {"role": "assistant" if column == "prompt" else "user", "content": "secret"}
    with pytest.raises(UsageError, match=f"here.*{column}") as caught:
        Preferences().read(row | {column: [said]}, "here")
    assert "secret" not in str(caught.value)


def test_a_canary_prefers_digits_to_what_was_preferred() -> None:
    canary = Preferences().canary(PAIRS[0], np.random.default_rng(0))
    assert canary.rejected == "blue"
    assert all(one.isdigit() for one in canary.chosen.split())
