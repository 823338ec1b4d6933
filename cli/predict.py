"""`hortus predict`: what a trained model answers, line by line or row by row."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hortus.cli.display import echo, echo_cells, echo_json_line, terminal
from hortus.cli.options import BaseModel, MaxNewTokens, Seed, Temperature, Trained, Which
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from hortus.learning.data.questions import Question
    from hortus.learning.models.generation import Writing
    from hortus.learning.predictor import Model

_FILES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet", ".gz", ".gzip", ".zst", ".zstd")

Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="Repeat a column of the row, such as its id. Can be repeated."
    ),
]
Batch = Annotated[
    int, typer.Option(min=1, help="Answer this many at a time; 1 answers each line as it comes.")
]


def predict(
    trained: Trained,
    what: Annotated[
        str,
        typer.Argument(
            metavar="[TEXT|FILE|-]",
            help="A text, in quotes; a file of records, whose answers may be missing; a .txt file, or - for standard "
            "input, with a text a line.",
        ),
    ] = "-",
    which: Which = "last",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write a JSON object a line, with all that the model answers."),
    ] = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Standard input has a row a line, as JSON, not a text.")
    ] = False,
    keep: Keep = None,
    batch: Batch = 64,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    model: BaseModel = None,
) -> None:
    """Have a trained model answer a text, or every line or row of a file.

    An answer does not depend on the others of a file, or on --batch, but for rounding in its last digits.
    """
    from hortus.api import load
    from hortus.learning.models.generation import Writing

    how = Writing(max_new_tokens, temperature, seed)
    is_one = _is_text(what)
    loaded = load(trained, which=which, model=model)
    asked = _one(what) if is_one else _asked(what, loaded.asked, jsonl=jsonl)
    batch = 1 if what == "-" and sys.stdin.isatty() else batch
    with _progress() as show:
        for done, some in _batches(asked, batch):
            for question, answer in zip(some, _answers(loaded, some, how), strict=True):
                fields = _with_kept(question, keep or (), _fields(answer))
                _write(fields, as_json=as_json, is_one=is_one)
            sys.stdout.flush()
            show(done)


def _write(fields: Mapping[str, Any], *, as_json: bool, is_one: bool) -> None:
    cells = list(map(_cell, fields.values()))
    if as_json:
        echo_json_line(fields)
    elif is_one and len(cells) == 1:
        echo(cells[0])  # a text that the model has written, in its own lines
    else:
        echo_cells(cells)


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Lends what shows how many are answered, where the answers themselves go elsewhere."""
    console = terminal(stderr=True)
    if not console.is_terminal or sys.stdout.isatty():
        yield lambda _: None
        return
    with console.status("answering…") as status:
        yield lambda done: status.update(f"answered {done:,}")


def _is_text(what: str) -> bool:
    """Whether an argument is a text, and not a file or a pipe.

    Raises:
        UsageError: It is named like a file, but no such file exists.
    """
    if what == "-" or _exists(what):
        return False
    if what.lower().endswith(_FILES) and len(what.split()) == 1:
        raise UsageError(
            "there is no such file",
            where=what,
            remedy="If it is a text, send it through a pipe: echo … | hortus predict RUN -",
        )
    return True


def _exists(what: str) -> bool:
    try:
        return Path(what).exists()
    except (OSError, ValueError):  # too long for a name, or with a character that none has
        return False


def _one(text: str) -> "Iterator[Question]":
    from hortus.learning.data.questions import Question

    yield Question("", text)


def _asked(what: str, columns: Sequence[str], *, jsonl: bool) -> "Iterator[Question]":
    from hortus.learning.data.questions import piped, questions

    if what != "-":
        return questions(Path(what), columns)
    return piped(sys.stdin, columns, rows=jsonl)  # type: ignore[arg-type]  # a text stream, whatever replaces it


def _batches(asked: "Iterator[Question]", size: int) -> "Iterator[tuple[int, list[Question]]]":
    """Yields some questions at a time, and how many there were by then."""
    done = 0
    while some := list(islice(asked, size)):
        done += len(some)
        yield done, some


def _answers(model: "Model", some: "Sequence[Question]", how: "Writing") -> list[Any]:
    """Returns the answers; where one question cannot be answered, the error says which."""
    try:
        return model.predict([question.asked for question in some], how)
    except UsageError as error:
        for question in some:
            try:
                model.check(question.asked)
            except UsageError as one:
                where = question.where or one.where
                raise UsageError(one.problem, where=where, remedy=one.remedy) from None
        raise error from None


def _with_kept(
    question: "Question", columns: Iterable[str], answer: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns columns of the row, and then the answer; one called as the answer's has `row.` before its name."""
    row = question.asked if isinstance(question.asked, Mapping) else {}
    kept = {}
    for column in columns:
        if column not in row:
            raise UsageError(
                f"there is no column {column!r}",
                where=question.where or "--keep",
                remedy=f"It has: {', '.join(map(repr, row))}" if row else "A text has no columns.",
            )
        kept[f"row.{column}" if column in answer else column] = _plain(row[column])
    return {**kept, **answer}


def _fields(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - the task's own
    """Returns an answer by column."""
    found = _plain(answer)
    return found if isinstance(found, dict) else {"answer": found}


def _plain(value: Any) -> Any:  # noqa: ANN401 - the task's own
    """Returns a value as JSON has it; a number that is not finite is null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _cell(value: Any) -> str:  # noqa: ANN401 - the task's own
    """Writes a part of an answer for people: numbers to four digits, and lists as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
