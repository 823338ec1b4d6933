"""A trial with own files finds out what they are for."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hortus.learning.data.guess import read_all
from hortus.learning.tasks.kinds import TASKS
from hortus.planning.plan_file import load_plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.simulation.own_data import Asked, plan_for
from hortus.simulation.own_task import task_for

Row = dict[str, Any]
ASKED: Row = {
    "question": "what is it",
    "context": "it is blue",
    "answer": "blue",
    "answer_start": 6,
}
TAGGED: Row = {"id": "1", "tokens": ["the", "flu"], "tags": ["O", "B-Disease"]}


def rows(*some: Row) -> list[Row]:
    return [dict(row) for row in some for _ in range(6)]


def written(path: Path, lines: list[Row]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("lines", "kind", "found"),
    [
        (rows(ASKED), "extractive-qa", {"unanswerable": False, "max_length": 64}),
        (rows(ASKED, ASKED | {"answer": ""}), "extractive-qa", {"unanswerable": True}),
        (rows(TAGGED), "token-classification", {"entities": ("Disease",), "scheme": "IOB2"}),
        (
            rows(TAGGED, TAGGED | {"tags": ["S-A-b", "E-Disease"]}),
            "token-classification",
            {"entities": ("A-b", "Disease"), "scheme": "IOBES"},
        ),
        (
            rows(
                {"words": '["a"]', "ner_tags": '["O"]'}, {"words": '["b"]', "ner_tags": '["U-X"]'}
            ),
            "token-classification",
            {"tokens": "words", "tags": "ner_tags", "scheme": "BILOU"},
        ),
        (
            rows({"note": "it is wet", "labels": ["b", "a"]}, {"note": "so dry", "labels": []}),
            "multi-label",
            {"text": "note", "label": "labels", "labels": ("a", "b")},
        ),
        (
            rows({"note": "it is wet", "score": 0.5}, {"note": "so dry", "score": 2}),
            "regression",
            {"label": "score", "lowest": 0, "highest": 2},
        ),
        (
            rows({"note": "it is wet", "score": 1}, {"note": "so dry", "score": 2}),
            "text-classification",
            {"label": "score", "labels": ("1", "2")},
        ),
        (
            rows({"text": "it is wet", "label": "a"}, {"text": "so dry", "label": "b"}),
            "text-classification",
            {"labels": ("a", "b")},
        ),
    ],
)
def test_the_task_is_told_by_columns_and_cells(
    tmp_path: Path, lines: list[Row], kind: str, found: Row
) -> None:
    task = task_for(read_all([written(tmp_path / "a.jsonl", lines)], []), None, None, None)
    assert task.kind == kind
    assert {name: getattr(task, name) for name in found} == found
    assert TASKS.parse(task.section) == task
    for line in lines:
        task.read(line, "here")


def test_whoever_names_a_column_decides(tmp_path: Path) -> None:
    lines = rows(ASKED | {"topic": "a"}, ASKED | {"topic": "b"})
    tables = read_all([written(tmp_path / "a.jsonl", lines)], [])
    task = task_for(tables, "context", "topic", None)
    assert (task.kind, task.columns) == ("text-classification", ("context", "topic"))


def test_tags_without_an_entity_are_refused_by_name(tmp_path: Path) -> None:
    tables = read_all([written(tmp_path / "a.jsonl", rows(TAGGED | {"tags": ["O", "Flu"]}))], [])
    with pytest.raises(UsageError, match=r"a.jsonl, line 6, column 'tags'"):
        task_for(tables, None, None, None)


def test_the_plan_loads(tmp_path: Path) -> None:
    data = {
        name: written(tmp_path / f"{name}.jsonl", rows(TAGGED)) for name in ("ash", "birch", "fir")
    }
    made = plan_for(data, Asked(Policy(budget=Budget(epsilon=3.5, delta=1e-4))))
    path = tmp_path / "plan.yaml"
    path.write_text(made.text, encoding="utf-8")
    assert load_plan(path).task == made.task.section
    assert yaml.safe_load(made.text)["task"]["entities"] == ["Disease"]
