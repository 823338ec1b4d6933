import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import save_for_task
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.head import Head
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import IGNORED, Example
from hortus.learning.tasks.extractive_qa import Answer, AskedText, ExtractiveQA
from hortus.learning.tasks.squad import exact_match, f1
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import check_metrics, values

TASK = ExtractiveQA(max_length=32, max_windows=4)
LONG = "the rose " * 20 + "is red"  # 42 words, of which a window with its question takes 27
ROW = {"question": "sky", "context": "the sky is blue", "answer": "blue", "answer_start": 11}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(save_for_task("bert", tmp_path_factory.mktemp("models") / "bert"))


class Says(torch.nn.Module):
    """A model that gives each token the scores that it is given."""

    def forward(self, start: torch.Tensor, end: torch.Tensor) -> QuestionAnsweringModelOutput:
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


@pytest.mark.parametrize(
    ("wanted", "found", "exact", "overlap"),
    [
        ("the Denver Broncos", "Denver Broncos!", 1, 1),
        ("Denver Broncos", "The Broncos", 0, 2 / 3),
        ("a b b", "b b b", 0, 2 * 2 / 5),  # `a` is an article
        ("10,000", "10000", 1, 1),
        ("blue", "", 0, 0),
        ("", "", 1, 1),
        ("", "blue", 0, 0),
        ("the", "a", 1, 1),
    ],
)
def test_answers_are_compared_as_squad_does(
    wanted: str, found: str, exact: float, overlap: float
) -> None:
    assert exact_match(wanted, found) == exact
    assert f1(wanted, found) == pytest.approx(overlap)
    metrics = TASK.metrics([(wanted, found), ("x", "x")])
    check_metrics(metrics)
    assert values(metrics) == pytest.approx(
        {"f1": (overlap + 1) / 2, "exact_match": (exact + 1) / 2}
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"answer_start": 10},
        {"answer_start": -4},
        {"answer_start": 11.5},
        {"answer_start": "there"},
        {"answer": "Blue"},
        {"answer": "blue secret"},
        {"answer": ""},
        {"context": ""},
    ],
)
def test_an_answer_that_is_not_where_it_should_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="here") as caught:
        TASK.read(ROW | wrong, "here")
    assert "secret" not in str(caught.value)
    assert TASK.read(ROW | {"answer_start": "11"}, "here").answer == "blue"  # as CSV has it


def test_a_question_may_have_no_answer_where_the_plan_says_so() -> None:
    task = ExtractiveQA(unanswerable=True)
    for empty in ("", None):
        value = task.read(ROW | {"answer": empty, "answer_start": None}, "here")
        assert value == AskedText("sky", "the sky is blue")


def test_a_long_text_is_read_by_windows_that_overlap_and_one_of_them_has_the_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    value = AskedText("sky", LONG, len(LONG) - 3, len(LONG))
    windows = TASK.encode(tokenizer, [value, AskedText("sky", "ice", 0, 3)])
    assert [one.continues for one in windows] == [False, True, False]
    assert all(len(one.tokens) <= 32 for one in windows)
    first, second, short = windows
    assert first.target[0] == 3  # the answer is not in it
    assert second.target[0] == 0
    assert sum(one == 3 for one in second.target) == 1  # a word that begins and ends it
    assert (
        sum(one != IGNORED for one in second.target) == 1 + sum(second.segments) - 1
    )  # without [SEP]
    shared = {place for place in first.note.places if place} & set(second.note.places)
    assert len(shared) == 8  # a quarter of 32 tokens
    assert {place for one in (first, second) for place in one.note.places if place} == {
        (match, match + len(word))
        for word, match in zip(
            LONG.split(), np.cumsum([0] + [len(w) + 1 for w in LONG.split()]), strict=False
        )
    }
    assert short.target == (0, IGNORED, IGNORED, 3, IGNORED)


