"""No file and no function is too long to be read in one go."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 50
GENERATED = ("aggregation_pb2.py", "aggregation_pb2_grpc.py")
# Functions that may be as long as this for now.
LONGER = {
    ("learning/models/tokens.py", "check_tokenizer"): 54,
}


def product() -> list[Path]:
    """Every module of the package but what protoc has generated."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = [name.split(".")[1:] for name in settings["tool"]["setuptools"]["packages"]]
    paths = (path for folder in folders for path in sorted(ROOT.joinpath(*folder).glob("*.py")))
    return [path for path in paths if path.name not in GENERATED]


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(source: str) -> list[tuple[str, int]]:
    """The functions of a module, nested ones included, and how many lines each has, all told."""
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_the_package_is_all_there() -> None:
    listed = {place(path.parent) for path in product()}
    top = {"tests", "benchmarks", "examples", "build", "runs"}
    found = {
        place(path.parent)
        for folder in ROOT.iterdir()
        if folder.is_dir() and folder.name not in top and not folder.name.startswith(".")
        for path in folder.rglob("*.py")
    }
    assert found <= listed, "packages in pyproject.toml"


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        place(path): lines
        for path in product()
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MOST_LINES
    }
    assert not long, "split them by what their parts mean"


def test_no_function_is_longer_than_50_lines() -> None:
    others = [
        path for top in ("tests", "benchmarks", "examples") for path in (ROOT / top).rglob("*.py")
    ]
    long = [
        f"{place(path)}: {name}: {lines}"
        for path in (*product(), *others)
        for name, lines in functions(path.read_text(encoding="utf-8"))
        if lines > LONGER.get((place(path), name), MOST_LINES_OF_A_FUNCTION)
    ]
    assert not long, "split them by what their parts mean"


@pytest.mark.parametrize(
    "source",
    ["def long():\n{body}", "async def long():\n{body}", "class A:\n  def long(self):\n{body}"],
)
def test_a_function_is_measured_wherever_it_stands(source: str) -> None:
    assert functions(source.format(body="    pass\n" * 60)) == [("long", 61)]
