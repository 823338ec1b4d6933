from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import save_for_task

from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import IGNORED
from hortus.learning.tasks.text_to_text import Pair, TextToText
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import check_metrics, values

PAIR = Pair("the sky is blue and the rose is red", "blue red")
DECODER = TextToText(
    architecture="decoder", template="the {source} is", max_length=16, max_target_length=4
)
Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("models")

    def save(name: str) -> Path:
        path = folder / name
        return path if path.exists() else save_for_task(name, path)

    return save


def words(path: Path, ids: tuple[int, ...]) -> str:
    return " ".join(load_tokenizer(path).convert_ids_to_tokens(list(ids)))


def test_an_encoder_is_given_the_text_and_a_decoder_learns_the_target(saved: Saved) -> None:
    task = TextToText(template="red: {source}", max_length=8, max_target_length=4)
    (example,) = task.encode(load_tokenizer(saved("t5")), [PAIR])
    assert words(saved("t5"), example.tokens) == "[CLS] [UNK] the sky is blue [UNK] [SEP]"
    assert words(saved("t5"), example.further[0]) == "[CLS] blue red [SEP]"
    (cut,) = task.encode(load_tokenizer(saved("t5")), [Pair("sky", "red red red red red")])
    assert (
        words(saved("t5"), cut.further[0]) == "[CLS] red red red"
    )  # and no end, which it has not come to


def test_a_decoder_learns_the_target_after_the_text_whose_cut_does_not_depend_on_it(
    saved: Saved,
) -> None:
    path = saved("llama")
    short, long = DECODER.encode(
        load_tokenizer(path), [Pair("sky " * 20, "red"), Pair("sky " * 20, "red " * 9)]
    )
    asked = "the " + "sky " * 10 + "is"
    assert words(path, short.tokens) == f"{asked} red [SEP]"
    assert words(path, long.tokens) == f"{asked} red red red red"
    assert short.target == (IGNORED,) * 12 + short.tokens[12:]
    assert DECODER.exercise(short) == (short.tokens[:12], short.tokens[12:])
    assert DECODER.prompt(load_tokenizer(path), Pair("sky " * 20, "")) == short.tokens[:12]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "a text"}, "once"),
        ({"template": "{source} {source}"}, "once"),
        ({"architecture": "decoder"}, "needs words after"),
    ],
)
def test_a_template_without_a_place_for_the_text_is_refused(
    fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextToText.model_validate(fields)


def test_a_template_that_leaves_no_room_is_refused(saved: Saved) -> None:
    task = DECODER.model_copy(update={"template": "the " * 12 + "{source} is"})
    with pytest.raises(UsageError, match="takes 13 tokens"):
        task.check_tokenizer(load_tokenizer(saved("llama")))


@pytest.mark.parametrize(("task", "model"), [(TextToText(), "llama"), (DECODER, "t5")])
def test_a_model_of_the_other_form_is_refused(saved: Saved, task: TextToText, model: str) -> None:
    with pytest.raises(UsageError, match="does not"):
        task.load(saved(model))


@pytest.mark.parametrize("model", ["t5", "bart", "llama"])
def test_the_loss_is_transformers_own_and_answers_are_compared(saved: Saved, model: str) -> None:
    path = saved(model)
    task = DECODER if model == "llama" else TextToText(max_length=16, max_target_length=8)
    task = task.model_copy(update={"compared": 2, "max_new_tokens": 3})
    base = task.load(path)
    targets = ("q", "v") if model == "t5" else ("q_proj",)
    adapter = LoRA(rank=2, targets=targets)
    adapted = adapter.attach(base, 1)
    loader = Loader(task, load_tokenizer(path), base, adapter, 4)
    data = loader.encode(Records((PAIR, Pair("ice", "a rose"), Pair("a", "sea"))))
    (batch,) = loader.batches(data, torch.arange(1).numpy(), 1)
    example = data.examples[0]
    wanted = example.further[0] if example.further else example.target
    loss = base.module(input_ids=torch.tensor([example.tokens]), labels=torch.tensor([wanted])).loss
    assert torch.allclose(batch.losses(adapted), loss, rtol=1e-4)
    metrics = loader.measure(adapted, data)
    check_metrics(metrics)
    assert {"loss", "rouge1", "rougel", "bleu"} <= values(metrics).keys()
    assert values(metrics) == values(loader.measure(adapted, data))
