from pathlib import Path
from typing import Any

import pytest

from hortus.learning.data.records import read_records, read_units, record_bytes
from hortus.learning.data.view import View
from hortus.learning.tasks.chat import Chat
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import labels_of, texts_of
from tests.learning.data.test_records import Writer, every_format, write_csv, write_jsonl

TASK = TextClassification(labels=("billing", "referral"))
ROWS = [
    {"query": "Anna has a rash", "category": "referral", "text": "7", "pid": "a"},
    {"query": "Anna pays", "category": "billing", "text": "8", "pid": "b"},
]
OWN = View({"text": "query", "label": "category", "patient": "pid"})


@every_format
def test_a_plan_reads_a_files_own_columns(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    records = read_records(path, TASK, "patient", OWN)
    assert texts_of(records) == ("Anna has a rash", "Anna pays")
    assert labels_of(records) == [1, 0]
    assert records.units == ("a", "b")
    assert read_units(path, "patient", OWN) == (list(records.rows), ["a", "b"])


def test_names_and_masks_make_no_row_another(tmp_path: Path) -> None:
    """A budget follows rows: to call a column otherwise must not open a new account."""
    path = write_jsonl(tmp_path, ROWS)
    plain = TextClassification(text="query", label="category", labels=TASK.labels)
    masked = View(OWN.columns, lambda text: text.replace("Anna", "<PERSON>"))
    views = [(plain, View()), (TASK, OWN), (TASK, masked)]
    assert len({tuple(record_bytes(read_records(path, t, view=v))) for t, v in views}) == 1
    assert texts_of(read_records(path, TASK, view=masked))[1] == "<PERSON> pays"


def test_only_what_people_have_written_is_masked(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [{"text": "referral", "label": "referral", "patient": "referral"}])
    records = read_records(path, TASK, "patient", View(mask=str.upper))
    assert (texts_of(records), labels_of(records), records.units) == (("REFERRAL",), [1], ("referral",))  # fmt: skip
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    chat = read_records(write_jsonl(tmp_path, [{"messages": turns}]), Chat(), view=View(mask=lambda t: f"{t}"))  # fmt: skip
    assert [one.content for one in chat.values[0]] == ["hi", "yes"]


@pytest.mark.parametrize(
    ("rows", "view", "said"),
    [
        ([{"x": "a", "label": "billing"}], OWN, "no column 'query', which is to be the plan's 'text'"),
        ([ROWS[0] | {"query": " "}], OWN, "column 'query' (the plan's 'text')"),
        ([ROWS[0] | {"category": "refill"}], OWN, "column 'category' (the plan's 'label')"),
        ([ROWS[0] | {"pid": ""}], OWN, "column 'pid' (the plan's 'patient')"),
        ([ROWS[0] | {"text": " ", "label": "billing"}], View({"query": "query"}), "column 'text'"),
        ([ROWS[0] | {"text": " "}], View({"label": "text", "text": "query"}), "column 'text' (the plan's 'label')"),
    ],
)  # fmt: skip
def test_errors_name_the_files_own_column(
    tmp_path: Path, rows: list[dict[str, Any]], view: View, said: str
) -> None:
    path = write_jsonl(tmp_path, rows)
    with pytest.raises(UsageError) as caught:
        read_records(path, TASK, "patient" if "patient" in view.columns else None, view)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "Anna" not in str(caught.value)
