"""What docs/use.md shows is what works, in one process: each command would load PyTorch again."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hortus
from hortus.cli.main import app
from tests.conftest import write_tiny_plan
from tests.learning.exports.test_exports import trained

PAGE = (Path(__file__).parents[2] / "docs" / "use.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def call(line: str) -> None:
    """Runs a command, which may be given words through a pipe."""
    *before, command = line.split(" | ")
    said = shlex.split(before[0])[1] + "\n" if before else None
    program, *arguments = shlex.split(command)
    assert program == "hortus"
    done = CliRunner().invoke(app, arguments, input=said)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    assert done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("page")
    plan = hortus.Plan.load(write_tiny_plan(folder, tiny_model), ["training.rounds=1"])
    hortus.simulate(plan, out=folder / "runs" / "messages")
    made = trained(folder / "made", "chat").directory
    (folder / "runs" / "assistant").symlink_to(made)
    (folder / "questions.csv").write_text("id,text\n7,the sky is blue\n")
    return folder


def test_the_page_works_as_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 7
    for line in lines:
        call(line)
    for name in ("adapter", "merged", "onnx"):
        assert (folder / "exported" / name / "README.md").exists()


def test_its_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = blocks("python")
    exec(code, {})
