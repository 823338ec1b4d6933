"""Texts that belong together are read together, and told apart where a model can."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_models import save_for_task

from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.head import Head
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError

TASK = TextClassification(labels=("yes", "no"), second="about", max_length=12)
ROW = {"text": "the sky is", "about": "blue " * 20, "label": "yes"}


def test_both_texts_are_read_and_the_longer_one_is_cut(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_for_task("bert", tmp_path / "model"))
    (example,) = TASK.encode(tokenizer, [TASK.read(ROW, "here")])
    assert len(example.tokens) == 12
    assert example.segments == (0,) * 5 + (1,) * 7  # the first text whole, with [CLS] and [SEP]
    assert TASK.asked == ("text", "about")
    assert TASK.columns == ("text", "about", "label")


@pytest.mark.parametrize(
    "method", [Head(), LoRA(rank=2, targets=("query",), layers=(1,)), LoRA(rank=2)]
)
def test_segments_reach_a_model_that_is_told_them(tmp_path: Path, method: Head | LoRA) -> None:
    path = save_for_task("bert", tmp_path / "model")
    base = TASK.load(path)
    model = method.attach(base, 1)
    for name, parameter in model.named_parameters():
        if name.endswith("default.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    loader = Loader(TASK, load_tokenizer(path), base, method, 4)
    data = loader.encode(Records((TASK.read(ROW, "here"),)))
    plain = loader.ahead(
        type(data)(tuple(one._replace(segments=()) for one in data.examples), data.units)
    )
    told, untold = (loader.answer(model, one)[0].probability for one in (data, plain))
    assert told != untold


def test_a_model_that_knows_no_segments_is_told_none(tmp_path: Path) -> None:
    path = save_for_task("distilbert", tmp_path / "model")
    base = TASK.load(path)
    assert base.segments == 0
    loader = Loader(TASK, load_tokenizer(path), base, Head(), 4)
    data = loader.encode(Records((TASK.read(ROW, "here"),)))
    assert len(loader.answer(Head().attach(base, 1), data)) == 1


@pytest.mark.parametrize("missing", [{"text": ""}, {"about": ""}, {"about": None}, {"about": 7}])
def test_neither_text_may_be_missing(missing: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"here, column '{next(iter(missing))}'"):
        TASK.read(ROW | missing, "here")


@pytest.mark.parametrize(
    "asked", ["one text", {"text": "a"}, {"about": "b"}, {"text": "a", "about": ""}]
)
def test_a_question_needs_both_texts(asked: str | dict[str, str]) -> None:
    with pytest.raises(UsageError):
        TASK.ask(asked)
    assert TASK.ask({"text": "a", "about": "b"}).second == "b"


def test_a_length_with_no_room_for_two_texts_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_for_task("bert", tmp_path / "model"))
    with pytest.raises(UsageError):
        TASK.model_copy(update={"max_length": 2}).check_tokenizer(tokenizer)
    TASK.check_tokenizer(tokenizer)
