"""`hortus predict` and `hortus chat`: texts, files and pipes in, answers out, and nobody's text commands the terminal."""

import csv
import errno
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import hortus
from hortus.cli import chat as chat_module
from hortus.cli.main import app
from hortus.learning.predictor import Model
from tests.conftest import write_tiny_plan
from tests.learning.exports.test_exports import trained

# So that a model that has hardly learnt says something, and not the same each time.
DRAWN = ("--temperature", "5", "--seed", "3", "--max-new-tokens")
QUESTIONS = ["the sky is blue", "a rose is red", "grass is green"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> hortus.Run:
    folder = tmp_path_factory.mktemp("predict")
    return hortus.simulate(hortus.Plan.load(write_tiny_plan(folder, tiny_model)))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> hortus.Run:
    return trained(tmp_path_factory.mktemp("chat") / "here", "chat")


def call(*arguments: object, given: str | bytes | None = None) -> Result:
    runner = CliRunner(env={"COLUMNS": "400", "TERM": "dumb"})
    return runner.invoke(app, list(map(str, arguments)), input=given)


def drawn(model: Model, prompt: Any, count: int = 3, *, adapter: bool = True) -> str:
    """What `DRAWN` draws."""
    said = model.generate(prompt, max_new_tokens=count, temperature=5.0, seed=3, adapter=adapter)
    assert said
    return said


def labels(run: hortus.Run, texts: list[str] = QUESTIONS) -> list[str]:
    return [answer.label for answer in hortus.load(run).predict(texts)]


def test_a_text_is_answered_in_a_line(run: hortus.Run) -> None:
    done = call("predict", run.directory, QUESTIONS[0])
    assert done.exit_code == 0, done.output
    label, probability = done.output.strip().split("\t")
    assert label == labels(run)[0]
    assert 1 / 3 <= float(probability) <= 1


@pytest.mark.parametrize("name", ["q.csv", "q.csv.gz", "q.jsonl", "q.jsonl.gz", "q.txt", "q.tsv"])
def test_a_file_of_any_format_is_answered_row_by_row(
    run: hortus.Run, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    stem = name.split(".")[1]
    text = {
        "csv": "id,text\n" + "".join(f"{n},{one}\n" for n, one in enumerate(QUESTIONS)),
        "tsv": "id\ttext\n" + "".join(f"{n}\t{one}\n" for n, one in enumerate(QUESTIONS)),
        "jsonl": "".join(
            json.dumps({"id": n, "text": one}) + "\n" for n, one in enumerate(QUESTIONS)
        ),
        "txt": "".join(f"{one}\n" for one in QUESTIONS),
    }[stem]
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    done = call("predict", run.directory, path, "--json")
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == labels(run)
    if stem != "txt":
        kept = call("predict", run.directory, path, "--keep", "id")
        assert [line.split("\t")[0] for line in kept.stdout.splitlines()] == ["0", "1", "2"]


def test_a_kept_column_does_not_pass_for_an_answer(run: hortus.Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": QUESTIONS[0], "label": "true one"}))
    done = call("predict", run.directory, path, "--json", "--keep", "label")
    answer = json.loads(done.stdout)
    assert (answer["row.label"], answer["label"]) == ("true one", labels(run)[0])


def test_a_reader_that_leaves_is_no_failure(
    run: hortus.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("hortus.cli.predict.echo_cells", closed)
    done = call("predict", run.directory, "red")
    assert "Broken pipe" not in done.output + done.stderr


@pytest.mark.parametrize("batch", ["1", "2", "64"])
def test_a_pipe_is_answered_line_by_line_whatever_the_batch(run: hortus.Run, batch: str) -> None:
    lines = "".join(f"{one}\n" for one in QUESTIONS)
    done = call("predict", run.directory, "--batch", batch, given=lines)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == labels(run)
    rows = "".join(json.dumps({"text": one}) + "\n" for one in QUESTIONS)
    by_row = call("predict", run.directory, "-", "--jsonl", "--batch", batch, given=rows)
    assert by_row.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (("missing.csv",), None, ("missing.csv", "no such file", "echo")),
        ((), "red\n\n", ("standard input, line 2", "empty")),
        ((), b"\xff\xfe\n", ("standard input, line 1", "UTF-8")),
        (("--jsonl",), "{}\n", ("standard input, line 1", "'text'")),
        (("--jsonl",), "[1]\n", ("standard input, line 1", "not a JSON object")),
        (("--jsonl",), "{\n", ("standard input, line 1", "malformed JSON")),
        (("red", "--which", "7"), None, ("rounds 1, 2 are kept",)),
        (("red", "--keep", "id"), None, ("no column 'id'",)),
        (("red", "--temperature", "-1"), None, ("temperature",)),
    ],
)
def test_what_cannot_be_answered_is_explained(
    run: hortus.Run, arguments: tuple[str, ...], given: Any, words: tuple[str, ...]
) -> None:
    done = call("predict", run.directory, *arguments, given=given)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output


def test_a_row_that_lacks_the_text_is_named(run: hortus.Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], ["red"], [" "]])
    done = call("predict", run.directory, path)
    assert done.exit_code == 2
    assert f"{path}, line 3" in done.output