def test_windows_beyond_the_most_and_a_question_beyond_half_a_window_are_cut(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    task = ExtractiveQA(max_length=32, max_windows=2)
    windows = task.encode(tokenizer, [AskedText("sky " * 90, LONG * 3, 0, 3)])
    assert len(windows) == 2
    assert [sum(not kind for kind in one.segments) for one in windows] == [
        18,
        18,
    ]  # 16, and two around


def test_the_windows_of_a_record_stay_in_its_unit_and_share_its_pass(tmp_path: Path) -> None:
    path = save_for_task("bert", tmp_path / "model")
    base = TASK.load(path)
    loader = Loader(TASK, load_tokenizer(path), base, Head(), 1)
    long, short = AskedText("sky", LONG, 0, 3), AskedText("sky", "ice", 0, 3)
    alone = loader.encode(Records((short, long, short)))
    assert alone.units.tolist() == [0, 1, 1, 2]
    passes = list(loader.batches(alone, np.arange(4), 1))
    (shared,) = [batch for batch in passes if len(batch.index) > 1]
    assert shared.index.tolist() == [1, 2]
    assert shared.weights.tolist() == [0.5, 0.5]
    # A unit of several records: as many windows join a step as the plan allows it records.
    together = loader.encode(Records((long, short), (), ("a", "a")))
    assert together.units.tolist() == [0, 0, 0]
    joined = sample_records(together.units, 1.0, 2, UnsafeSeededRandomness(1, "x").stream("sample"))
    assert len(joined) == 2
    assert len(loader.largest_unit(2)) == 2 * TASK.max_windows


def test_more_windows_than_share_a_pass_are_refused(tmp_path: Path) -> None:
    plan = {
        "name": "x",
        "model": "m",
        "task": {"kind": "extractive-qa", "max_windows": 9},
        "training": {"rounds": 1, "sampling_rate": 0.1, "nominal_units": 9, "micro_batch": 8},
        "privacy": {"epsilon": 8, "delta": 1e-5},
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=r"task.max_windows"):
        load_plan(tmp_path / "plan.yaml")


def test_the_loss_is_the_cross_entropy_of_both_ends_among_the_texts_tokens() -> None:
    targets = torch.tensor([[0, IGNORED, 1, 2, IGNORED], [3, IGNORED, 0, 0, IGNORED]])
    start = torch.tensor([[0.0, 9.0, 2.0, 1.0, 9.0], [1.0, 9.0, 0.0, 0.0, 9.0]], requires_grad=True)
    losses = TASK.losses(Says(), {"start": start, "end": start}, targets)
    a, b = (
        start.detach()[0, [0, 2, 3]].log_softmax(0),
        start.detach()[1, [0, 2, 3]].log_softmax(0),
    )
    assert losses.tolist() == pytest.approx([float(-(a[1] + a[2]) / 2), float(-b[0])])
    losses.sum().backward()
    assert start.grad is not None
    assert torch.isfinite(start.grad).all()
    assert not start.grad[:, [1, 4]].any()  # of tokens that cannot be an answer's


def scores(example: Example, start: int, end: int, by: float) -> np.ndarray:
    """Gives two tokens of the context, counted from its first, a score above the others."""
    found = np.zeros((len(example.tokens) + 3, 2), np.float32)  # padded, as a pass is
    first = next(n for n, place in enumerate(example.note.places) if place)
    found[first + start, 0] = found[first + end, 1] = by
    found[-1] = 99
    return found


def test_the_answer_is_the_likeliest_span_of_all_windows(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    value = AskedText("sky", LONG, 0, 3)
    windows = TASK.encode(tokenizer, [value, value])
    found = [scores(one, 1, 2, by) for one, by in zip(windows, (1, 3, 3, 1), strict=True)]
    late, early = TASK.replies(windows, found)
    assert early == Answer("rose the", 4, 12)
    assert late.text == LONG[late.start : late.end]
    assert late.start > early.start
    metrics = TASK.judge(windows, found)
    assert values(metrics)["exact_match"] == 0
    assert values(metrics)["f1"] == pytest.approx(0)  # articles do not count


def test_no_span_ends_before_it_starts_or_is_longer_than_the_longest(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    task = ExtractiveQA(max_length=32, longest_answer=2)
    windows = task.encode(tokenizer, [AskedText("sky", "the sky is blue", 0, 3)])
    for start, end in ((3, 0), (0, 3)):
        (reply,) = task.replies(windows, [scores(windows[0], start, end, 5)])
        assert 1 <= len(reply.text.split()) <= 2


@pytest.mark.parametrize(("by", "text"), [(3.0, "sky is"), (-3.0, "")])
def test_nothing_is_found_where_nothing_is_likelier_and_may_be(
    tokenizer: PreTrainedTokenizerBase, by: float, text: str
) -> None:
    windows = TASK.encode(tokenizer, [AskedText("sky", "the sky is blue", 0, 3)])
    found = scores(windows[0], 1, 2, 1)
    found[0] = 1 - by
    (free,) = ExtractiveQA(max_length=32, unanswerable=True).replies(windows, [found])
    (bound,) = TASK.replies(windows, [found])
    assert (free.text, bound.text) == (text, "sky is")


def test_a_canary_is_a_word_of_the_text_outside_the_answer() -> None:
    value, generator = AskedText("sky", "the sky is blue", 11, 15), np.random.default_rng(0)
    with pytest.raises(UsageError, match="max_windows"):
        TASK.canary(value, generator)
    task = ExtractiveQA(max_windows=1)
    wrong = {task.canary(value, generator).answer for _ in range(40)}
    assert wrong == {"the", "sky", "is"}


@pytest.mark.parametrize("asked", ["sky", {"question": "sky"}, {"question": "", "context": "x"}])
def test_a_question_needs_its_text(asked: Any) -> None:
    with pytest.raises(UsageError):
        TASK.ask(asked)
    assert TASK.ask({"question": "sky", "context": "x"}) == AskedText("sky", "x")
