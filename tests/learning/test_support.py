"""docs/support.md says of every task and every family of models whether it works, and says it rightly."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.support import FAMILIES, cells, reason, rows

ROOT = Path(__file__).parents[2]
# What is known to be delicate: layers that are shared, ids that decide, two parts, heads of several layers.
SAMPLE = (
    ("text-classification, head: sentence", "ALBERT"),
    ("text-classification, head: sequence", "GPT-2"),
    ("text-classification, head: sequence", "BART"),
    ("token-classification", "ModernBERT"),
    ("token-classification", "Qwen 2"),  # whose tiny tokenizer leaves nothing of a text
    ("chat", "Gemma 3"),
    ("chat", "BERT"),
)


@pytest.fixture(scope="module")
def support() -> ModuleType:
    path = ROOT / "benchmarks" / "support.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("support_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh_and_no_cell_is_blank(support: ModuleType) -> None:
    found = support.read()
    assert list(found) == list(cells()), "run: python benchmarks/support.py"
    assert (ROOT / "docs" / "support.md").read_text() == support.page(found), "run: make docs"


@pytest.mark.parametrize(("task", "family"), SAMPLE, ids=str)
def test_a_cell_is_as_the_page_says(
    support: ModuleType, task: str, family: str, tmp_path: Path
) -> None:
    expected, _ = support.read()[task, family]
    assert reason(rows()[task], FAMILIES[family], tmp_path / "model") == expected
