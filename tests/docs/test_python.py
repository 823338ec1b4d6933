"""The Python that the documentation shows runs as it stands."""

import re
from pathlib import Path

import pytest

import hortus
from tests.conftest import PlanWriter

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_api_in_a_few_lines_that_run(
    write_plan: PlanWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan()
    monkeypatch.chdir(write_plan().parent)
    (shown,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len([line for line in shown.splitlines() if line.strip()]) <= 8
    exec(shown, {})
    printed = capsys.readouterr().out
    assert "round 2 of 2: accuracy " in printed
    assert hortus.Run.open("runs/tiny").metrics


def test_the_example_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec((ROOT / "examples" / "first_steps.py").read_text(encoding="utf-8"), {})
    printed = capsys.readouterr().out
    assert "round 4 of 4: accuracy " in printed
    assert "holds: " in printed
    assert "label='medication'" in printed
