from pathlib import Path

import pytest
from helpers.tiny_models import save_for_task

from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.tagging import Entity, Scheme, TaggedWords, TokenClassification
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import check_metrics, values

TASK = TokenClassification(entities=("Drug", "Dose"), max_length=8)
TEXT = "The sky, (blue) is the sky."


def tags(task: TokenClassification, written: str) -> tuple[int, ...]:
    return tuple(task.names.index(tag) for tag in written.split())


@pytest.mark.parametrize(
    ("scheme", "right", "found", "f1"),
    [
        ("IOB2", "B-Drug I-Drug O B-Dose", "B-Drug I-Drug O O", 2 / 3),
        ("IOB2", "B-Drug I-Drug O B-Dose", "B-Drug O O B-Dose", 1 / 2),
        ("IOB2", "O I-Drug O O", "O I-Drug O O", 0),  # strictly, nothing begins with an I
        ("IOB1", "O I-Drug O O", "O I-Drug O O", 1),
        ("IOBES", "B-Drug E-Drug O S-Dose", "B-Drug E-Drug O S-Dose", 1),
        ("IOBES", "B-Drug E-Drug O S-Dose", "B-Drug I-Drug O S-Dose", 2 / 3),
        ("BILOU", "B-Drug L-Drug O U-Dose", "B-Drug L-Drug O U-Drug", 1 / 2),
        ("IOE2", "I-Drug E-Drug E-Drug O", "I-Drug E-Drug E-Drug O", 1),
    ],
)
def test_whole_entities_count_by_the_columns_scheme(
    scheme: Scheme, right: str, found: str, f1: float
) -> None:
    task = TokenClassification(entities=("Drug", "Dose"), scheme=scheme)
    metrics = task.metrics([(tags(task, right), tags(task, found)), ((0,), (0,))])
    check_metrics(metrics)
    assert values(metrics)["f1"] == pytest.approx(f1)
    assert task.read({"tokens": list("abcd"), "tags": right.split()}, "here").tags == tags(
        task, right
    )


def test_each_entity_has_its_own_f1_whatever_it_is_called() -> None:
    task = TokenClassification(entities=("-", "I", "a-b"))
    both = "B-- I-- B-I O B-a-b"
    breakdown = task.metrics([(tags(task, both), tags(task, both.replace("B-I", "B--")))])[
        0
    ].breakdown
    assert breakdown is not None
    found = [(part.label, part.count, part.value) for part in breakdown.parts]
    assert found == [("-", 1, pytest.approx(2 / 3)), ("I", 1, 0), ("a-b", 1, 1)]


def test_a_tag_of_another_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="E-Drug"):
        TASK.read({"tokens": ["a"], "tags": ["E-Drug"]}, "here")


def test_words_that_are_cut_off_count_as_missed(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_for_task("bert", tmp_path / "model"))
    value = TaggedWords(("sky",) * 9, (1,) * 9)
    (example,) = TASK.encode(tokenizer, [value])
    assert len(example.tokens) == 8  # with two around them, six of nine words
    found = values(TASK.judge([example], [[1] * 8]))
    assert found["recall"] == found["word_accuracy"] == pytest.approx(6 / 9)
    assert found["precision"] == 1


def test_an_answer_is_the_entities_of_a_text_with_their_places(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_for_task("bert", tmp_path / "model"))
    task = TokenClassification(entities=("Drug", "Dose"), max_length=16)
    asked = [task.ask(TEXT), task.ask({"tokens": ["sky", "blue"]})]
    assert asked[0].words == ("The", "sky", ",", "(", "blue", ")", "is", "the", "sky", ".")
    examples = task.encode(tokenizer, asked)
    # One token for each word, after the first: "(blue)" is a drug, and the second sky a dose.
    predicted = [[0, 0, 0, 0, 1, 2, 2, 0, 0, 3, 0, 0], [0, 3, 4, 0]]
    first, second = task.replies(examples, predicted)
    assert first == (Entity("Drug", "(blue)", 9, 15), Entity("Dose", "sky", 23, 26))
    assert second == (Entity("Dose", "sky blue", 0, 8),)
    assert all(TEXT[one.start : one.end] == one.text for one in first)


@pytest.mark.parametrize(
    "asked", ["", "  ", 7, None, {"text": "a"}, {"tokens": []}, {"tokens": [""]}]
)
def test_what_holds_no_words_is_refused(asked: object) -> None:
    with pytest.raises(UsageError):
        TASK.ask(asked)  # type: ignore[arg-type]
