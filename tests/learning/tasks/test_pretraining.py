from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_models import save_for_task

from hortus.learning.data.records import Records
from hortus.learning.loader import Encoded, Loader
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import IGNORED
from hortus.learning.tasks.pretraining import MaskedPretraining, Pretraining, _masked
from hortus.runtime.errors import UsageError

LONG = "the sky is blue and a rose is a red red rose and the sea is green"  # 17 words
CAUSAL, MASKED = Pretraining(max_length=8, windows=4), MaskedPretraining(max_length=8, windows=4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_task("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_task("masked-lm", tmp_path_factory.mktemp("bert"))


def encoded(task: Pretraining | MaskedPretraining, path: Path, *documents: str) -> Encoded:
    targets = ("q_proj",) if isinstance(task, Pretraining) else ("query",)
    loader = Loader(task, load_tokenizer(path), task.load(path), LoRA(rank=2, targets=targets), 4)
    return loader.encode(Records(documents))


def test_a_long_document_is_one_unit_of_windows_of_like_lengths(llama: Path) -> None:
    data = encoded(CAUSAL, llama, "a rose", LONG, "ice")
    assert data.units.tolist() == [0, 1, 1, 1, 2]
    # Each document with its end.
    assert [len(one.tokens) for one in data.examples] == [3, 6, 6, 6, 2]
    tokens = [token for one in data.examples[1:4] for token in one.tokens]
    tokenizer = load_tokenizer(llama)
    assert tokens == [
        *tokenizer(LONG, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert all(one.target == one.tokens for one in data.examples)


def test_a_document_beyond_its_windows_is_cut_at_its_end_and_has_none(llama: Path) -> None:
    data = encoded(CAUSAL.model_copy(update={"windows": 1}), llama, LONG)
    (one,) = data.examples
    assert len(one.tokens) == 8
    assert load_tokenizer(llama).eos_token_id not in one.tokens


def test_masks_follow_from_a_window_alone(bert: Path) -> None:
    """Whoever else is in the file, and wherever it stands there."""
    alone = encoded(MASKED, bert, LONG).examples
    among = encoded(MASKED, bert, "ice", LONG, "a rose", LONG).examples
    assert tuple(alone) == tuple(among)[1:4] == tuple(among)[5:8]
    tokenizer = load_tokenizer(bert)
    for one in alone:
        assert len(one.tokens) <= 8
        assert (one.tokens[0], one.tokens[-1]) == (2, 3)  # [CLS] and [SEP], in each window
        assert one.target[0] == one.target[-1] == IGNORED
        kept = [given == wanted for given, wanted in zip(one.tokens, one.target, strict=True)]
        assert one.has_target
        assert sum(kept) <= 2
    assert any(tokenizer.mask_token_id in one.tokens for one in alone)


def test_of_many_tokens_a_share_is_predicted_and_most_of_these_are_masked() -> None:
    part = tuple(np.random.default_rng(0).integers(10, 1000, 20_000).tolist())
    given, wanted = map(np.array, _masked(part, 3, 1000))
    predicted = wanted != IGNORED
    assert predicted.sum() == 3000
    assert np.array_equal(wanted[predicted], np.array(part)[predicted])
    assert np.array_equal(given[~predicted], np.array(part)[~predicted])
    assert 0.77 < np.mean(given[predicted] == 3) < 0.83
    assert 0.08 < np.mean(given[predicted] == wanted[predicted]) < 0.12
    assert _masked(part[:1], 3, 1000)[1] == part[:1]  # always something


def test_a_tokenizer_without_a_mask_is_refused(llama: Path) -> None:
    with pytest.raises(UsageError, match="no mask_token"):
        MASKED.check_tokenizer(load_tokenizer(llama))


def test_a_model_continues_a_text(llama: Path) -> None:
    value = CAUSAL.ask("the sky is")
    tokenizer = load_tokenizer(llama)
    assert CAUSAL.prompt(tokenizer, value) == tuple(tokenizer("the sky is")["input_ids"])
    with pytest.raises(UsageError, match="does not answer"):
        MASKED.ask("the sky is")
