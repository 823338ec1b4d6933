import gzip
import json
from pathlib import Path

import pytest

from hortus.learning.data.records import read_records, record_bytes
from hortus.learning.data.rows import read_rows
from hortus.learning.data.view import View
from hortus.learning.tasks.tagging import TaggedWords, TokenClassification
from hortus.runtime.errors import UsageError

TASK = TokenClassification(entities=("Disease",))
TWO = "Anna\tO\nhas\tO\nflu\tB-Disease\n\nand\tO\nred\tB-Disease\nrash\tI-Disease\n"
SENTENCES = [["Anna", "has", "flu"], ["and", "red", "rash"]]


def write(folder: Path, text: str, name: str = "a.conll") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        TWO,
        TWO.replace("\n", "\r\n"),
        TWO.replace("\t", " "),
        TWO.rstrip("\n"),
        f"\n\n \n{TWO}\n\n\n",
        f"-DOCSTART-\tO\n\n{TWO}",
        "\ufeff" + TWO,
        "# a comment\n" + TWO,
    ],
    ids=["tabs", "carriage returns", "blanks", "no end", "blank lines", "documents", "mark", "comment"],
)  # fmt: skip
def test_sentences_are_records(tmp_path: Path, text: str) -> None:
    values = read_records(write(tmp_path, text), TASK).values
    assert [list(value.words) for value in values] == SENTENCES
    assert [value.tags for value in values] == [(0, 0, 1), (0, 1, 2)]


def test_they_are_the_records_that_lines_of_json_hold(tmp_path: Path) -> None:
    rows = [row for _, row in read_rows(write(tmp_path, TWO), ())]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    lists, packed = write(tmp_path, lines, "a.jsonl"), tmp_path / "a.iob.gz"
    packed.write_bytes(gzip.compress(TWO.encode()))
    digests = [list(record_bytes(read_records(path, TASK))) for path in (lists, packed)]
    assert digests == [list(record_bytes(read_records(tmp_path / "a.conll", TASK)))] * 2


def test_other_orders_of_columns_are_mapped(tmp_path: Path) -> None:
    swapped = write(tmp_path, "O\tAnna\nB-Disease\tflu\n")
    view = View({"tokens": "tags", "tags": "tokens"})
    assert read_records(swapped, TASK, view=view).values[0] == TaggedWords(("Anna", "flu"), (0, 1))
    four = write(tmp_path, "1\tAnna\tO\tx\n2\tflu\tB-Disease\ty\n")
    view = View({"tokens": "2", "tags": "3"})
    assert read_records(four, TASK, view=view).values[0] == TaggedWords(("Anna", "flu"), (0, 1))


def test_a_comment_may_say_whose_a_sentence_is(tmp_path: Path) -> None:
    text = (
        "# patient = 7\n# sent_id = a = b\nflu\tO\n\n# patient = 8\n#\tO\n\n#patient=7\nrash\tO\n"
    )
    path = write(tmp_path, text)
    records = read_records(path, TASK, "patient")
    assert records.units == ("7", "8", "7")
    assert records.values[1].words == ("#",)
    assert next(read_rows(path, ()))[1]["sent_id"] == "a = b"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("Anna\tO\nflu\n", 2, "one field"),
        ("Anna\n\n", 1, "one field"),
        ("Anna\tO\nflu\tNN\tO\n", 2, "3 fields, and those before it have 2"),
        ("Anna\tO\n\nflu\t\n", 3, "a field of the line is empty"),
        ("\n# tags = x\nAnna\tO\n", 2, "'tags' comes twice"),
        ("# a line that says nothing\n", None, "no records"),
        ("Anna\tX\n", 1, "'X' is not one of the plan's"),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_not_quoted(
    tmp_path: Path, text: str, line: int | None, problem: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=problem) as caught:
        read_records(path, TASK)
    assert (caught.value.where or "").startswith(f"{path}, line {line}" if line else str(path))
    assert "Anna" not in str(caught.value)


def test_a_file_without_blank_lines_is_not_read_whole(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="65,536 words"):
        read_records(write(tmp_path, "a\tO\n" * 2**17), TASK)
