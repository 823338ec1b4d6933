"""Whatever a record holds, it becomes tokens that the model knows, padded on the right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, VOCABULARY, edit_json, save_tokenizer

from hortus.learning.loader import Loader
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import labelled

TASK = TextClassification(labels=("warm", "cool"), max_length=16)
RECORDS = labelled(("apple", "the sky is blue", "a"), np.array([0, 1, 0]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ARCHITECTURES["bert"].save(tmp_path / "model")


def task(path: Path, length: int = 16) -> Loader:
    wanted = TASK.model_copy(update={"max_length": length})
    base = wanted.load(path)
    return Loader(wanted, load_tokenizer(path), base, LoRA(rank=2), 4)


def refused(path: Path, length: int = 16) -> str:
    with pytest.raises(UsageError) as caught:
        task(path, length)
    assert caught.value.where
    assert caught.value.remedy
    return str(caught.value)


def test_padding_is_on_the_right_whatever_the_file_says(path: Path) -> None:
    straight = task(path)
    edit_json(path / "tokenizer_config.json", padding_side="left")
    left = task(path)
    for one in (straight, left):
        inputs = one.batch(one.encode(RECORDS), np.arange(3), np.arange(3)).inputs
        assert inputs["input_ids"][0].tolist()[:3] == [2, VOCABULARY.index("apple"), 3]
        assert inputs["attention_mask"][0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_padding_and_truncation_inside_a_tokenizer_file_do_not_count(path: Path) -> None:
    before = task(path).encode(RECORDS).examples
    edit_json(
        path / "tokenizer.json",
        padding={
            "strategy": {"Fixed": 12},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        truncation={
            "direction": "Left",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        },
    )
    assert task(path).encode(RECORDS).examples == before


def test_a_tokenizer_without_a_token_for_padding_works(path: Path) -> None:
    save_tokenizer(path, pad_token=None)
    assert load_tokenizer(path).pad_token_id is None
    one = task(path)
    base = one._base.ahead
    assert base is not None
    batch = one.batch(one.encode(RECORDS), np.arange(3), np.arange(3))
    alone = one.batch(one.encode(RECORDS), np.arange(1), np.arange(1))
    with torch.no_grad():
        assert torch.allclose(base.embed(**batch.inputs)[:1], base.embed(**alone.inputs), atol=1e-5)


def test_a_text_of_which_nothing_is_left_is_one_token(path: Path) -> None:
    save_tokenizer(path, frame=False, unknown=None)
    document = json.loads((path / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[^a-z ]"}, "content": ""}
    document["model"]["unk_token"] = "the"
    (path / "tokenizer.json").write_text(json.dumps(document))
    data = task(path).encode(labelled(("Ä Ö", "apple"), np.array([0, 1])))
    assert [one.tokens for one in data.examples] == [(0,), (7,)]


def test_added_words_beyond_the_embedding_are_refused(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    tokenizer.add_tokens(["bakery", "bicycle"])
    tokenizer.save_pretrained(path)
    count = len(VOCABULARY)
    told = refused(path)
    assert f"knows {count + 2} tokens, and the model's embedding has {count} rows: 'bakery'" in told


def test_added_words_that_the_embedding_has_room_for_are_fine(tmp_path: Path) -> None:
    bert = ARCHITECTURES["bert"]
    larger = type(bert)(
        bert.config, bert.model, {**bert.fields, "vocab_size": 64}, bert.targets
    ).save(tmp_path)
    tokenizer = load_tokenizer(larger)
    tokenizer.add_tokens(["bakery"])
    tokenizer.save_pretrained(larger)
    task(larger)


def test_a_vocabulary_of_special_tokens_only_is_refused(path: Path) -> None:
    save_tokenizer(path, vocabulary=VOCABULARY[:4])
    assert "special tokens only" in refused(path)


def test_a_folder_without_a_tokenizer_is_refused(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    assert "tokenizer" in refused(path)


def test_a_tokenizer_that_fails_on_unknown_words_is_refused(path: Path) -> None:
    save_tokenizer(path, unknown=None)
    assert "fails on texts with unknown words" in refused(path)


def test_ids_that_a_template_adds_beyond_the_embedding_are_refused(path: Path) -> None:
    document = json.loads((path / "tokenizer.json").read_text())
    document["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [4096]
    (path / "tokenizer.json").write_text(json.dumps(document))
    assert "none of the" in refused(path)


def test_a_template_longer_than_a_text_may_be_is_refused(path: Path) -> None:
    document = json.loads((path / "tokenizer.json").read_text())
    special = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    document["post_processor"]["single"] = [special] * 6 + document["post_processor"]["single"]
    (path / "tokenizer.json").write_text(json.dumps(document))
    assert task(path, 16)
    assert "tokenizer" in refused(path, 4)


def test_a_vocabulary_larger_than_the_weights_is_refused(path: Path) -> None:
    save_tokenizer(path, vocabulary=(*VOCABULARY, *(f"word{n}" for n in range(5))))
    assert "'word0'" in refused(path)
