"""What holds of every task with every method, whoever wrote them: a new kind is in here with its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, save_for_task

from hortus.learning.data.conversations import Message
from hortus.learning.data.records import Records, RowCodec
from hortus.learning.loader import Batch, Encoded, ExampleCodec, Loader
from hortus.learning.methods.base import Method
from hortus.learning.methods.dora import DoRA
from hortus.learning.methods.ffa_lora import FFALoRA
from hortus.learning.methods.head import Head
from hortus.learning.methods.ia3 import IA3
from hortus.learning.methods.kinds import METHODS
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import Note, Task
from hortus.learning.tasks.chat import Chat
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.extractive_qa import AskedText, ExtractiveQA
from hortus.learning.tasks.kinds import TASKS
from hortus.learning.tasks.multi_label import MultiLabel
from hortus.learning.tasks.preferences import Preference, Preferences
from hortus.learning.tasks.pretraining import MaskedPretraining, Pretraining
from hortus.learning.tasks.regression import Regression
from hortus.learning.tasks.tagging import TaggedWords, TokenClassification
from hortus.learning.tasks.text_to_text import Pair, TextToText
from hortus.learning.tasks.texts import LabelledText
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.runtime.metric import check_metrics


def talk(*contents: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[n % 2], one) for n, one in enumerate(contents))


# Each task with records of unlike lengths, and the model that it is tried on.
SAMPLES: dict[str, tuple[Task, tuple[Any, ...], str]] = {
    "text-classification": (
        TextClassification(labels=("warm", "cool"), max_length=16),
        (LabelledText("the sky is blue", 1), LabelledText("fire", 0), LabelledText("a rose", 0)),
        "bert",
    ),
    "token-classification": (
        TokenClassification(entities=("Colour", "Thing"), max_length=16),
        (
            TaggedWords(("the", "sky", "is", "blue"), (0, 3, 0, 1)),
            TaggedWords(("red", "red", "rose"), (1, 2, 3)),
            TaggedWords(("ice",), (3,)),
        ),
        "bert",
    ),
    "multi-label": (
        MultiLabel(labels=("warm", "cool", "red"), max_length=16),
        (
            LabelledText("the sky", (0, 1, 0)),
            LabelledText("fire", (1, 0, 1)),
            LabelledText("a", (0, 0, 0)),
        ),
        "bert",
    ),
    "regression": (
        Regression(second="other", lowest=0, highest=1, max_length=16, head="sequence"),
        (
            LabelledText("the sky is", 0.25, "blue"),
            LabelledText("fire", 1.0, "ice is a"),
            LabelledText("a", 0.0, "rose"),
        ),
        "bert",
    ),
    "extractive-qa": (
        ExtractiveQA(max_length=32, max_windows=3, unanswerable=True),
        (
            AskedText("the sky is", "the sky is blue", 11, 15),
            AskedText("grass", "the rose " * 16 + "grass is green", 153, 158),
            AskedText("ice", "fire is red"),
        ),
        "bert",
    ),
    "chat": (
        Chat(max_length=24),
        (
            talk("the sky is", "blue"),
            talk("a rose is", "red red", "grass is", "green"),
            talk("ice", "is a"),
        ),
        "llama",
    ),
    "preferences": (
        Preferences(max_length=24),
        (
            Preference(talk("the sky is"), "blue", "red red red"),
            Preference(talk("a rose is", "red", "grass is"), "green", "ice"),
            Preference(talk("ice"), "is a rose", "a"),
        ),
        "llama",
    ),
    "pretraining": (
        Pretraining(max_length=8, windows=2),
        ("the sky is blue", "a rose is a red red rose and a rose is a rose", "ice is green"),
        "llama",
    ),
    "masked-pretraining": (
        MaskedPretraining(max_length=8, windows=2),
        ("the sky is blue", "a rose is a red red rose and a rose is a rose", "ice is green"),
        "masked-lm",
    ),
    "text-to-text": (
        TextToText(max_length=16, max_target_length=8),
        (
            Pair("the sky is blue and the rose is red", "blue red"),
            Pair("a rose", "red"),
            Pair("ice is a rose", "the green green rose"),
        ),
        "t5",
    ),
}
TRAINED: dict[str, Callable[[tuple[str, ...]], Method]] = {
    "dora": lambda targets: DoRA(rank=2, targets=targets),
    "ffa-lora": lambda targets: FFALoRA(rank=2, targets=targets),
    "head": lambda _: Head(),
    "ia3": lambda targets: IA3(targets=targets[:1], inputs=targets[1:]),
    "lora": lambda targets: LoRA(rank=2, targets=targets),
}
PAIRS = [
    (task, method)
    for task in SAMPLES
    for method in TRAINED
    if method != "head" or SAMPLES[task][2] == "bert"
]
# Of these columns an empty value says something: that no label applies, or that there is no answer.
MAY_BE_EMPTY = {"labels", "answer"}
every_task = pytest.mark.parametrize("name", SAMPLES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def save(name: str) -> Path:
        path = folder / name
        return path if path.exists() else save_for_task(name, path)

    return save


class Stage:
    """A task's model, away from where training starts, with a method's adapter on it."""

    def __init__(self, path: Path, task: str, method: str) -> None:
        self.task, self.values, model = SAMPLES[task]
        base = self.task.load(path)
        trained = TRAINED[method](ARCHITECTURES[model].targets)
        self.model = trained.attach(base, 1)
        space = AdapterSpace(self.model)
        moved = space.read(self.model) + np.random.default_rng(0).normal(0, 0.3, space.dimension)
        space.write(self.model, moved.astype(np.float32))
        self.loader = Loader(self.task, load_tokenizer(path), base, trained, 8)
        self.data: Encoded = self.loader.encode(Records(self.values))
        self.engine = PerUnitGradients(self.model)

    def of_unit(self, unit: int) -> Batch:
        index = np.flatnonzero(self.data.units == unit)
        return self.loader.batch(self.data, index, self.data.units[index])


@pytest.fixture(params=PAIRS, ids=" ".join, scope="module")
def stage(request: pytest.FixtureRequest, saved: Callable[[str], Path]) -> Stage:
    task, method = request.param
    return Stage(saved(SAMPLES[task][2]), task, method)


def test_every_kind_is_tried_here() -> None:
    assert set(TASKS.names()) == SAMPLES.keys()
    assert set(METHODS.names()) == TRAINED.keys()


@every_task
def test_a_task_survives_the_contract_and_says_what_it_learns(name: str) -> None:
    task, values, _ = SAMPLES[name]
    assert TASKS.parse(task.section) == task
    assert len(task.words(lambda word: f"`{word}`")) > 20
    for value in values:
        row = task.row(value)
        assert set(row) == set(task.columns)
        assert task.read(row, "here") == value


def test_what_lies_on_disk_is_what_was_written_there(stage: Stage) -> None:
    values, examples = RowCodec(stage.task), ExampleCodec(stage.task)
    for value in stage.values:
        assert values.decode(values.encode(value)) == value
    for example in stage.data.examples:
        found = examples.decode(examples.encode(example))
        assert found == example
        assert type(found.note) is Note


@every_task
def test_a_row_without_an_answer_is_refused_without_its_text(name: str) -> None:
    task, (value, *_), _ = SAMPLES[name]
    for column in task.columns:
        for wrong in (None, "", [], 3.5, {"a": "secret"}, ["secret", None]):
            if column in MAY_BE_EMPTY and not wrong:
                continue
            with pytest.raises(Exception, match="here") as caught:
                task.read(task.row(value) | {column: wrong}, "here")
            assert type(caught.value).__name__ == "UsageError"
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_survives_the_contract_and_says_what_it_trains(method: str) -> None:
    kind = TRAINED[method](("query",))
    assert METHODS.parse(kind.section) == kind
    assert "head" in kind.words


def test_a_units_gradient_is_that_of_its_loss_alone(stage: Stage) -> None:
    """Against autograd, one record at a time, in the same order of parameters."""
    named = sorted((n, p) for n, p in stage.model.named_parameters() if p.requires_grad)
    everybody = np.arange(len(stage.data))
    batches = list(stage.loader.batches(stage.data, everybody, 8))
    found = stage.engine.each(batches)
    for batch, gradients in zip(batches, found, strict=True):
        for place, unit in enumerate(np.unique(stage.data.units[batch.index])):
            alone = stage.of_unit(int(unit))
            loss = alone.losses(stage.model).sum()
            assert torch.isfinite(loss)
            parts = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
            expected = torch.cat(
                [
                    (torch.zeros_like(p) if part is None else part).flatten()
                    for part, (_, p) in zip(parts, named, strict=True)
                ]
            )
            assert expected.any()
            assert torch.allclose(gradients[place], expected, rtol=1e-4, atol=1e-6)


def test_a_units_gradient_has_the_same_bits_whoever_else_is_there(stage: Stage) -> None:
    """In passes of a record each: what may share one, a workbench finds out."""
    everybody = np.arange(len(stage.data))
    passes = list(stage.loader.batches(stage.data, everybody, 1))
    together = stage.engine.each(passes)
    for batch, gradient in zip(passes, together, strict=True):
        (unit,) = np.unique(stage.data.units[batch.index])
        (alone,) = stage.engine.each([stage.of_unit(int(unit))])
        assert torch.equal(alone, gradient)


def test_made_up_records_have_finite_gradients_at_every_length(stage: Stage) -> None:
    few = stage.loader.ahead(
        stage.loader.made_up([(1,), (2,), stage.loader.passes.largest], seed=0)
    )
    found = stage.engine.each(stage.loader.batches(few, np.arange(3), 8))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found)


def test_metrics_belong_together_and_come_of_all_records(stage: Stage) -> None:
    metrics = stage.loader.measure(stage.model, stage.data)
    check_metrics(metrics)
    assert all(metric.value is not None for metric in metrics)


def test_an_accent_of_an_entity_is_the_same_in_both_of_its_forms() -> None:
    apart = "Cafe\u0301"
    task = TokenClassification(entities=(apart,))
    value = task.read({"tokens": ["a"], "tags": ["B-Café"]}, "here")
    assert value.tags == task.read({"tokens": ["a"], "tags": [f"B-{apart}"]}, "here").tags == (1,)
    task.check_values([value])
    with pytest.raises(ValueError, match="not distinct"):
        TokenClassification(entities=(apart, "Café"))
