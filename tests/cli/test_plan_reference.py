from pathlib import Path

from hortus.cli.plan_reference import reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_plan_reference_is_fresh() -> None:
    assert (DOCS / "plan.md").read_text() == reference(), "run: make docs"