def test_a_folder_without_a_run_is_explained(tmp_path: Path) -> None:
    assert (
        "there is no run in this folder, and no adapter" in call("predict", tmp_path, "red").output
    )


def test_a_language_model_writes_its_answers(talker: hortus.Run) -> None:
    expected = drawn(hortus.load(talker), "sky", 4)
    done = call("predict", talker.directory, "sky", *DRAWN, 4)
    assert done.output.rstrip("\n") == expected
    as_json = call("predict", talker.directory, "sky", *DRAWN, 4, "--json")
    assert json.loads(as_json.stdout) == {"answer": expected}


def test_a_conversation_through_a_pipe_has_a_memory(talker: hortus.Run) -> None:
    model = hortus.load(talker)
    first = drawn(model, "sky")
    messages = [
        {"role": "user", "content": "sky"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "rose"},
    ]
    second = drawn(model, messages)
    done = call("chat", talker.directory, *DRAWN, 3, given="sky\n\nrose\n")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{first}\n{second}\n"


def test_a_comparison_shows_both_models(talker: hortus.Run) -> None:
    model = hortus.load(talker)
    base, tuned = drawn(model, "sky", adapter=False), drawn(model, "sky")
    done = call("chat", talker.directory, "--compare", *DRAWN, 3, given="sky\n")
    assert done.stdout == f"base model:\n{base}\nfine-tuned:\n{tuned}\n"


def test_the_oldest_messages_give_way_to_an_answer(talker: hortus.Run) -> None:
    done = call("chat", talker.directory, *DRAWN, 20, given="sky\n" * 6)
    assert done.exit_code == 0, done.output
    assert "left out" in done.stderr


def test_a_classifier_does_not_chat(run: hortus.Run) -> None:
    done = call("chat", run.directory, given="sky\n")
    assert done.exit_code == 2
    assert "hortus predict has it answer" in done.output


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """Has a person at a terminal type lines."""
    left = iter(lines)

    def read(_: str = "") -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


def talk(
    talker: hortus.Run, monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]
) -> Result:
    typed(monkeypatch, *lines)
    monkeypatch.setattr(chat_module, "_is_typed", lambda: True)
    return call("chat", talker.directory, *DRAWN, 3)


def test_a_person_resets_and_leaves(talker: hortus.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn(hortus.load(talker), "sky")
    done = talk(talker, monkeypatch, "sky", "/reset", "sky", "/what", "", "/exit", "rose")
    assert done.exit_code == 0, done.output
    assert done.output.count(expected) == 2
    assert done.output.count("/reset forgets") == 2
    assert "The conversation is forgotten." in done.output


def test_ctrl_c_stops_an_answer_and_then_the_chat(
    talker: hortus.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Model.generate, []

    def interrupted(model: Model, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(model, *arguments, **options)

    monkeypatch.setattr(Model, "generate", interrupted)
    done = talk(talker, monkeypatch, "sky", "rose", KeyboardInterrupt)
    assert done.exit_code == 130
    assert "stopped" in done.output
    assert "Traceback" not in done.output


def test_what_a_model_writes_commands_nothing(
    talker: hortus.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "a\x1b[2J\u202eb\nc\x07"

    def writes(_: Model, *arguments: Any, **options: Any) -> Any:
        return iter([hostile[:3], hostile[3:]]) if options.get("stream") else hostile

    monkeypatch.setattr(Model, "generate", writes)
    monkeypatch.setattr(Model, "predict", lambda *_: [hostile])
    for done in (
        call("chat", talker.directory, given="sky\n"),
        call("predict", talker.directory, "sky"),
        call("predict", talker.directory, "sky", "--json"),
    ):
        assert done.exit_code == 0, done.output
        assert all(line.isprintable() for line in done.output.split("\n"))
