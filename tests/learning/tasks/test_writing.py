import sys

import pytest
import torch

from hortus.learning.tasks.base import IGNORED
from hortus.learning.tasks.writing import (
    cross_entropies,
    mean_losses,
    observed,
    similarity,
    token_metrics,
)
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import values


def test_a_records_loss_is_a_mean_over_its_own_tokens() -> None:
    logits = torch.randn(2, 4, 5)
    wanted = torch.tensor([[1, IGNORED, 2, 3], [IGNORED] * 4])
    each, hits = cross_entropies(logits, wanted)
    own = -logits[0].log_softmax(1)[[0, 2, 3], [1, 2, 3]]
    assert torch.allclose(mean_losses(each, wanted), torch.stack([own.mean(), torch.tensor(0.0)]))
    (_, count, right), nothing = observed(each, hits, wanted)
    assert (count, right) == (3, int(hits[0].sum()))
    assert nothing == (0.0, 0, 0)


def test_metrics_weigh_every_token_alike() -> None:
    found = values(token_metrics([(2.0, 1, 1), (2.0, 3, 0), (0.0, 0, 0)], "answers"))
    assert found["loss"] == 1.0
    assert found["perplexity"] == pytest.approx(2.718281828)
    assert found["token_accuracy"] == 0.25
    assert values(token_metrics([], "answers"))["loss"] == 0


def test_answers_are_compared_by_the_libraries_of_the_field() -> None:
    wanted = ["the cat sat on the mat", "all is well"]
    same = values(similarity(wanted, wanted))
    assert same == {"rouge1": 1, "rouge2": 1, "rougel": 1, "bleu": pytest.approx(100)}
    half = values(similarity(["the cat sat on", "all is well"], wanted))
    assert half["rouge1"] == pytest.approx((2 * (4 / 4) * (4 / 6) / (1 + 4 / 6) + 1) / 2)
    assert 0 < half["bleu"] < 100
    assert set(values(similarity([], [])).values()) == {0}


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UsageError, match=r"pip install 'hortus\[text\]'"):
        similarity([], [])
